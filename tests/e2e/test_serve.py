"""A published version, a real server process, and clients that are not ours."""

import json
import shutil
import socket
import urllib.error
import urllib.request

import numpy as np
import pytest

from tests.e2e.conftest import convzoo, serve
from zoo.artifact import GOLDEN, read_golden

pytestmark = [pytest.mark.e2e, pytest.mark.tensorflow]


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def post(url, body, timeout=10):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, data=data, method="POST"), timeout=timeout
        ) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def golden(published):
    inputs, outputs = read_golden(published.base_path / published.model / "1")
    return inputs["image"], outputs["probabilities"]


def test_rest_answers_in_row_and_in_column_form_what_keras_answered(server, published):
    image, probabilities = golden(published)
    url = f"{server.url}/v1/models/{published.model}:predict"
    status, row = post(url, {"instances": image[:4].tolist()})
    assert status == 200
    np.testing.assert_allclose(row["predictions"], probabilities[:4], atol=1e-5)
    status, column = post(url, {"inputs": {"image": image[:4].tolist()}})
    assert status == 200
    np.testing.assert_allclose(column["outputs"], probabilities[:4], atol=1e-5)


def test_rest_tells_status_and_metadata_as_tensorflow_serving_does(server, published):
    status = get(f"{server.url}/v1/models/{published.model}")
    assert status == {
        "model_version_status": [
            {
                "version": "1",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }
    metadata = get(f"{server.url}/v1/models/{published.model}/metadata")
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    assert signatures["serving_default"]["inputs"]["image"]["dtype"] == "DT_FLOAT"
    assert metadata["model_spec"] == {
        "name": published.model,
        "signature_name": "",
        "version": "1",
    }


def test_tensorflow_servings_own_stubs_are_answered_over_grpc(server, published):
    import grpc
    import tensorflow as tf
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )

    image, probabilities = golden(published)
    with grpc.insecure_channel(server.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = predict_pb2.PredictRequest()
        request.model_spec.name = published.model
        request.inputs["image"].CopyFrom(tf.make_tensor_proto(image[:4]))
        reply = stub.Predict(request, timeout=10)
        np.testing.assert_allclose(
            tf.make_ndarray(reply.outputs["probabilities"]), probabilities[:4], atol=1e-5
        )
        assert reply.model_spec.version.value == 1
        assert reply.model_spec.signature_name == "serving_default"

        asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        asked.model_spec.name = published.model
        told = stub.GetModelMetadata(asked, timeout=10)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        assert told.metadata["signature_def"].Unpack(signatures)
        assert signatures.signature_def["serving_default"].inputs["image"].dtype == 1

        models = model_service_pb2_grpc.ModelServiceStub(channel)
        asked = get_model_status_pb2.GetModelStatusRequest()
        asked.model_spec.name = published.model
        versions = models.GetModelStatus(asked, timeout=10).model_version_status
        assert [(each.version, each.state) for each in versions] == [(1, 30)]

        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == 1

        request.model_spec.name = "nobody"
        with pytest.raises(grpc.RpcError) as refused:
            stub.Predict(request, timeout=10)
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND


def test_the_typed_client_gives_the_same_answers_over_rest_and_grpc(server, published):
    from serving.client import Client

    image, probabilities = golden(published)
    files = sorted((published.run / "holdout").glob("*.png"))[:5]
    assert files
    with Client(server.url) as rest, Client(f"grpc://{server.grpc}") as grpc:
        for client in (rest, grpc):
            outputs = client.predict(published.model, image[:3])
            np.testing.assert_allclose(outputs["probabilities"], probabilities[:3], atol=1e-5)
        for file in files:
            by_rest = rest.classify(published.model, file, top_k=3)
            by_grpc = grpc.classify(published.model, file, top_k=3)
            assert by_rest.labels == by_grpc.labels
            assert len(by_rest.scores) == 3


def test_convzoo_predict_prints_labels_as_json(server, published):
    file = sorted((published.run / "holdout").glob("*.png"))[0]
    told = json.loads(
        convzoo("predict", published.model, file, "--url", server.url, "--json").stdout
    )
    assert str(file.name) in json.dumps(told)


def test_the_server_is_light_and_never_loads_tensorflow(server, published):
    image, _ = golden(published)
    url = f"{server.url}/v1/models/{published.model}:predict"
    for _ in range(20):
        assert post(url, {"instances": image[:8].tolist()})[0] == 200
    assert "site-packages/tensorflow/" not in server.mapped_libraries()
    assert server.memory_mb() < 200


def test_a_new_version_is_served_and_a_corrupt_one_is_refused_while_the_old_serves(
    published, tmp_path, poll
):
    base_path = tmp_path / "models"
    shutil.copytree(published.base_path, base_path)
    model_path = base_path / published.model
    image, _ = golden(published)
    with serve(base_path, tmp_path, "--poll-interval-s", "0.1") as server:
        url = f"{server.url}/v1/models/{published.model}"

        def states():
            return {
                each["version"]: (each["state"], each["status"]["error_message"])
                for each in get(url)["model_version_status"]
            }

        shutil.copytree(model_path / "1", model_path / ".incoming")
        (model_path / ".incoming").rename(model_path / "2")
        poll(lambda: states().get("2", ("",))[0] == "AVAILABLE")
        poll(lambda: states()["1"][0] == "END")

        shutil.copytree(model_path / "1", model_path / ".incoming")
        with (model_path / ".incoming" / GOLDEN).open("r+b") as file:
            file.seek(100)
            file.write(b"\xff\xff\xff\xff")
        (model_path / ".incoming").rename(model_path / "3")
        poll(lambda: states().get("3", ("",))[0] == "END")
        assert "golden.npz" in states()["3"][1]
        assert states()["2"][0] == "AVAILABLE"
        assert post(f"{url}:predict", {"instances": image[:1].tolist()})[0] == 200
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "JSON Parse error"),
        (b"{", "JSON Parse error"),
        ({"instances": [[1, 2], [3]]}, ""),
        ({"instances": []}, "No values in 'instances' array"),
        ({"inputs": {"picture": [1.0]}}, "Missing named input: image"),
        ({"instances": [[["x"]]]}, ""),
        ({"instances": [[[[0.0]] * 3] * 3]}, ""),
        ({"signature_name": "nothing", "instances": [1.0]}, "nothing"),
    ],
)
def test_bad_input_gets_a_clear_error_and_the_server_goes_on(server, published, body, text):
    image, _ = golden(published)
    url = f"{server.url}/v1/models/{published.model}:predict"
    status, told = post(url, body)
    assert status == 400
    assert text in told["error"]
    assert post(url, {"instances": image[:1].tolist()})[0] == 200


def test_an_unknown_model_is_not_found(server):
    status, told = post(f"{server.url}/v1/models/nobody:predict", {"instances": [1.0]})
    assert status == 404
    assert "nobody" in told["error"]


def test_sigterm_drains_and_exits_with_0(server):
    assert server.stop() == 0


def test_a_port_in_use_is_a_clear_error(published):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = convzoo(
            *("serve", "--base-path", published.base_path, "--rest-port", port),
            *("--grpc-port", 0),
            check=False,
            timeout=60,
        )
    assert done.returncode == 2
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_base_path_is_a_clear_error(tmp_path):
    done = convzoo("serve", "--base-path", tmp_path / "nowhere", check=False, timeout=60)
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr
