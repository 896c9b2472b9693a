"""SavedModels that convzoo did not publish: they run on TensorFlow, beside the server."""

import json
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest

from serving.client import Client
from serving.messages import PredictCall, Target
from serving.wire import tfs_proto
from tests.e2e.conftest import serve
from tests.e2e.test_serve import get, post

pytestmark = [pytest.mark.e2e, pytest.mark.tensorflow]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> Path:
    """Two signatures, strings in and out, fixed and free shapes: made with TensorFlow alone."""
    import tensorflow as tf

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
        def shout(self, text):
            return {"loud": tf.strings.upper(text), "length": tf.strings.length(text)}

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 2], tf.float32, name="a"),
                tf.TensorSpec([], tf.int64, name="times"),
            ]
        )
        def scale(self, a, times):
            return {"scaled": a * tf.cast(times, tf.float32)}

        @tf.function(input_signature=[tf.TensorSpec([], tf.int64, name="steps")])
        def count(self, steps):
            (counted,) = tf.while_loop(
                lambda n: n < steps, lambda n: (n + 1,), [tf.zeros_like(steps)]
            )
            return {"counted": counted}

        @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name=n) for n in "pq"])
        def product(self, p=tf.constant(2.0), q=tf.constant(3.0)):  # noqa: B008 - as TensorFlow wants it
            return {"product": p * q}

    module = Module()
    base_path = tmp_path_factory.mktemp("foreign") / "models"
    tf.saved_model.save(
        module,
        str(base_path / "half" / "00000003"),
        {
            "serving_default": module.scale,
            "shout": module.shout,
            "count": module.count,
            "product": module.product,
        },
    )
    return base_path


def test_a_foreign_saved_model_is_served_and_survives_its_workers_death(foreign, tmp_path):
    with serve(foreign, tmp_path) as server:
        url = f"{server.url}/v1/models/half"
        assert get(url)["model_version_status"][0]["version"] == "3"
        signatures = get(f"{url}/metadata")["metadata"]["signature_def"]["signature_def"]
        assert signatures["shout"]["inputs"]["text"]["dtype"] == "DT_STRING"
        assert "site-packages/tensorflow/" not in server.mapped_libraries()

        body = {"inputs": {"a": [[1, 2], [3, 4]], "times": 3}}
        assert post(f"{url}:predict", body) == (200, {"outputs": [[3.0, 6.0], [9.0, 12.0]]})
        body = {"signature_name": "shout", "instances": ["ab", {"b64": "Yw=="}]}
        status, answer = post(f"{url}:predict", body)
        assert status == 200
        assert answer["predictions"] == [{"loud": "AB", "length": 2}, {"loud": "C", "length": 1}]
        status, answer = post(f"{url}:predict", {"inputs": {"a": [[1, 2, 3]], "times": 3}})
        assert (status, "[N, 2]" in answer["error"]) == (400, True)

        with grpc.insecure_channel(server.grpc) as channel:
            predict = channel.unary_unary(tfs_proto.PREDICT)
            for inputs, product in (({"p": 5}, 15), ({}, 6), ({"p": 5, "q": 7}, 35)):
                sent = {name: np.float32(value) for name, value in inputs.items()}
                call = PredictCall(Target("half"), sent, "product")
                answer = predict(tfs_proto.encode_predict_request(call), timeout=30)
                assert tfs_proto.decode_predict_reply(answer).outputs["product"] == product
        assert signatures["product"]["defaults"]["q"]["float_val"] == [3.0]
        for at in (server.url, f"grpc://{server.grpc}"):
            for protocol in ("native", "tfs"):
                with Client(at, protocol=protocol) as client:
                    assert client.metadata("half").signatures["product"].defaults["q"] == 3
                    for sent, product in (({"p": 5.0}, 15), ({}, 6), ({"p": 5.0, "q": 7.0}, 35)):
                        answer = client.predict("half", sent, signature="product")
                        assert answer.array == product

        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(server.process.pid)],
            capture_output=True,
            text=True,
            check=True,
        )
        (worker,) = map(int, children.stdout.split())
        subprocess.run(["kill", f"-{signal.SIGKILL.value}", str(worker)], check=True)
        body = {"inputs": {"a": [[1, 2]], "times": 3}}
        status, answer = post(f"{url}:predict", body)
        assert status == 500
        assert "worker died" in answer["error"]
        assert post(f"{url}:predict", body, timeout=120)[0] == 200
        assert server.stop() == 0


def test_the_server_stops_while_a_graph_runs_that_nobody_waits_for(foreign, tmp_path):
    with serve(foreign, tmp_path, "--drain-limit-s", 3) as server:
        asked = urllib.request.Request(
            f"{server.url}/v1/models/half:predict",
            data=json.dumps({"signature_name": "count", "inputs": {"steps": 10**9}}).encode(),
            headers={"x-request-timeout-s": "1"},
        )
        with pytest.raises(urllib.error.HTTPError) as late:
            urllib.request.urlopen(asked, timeout=10)
        with late.value as answer:
            assert answer.code == 504
            assert "while the model ran" in json.load(answer)["error"]
        assert server.stop() == 0


def test_an_engine_that_cannot_run_it_says_so(foreign, tmp_path):
    with serve(foreign, tmp_path, "--engine", "openvino") as server:
        (version,) = get(f"{server.url}/v1/models/half")["model_version_status"]
        assert version["state"] == "END"
        assert "no manifest" in version["status"]["error_message"]
        status, answer = post(f"{server.url}/v1/models/half:predict", {"inputs": 1})
        assert status == 404
        assert "no manifest" in json.dumps(answer)


def test_tensorflow_gives_the_same_answers_as_openvino(published, tmp_path):
    from zoo.artifact import read_golden

    inputs, outputs = read_golden(published.base_path / published.model / "1")
    with serve(published.base_path, tmp_path, "--engine", "tensorflow") as server:
        body = {"instances": inputs["image"].tolist()}
        status, answer = post(f"{server.url}/v1/models/{published.model}:predict", body)
        assert status == 200
        np.testing.assert_allclose(answer["predictions"], outputs["probabilities"], atol=1e-5)
