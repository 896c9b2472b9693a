"""TensorFlow Serving's TLS and its Unix socket, as its own stubs and flags have them."""

import grpc
import numpy as np
import pytest

from tests.e2e.conftest import convzoo, free_port, serve
from tests.serving.published import logits_of, publish_tiny, softmax

pytestmark = [pytest.mark.e2e, pytest.mark.openvino, pytest.mark.tensorflow]

IMAGE = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 2, 2, 1)
NAME = [("grpc.ssl_target_name_override", "model.test")]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    base_path = tmp_path_factory.mktemp("models")
    publish_tiny(base_path)
    return base_path


def ssl_config(place, **texts):
    """TensorFlow Serving's SSLConfig; each text is a file's, as text protos write it."""
    lines = [f"{name}: {_quoted(text)}" for name, text in texts.items()]
    file = place / "ssl.config"
    file.write_text("\n".join(lines))
    return file


def _quoted(value):
    return "true" if value is True else '"' + value.replace("\n", r"\n") + '"'


def flags(models, *more):
    return ("--tfs-compat", "--model_name=tiny", f"--model_base_path={models / 'tiny'}", *more)


def predict(channel):
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "tiny"
    tensor = request.inputs["image"]
    tensor.dtype = 1
    for size in IMAGE.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.float_val.extend(IMAGE.ravel().tolist())
    answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=10)
    return np.reshape(answer.outputs["probabilities"].float_val, (2, 3))


def status(channel):
    from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "tiny"
    answer = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=10)
    return [each.version for each in answer.model_version_status]


def credentials(certificates, client=None, authority="ca"):
    def read(name):
        return (certificates / name).read_bytes()

    own = (read(f"{client}.key"), read(f"{client}.pem")) if client else ()
    return grpc.ssl_channel_credentials(read(f"{authority}.pem"), *own)


def refused(channel):
    with channel, pytest.raises(grpc.RpcError) as error:
        status(channel)
    return error.value.code() == grpc.StatusCode.UNAVAILABLE


def test_only_clients_with_a_certificate_are_let_in_on_port_and_socket(
    models, certificates, tmp_path
):
    pem = {path.name: path.read_text() for path in certificates.iterdir()}
    config = ssl_config(
        tmp_path,
        server_key=pem["server.key"],
        server_cert=pem["server.pem"],
        custom_ca=pem["ca.pem"],
        client_verify=True,
    )
    socket = tmp_path / "grpc.sock"
    port = free_port()
    more = (f"--port={port}", f"--ssl_config_file={config}", f"--grpc_socket_path={socket}")
    with serve(None, tmp_path, *flags(models, *more)) as server:
        for target in (f"127.0.0.1:{port}", f"unix:{socket}"):
            known = credentials(certificates, "client")
            with grpc.secure_channel(target, known, NAME) as channel:
                np.testing.assert_allclose(predict(channel), softmax(logits_of(IMAGE)), atol=1e-5)
                assert status(channel) == [1]
            stranger = credentials(certificates, "other")
            mistrusting = credentials(certificates, "client", authority="other")
            assert refused(grpc.insecure_channel(target))
            assert refused(grpc.secure_channel(target, credentials(certificates), NAME))
            assert refused(grpc.secure_channel(target, stranger, NAME))
            assert refused(grpc.secure_channel(target, mistrusting, NAME))
            with grpc.secure_channel(target, known, NAME) as channel:
                assert status(channel) == [1]
        assert server.stop() == 0
        assert "Traceback" not in server.log.read_text()


def test_without_client_verify_nobody_is_asked_for_a_certificate(models, certificates, tmp_path):
    pem = {path.name: path.read_text() for path in certificates.iterdir()}
    config = ssl_config(
        tmp_path,
        server_key=pem["server.key"],
        server_cert=pem["server.pem"],
        custom_ca=pem["ca.pem"],
    )
    port = free_port()
    more = (f"--port={port}", f"--ssl_config_file={config}")
    with serve(None, tmp_path, *flags(models, *more)) as server:
        for client in (None, "client", "other"):
            shown = credentials(certificates, client)
            with grpc.secure_channel(f"127.0.0.1:{port}", shown, NAME) as channel:
                assert status(channel) == [1]
        assert server.stop() == 0


def test_a_socket_alone_is_enough_and_is_taken_away_at_the_end(models, tmp_path):
    socket = tmp_path / "grpc.sock"
    more = ("--port=0", f"--grpc_socket_path={socket}")
    with serve(None, tmp_path, *flags(models, *more)) as server:
        assert server.grpc_port is None
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            np.testing.assert_allclose(predict(channel), softmax(logits_of(IMAGE)), atol=1e-5)
        assert server.stop() == 0
    assert not socket.exists()


def test_a_key_that_belongs_to_another_certificate_is_told_on_one_line(
    models, certificates, tmp_path
):
    pem = {path.name: path.read_text() for path in certificates.iterdir()}
    config = ssl_config(tmp_path, server_key=pem["client.key"], server_cert=pem["server.pem"])
    port = free_port()
    more = (f"--port={port}", f"--ssl_config_file={config}")
    done = convzoo("serve", *flags(models, *more), check=False, timeout=60)
    assert done.returncode == 2
    assert "The key (server_key) belongs to another certificate." in done.stderr
    assert "Traceback" not in done.stderr
