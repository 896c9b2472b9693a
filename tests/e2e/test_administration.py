"""A real server is administered by TensorFlow Serving's own stubs, by files and by its old flags."""

import contextlib
import json
import shutil
import signal
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import text_format

from serving.messages import PredictCall, Target
from serving.wire import tfs_proto
from serving.wire.pool import message
from tests.e2e.conftest import convzoo, free_port, serve, serve_light
from tests.serving.published import logits_of, publish_tiny, softmax
from zoo.artifact import (
    MANIFEST,
    WARMUP,
    FileRecord,
    file_sha256,
    read_golden,
    read_manifest,
    write_golden,
)

pytestmark = [pytest.mark.e2e, pytest.mark.openvino]

IMAGE = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 2, 2, 1)
PREDICT = "/tensorflow.serving.PredictionService/Predict"
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"


def fetch(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=20) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)


@pytest.fixture
def models(tmp_path):
    base_path = tmp_path / "models"
    for scale in (1.0, 2.0):
        publish_tiny(base_path, scale=scale)
    return base_path


def listed(models, *, specific=(), labels=None, name="tiny"):
    versions = " ".join(f"versions: {each}" for each in specific)
    policy = f"model_version_policy {{ specific {{ {versions} }} }}" if specific else ""
    pairs = "".join(
        f'version_labels {{ key: "{key}" value: {value} }} '
        for key, value in (labels or {}).items()
    )
    return (
        f'model_config_list {{ config {{ name: "{name}" base_path: "{models / "tiny"}" '
        f'model_platform: "tensorflow" {policy} {pairs} }} }}'
    )


@pytest.mark.tensorflow
def test_tensorflow_servings_own_stub_replaces_the_configuration(models, tmp_path):
    from tensorflow_serving.apis import (
        get_model_status_pb2,
        model_management_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )

    def config(**how):
        request = model_management_pb2.ReloadConfigRequest()
        text_format.Parse(listed(models, **how), request.config)
        return request

    with serve(models, tmp_path) as server, grpc.insecure_channel(server.grpc) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel)

        def versions():
            asked = get_model_status_pb2.GetModelStatusRequest()
            asked.model_spec.name = "tiny"
            found = stub.GetModelStatus(asked, timeout=10).model_version_status
            return {each.version for each in found if each.state == each.AVAILABLE}

        assert versions() == {2}
        answer = stub.HandleReloadConfigRequest(
            config(specific=(1, 2), labels={"stable": 1, "canary": 2}), timeout=30
        )
        assert answer.status.error_code == 0
        assert versions() == {1, 2}
        request = predict_pb2.PredictRequest.FromString(
            tfs_proto.encode_predict_request(
                PredictCall(Target("tiny", label="stable"), {"image": IMAGE})
            )
        )
        assert predict.Predict(request, timeout=10).model_spec.version.value == 1
        for wrong, code in (
            (config(specific=(1, 2), labels={"stable": 9}), grpc.StatusCode.FAILED_PRECONDITION),
            (model_management_pb2.ReloadConfigRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                stub.HandleReloadConfigRequest(wrong, timeout=10)
            assert refused.value.code() == code
        assert predict.Predict(request, timeout=10).model_spec.version.value == 1
        missing = config(name="other")
        missing.config.model_config_list.config[0].base_path = str(tmp_path / "nowhere")
        with pytest.raises(grpc.RpcError) as refused:
            stub.HandleReloadConfigRequest(missing, timeout=10)
        assert refused.value.code() == grpc.StatusCode.UNKNOWN
        assert "other" in refused.value.details()
        stub.HandleReloadConfigRequest(config(specific=(1,)), timeout=30)
        assert versions() == {1}
        assert server.stop() == 0


def test_the_old_command_line_serves_as_it_stands(models, tmp_path, poll):
    config, batching = tmp_path / "models.config", tmp_path / "batching.config"
    monitoring = tmp_path / "monitoring.config"
    config.write_text(listed(models, specific=(1,), labels={"stable": 1}))
    batching.write_text("max_batch_size { value: 4 } allowed_batch_sizes: 4")
    monitoring.write_text('prometheus_config { enable: true path: "/prom" }')
    rest, port = free_port(), free_port()
    with serve(
        None,
        tmp_path,
        *("--tfs-compat", f"--port={port}", f"--rest_api_port={rest}"),
        *(f"--model_config_file={config}", "--model_config_file_poll_wait_seconds=1"),
        *("--enable_batching=true", f"--batching_parameters_file={batching}"),
        *(f"--monitoring_config_file={monitoring}", "--rest_api_enable_cors_support"),
        *("--tensorflow_intra_op_parallelism=2", "--flush_filesystem_caches=true"),
    ) as server:
        assert (server.rest_port, server.grpc_port) == (rest, port)
        url = f"http://127.0.0.1:{rest}/v1/models/tiny"
        status, text, headers = fetch(f"{url}/labels/stable:predict", {"instances": IMAGE.tolist()})
        assert status == 200
        np.testing.assert_allclose(
            json.loads(text)["predictions"], softmax(logits_of(IMAGE)), atol=1e-5
        )
        assert headers["access-control-allow-origin"] == "*"
        status, text, _ = fetch(f"http://127.0.0.1:{rest}/prom")
        assert ':tensorflow:serving:request_count{model_name="tiny",status="OK"} 1' in text
        assert ':tensorflow:serving:request_latency_count{model_name="tiny",API="predict"' in text
        assert "--tensorflow_intra_op_parallelism changes nothing" in server.log.read_text()

        # A file that is wrong changes nothing; the next one is served.
        config.write_text("model_config_list { nonsense }")
        poll(lambda: "is not served as it stands" in server.log.read_text())
        assert fetch(f"{url}/versions/1:predict", {"instances": IMAGE.tolist()})[0] == 200
        config.write_text(listed(models, specific=(2,), labels={"stable": 2}))
        poll(lambda: json.loads(fetch(url)[1])["model_version_status"][0]["version"] == "2")
        poll(lambda: fetch(f"{url}/labels/stable:predict", {"instances": IMAGE.tolist()})[0] == 200)
        assert server.stop() == 0


def test_a_flag_that_is_none_is_named_on_one_line():
    done = convzoo("serve", "--tfs-compat", "--model_base_pth=/x", check=False, timeout=60)
    assert done.returncode == 2
    assert "Did you mean '--model_base_path'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_warm_up_file_is_replayed_and_a_bad_one_refuses_the_version(models, tmp_path, poll):
    place = models / "tiny"
    shutil.copytree(place / "2", place / ".next")
    (place / ".next" / WARMUP).parent.mkdir(exist_ok=True)
    (place / ".next" / WARMUP).write_bytes(b"no record")
    with serve(models, tmp_path, "--poll-interval-s", "0.1") as server:
        (place / ".next").rename(place / "3")
        url = f"{server.url}/v1/models/tiny"

        def state():
            found = json.loads(fetch(url)[1])["model_version_status"]
            return {each["version"]: each for each in found}.get("3", {"state": ""})

        poll(lambda: state()["state"] == "END")
        assert "tf_serving_warmup_requests" in state()["status"]["error_message"]
        assert fetch(f"{url}:predict", {"instances": IMAGE.tolist()})[0] == 200


def test_a_dry_run_says_what_would_be_loaded_at_what_cost(models, tmp_path):
    from zoo.artifact import write_labels

    write_labels(models / "tiny", {"stable": 1})
    done = convzoo("serve", "--base-path", models, "--dry-run", "--json", timeout=60)
    told = json.loads(done.stdout)
    found = {each["version"]: each for each in told["versions"]}
    assert set(found) == {1, 2}
    assert found[1]["labels"] == ["stable"]
    assert found[2]["engine"] == "openvino"
    assert set(found[2]["batch_seconds"]) >= {"1", "2"}
    assert found[2]["max_batch_rows"] >= 1
    assert told["limits"]["images"] == 256
    assert told["process_bytes"] > 10e6
    text = convzoo("serve", "--base-path", models, "--dry-run", timeout=60).stdout
    assert "tiny version 2" in text
    assert "as measured earlier" in text
    (models / "tiny" / "2" / "assets.extra/convzoo/golden.npz").unlink()
    done = convzoo("serve", "--base-path", models, "--dry-run", check=False, timeout=60)
    assert done.returncode == 3
    assert "golden.npz is missing" in done.stdout


# --- Under load ---------------------------------------------------------------------------------


class Load:
    """Callers that never pause; what is not the answer expected is kept."""

    def __init__(self, server, is_answer):
        self.server = server
        self.is_answer = is_answer
        self.stop = threading.Event()
        self.answered = [0, 0]
        self.wrong = []

    def _grpc(self):
        request = tfs_proto.encode_predict_request(PredictCall(Target("tiny"), {"image": IMAGE}))
        with grpc.insecure_channel(
            self.server.grpc, options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            call = channel.unary_unary(PREDICT)
            while not self.stop.is_set():
                try:
                    reply = tfs_proto.decode_predict_reply(call(request, timeout=20))
                except grpc.RpcError as error:
                    self.wrong.append(f"{error.code()}: {error.details()}")
                    continue
                self.answered[0] += 1
                if not self.is_answer(reply.version, reply.outputs["probabilities"]):
                    self.wrong.append(f"version {reply.version}: {reply.outputs}")

    def _rest(self):
        from http.client import HTTPConnection, HTTPException

        body = json.dumps({"instances": IMAGE.tolist()})
        with contextlib.closing(
            HTTPConnection("127.0.0.1", self.server.rest_port, timeout=20)
        ) as connection:
            while not self.stop.is_set():
                try:
                    connection.request("POST", "/v1/models/tiny:predict", body)
                    answer = connection.getresponse()
                    text = answer.read()
                except (OSError, HTTPException) as error:
                    self.wrong.append(repr(error))
                    break
                self.answered[1] += 1
                if answer.status != 200 or not self.is_answer(
                    None, json.loads(text)["predictions"]
                ):
                    self.wrong.append(f"{answer.status}: {text!r}")

    @contextmanager
    def running(self):
        threads = [
            threading.Thread(target=each, daemon=True) for each in (self._grpc, self._rest) * 2
        ]
        for each in threads:
            each.start()
        try:
            yield self
        finally:
            self.stop.set()
            for each in threads:
                each.join(30)


def is_answer_of_tiny(version, found):
    """Whether the network of version 1 or 2 would have answered so."""
    versions = [version] if version else [1, 2]
    return any(np.allclose(found, softmax(logits_of(IMAGE, each)), atol=1e-5) for each in versions)


def reload_request(models, version):
    request = message("tensorflow.serving.ReloadConfigRequest")()
    text_format.Parse(listed(models, specific=(version,)), request.config)
    return request.SerializeToString()


# The whole server with a light engine changes a thousand times; with OpenVINO, which compiles each
# time, as often as a test may take.
@pytest.mark.parametrize(("engine", "changes"), [("light", 1000), ("openvino", 10)])
def test_a_thousand_changes_of_version_under_load_fail_not_one_request(
    models, tmp_path, engine, changes
):
    bodies = [reload_request(models, 1), reload_request(models, 2)]
    start = serve_light if engine == "light" else serve
    with (
        start(models, tmp_path, "--no-tune") as server,
        Load(server, is_answer_of_tiny).running() as load,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        change = channel.unary_unary(RELOAD)
        for number in range(changes):
            change(bodies[number % 2], timeout=30)
        log = server.log.read_text()
    assert load.wrong == []
    assert min(load.answered) > 50
    assert log.count("version 1 serves on") >= changes // 2
    assert log.count("version 2 serves on") >= changes // 2


# --- Stopping -------------------------------------------------------------------------------------


def test_sigterm_finishes_what_has_begun_and_refuses_what_comes_with_its_code(tmp_path):
    base_path = tmp_path / "models"
    publish_tiny(base_path, "slow")
    body = {"instances": IMAGE.tolist()}
    request = tfs_proto.encode_predict_request(PredictCall(Target("slow"), {"image": IMAGE}))
    with (
        serve_light(base_path, tmp_path, "--no-tune", "--max-batch-rows", "2") as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        url = f"{server.url}/v1/models/slow:predict"
        call = channel.unary_unary(PREDICT)
        call(request, timeout=20)
        began = []
        callers = [
            threading.Thread(target=lambda: began.append(fetch(url, body)), daemon=True)
            for _ in range(4)
        ]
        for each in callers:
            each.start()
        while "convzoo_requests_active 4.0" not in fetch(f"{server.url}/metrics")[1]:
            time.sleep(0.005)
        server.process.send_signal(signal.SIGTERM)
        while fetch(f"{server.url}/readyz")[0] == 200:
            time.sleep(0.001)
        status, text, headers = fetch(url, body)
        assert (status, "stopping" in text) == (503, True)
        assert int(headers["retry-after"]) >= 1
        with pytest.raises(grpc.RpcError) as refused:
            call(request, timeout=20)
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "stopping" in refused.value.details()
        for each in callers:
            each.join(30)
        assert [status for status, _, _ in began] == [200] * 4
        assert server.process.wait(30) == 0


def test_draining_ends_at_its_limit(tmp_path):
    base_path = tmp_path / "models"
    publish_tiny(base_path, "slow")
    with serve_light(
        base_path,
        tmp_path,
        *("--no-tune", "--max-batch-rows", "2", "--drain-limit-s", "0.5"),
    ) as server:
        url = f"{server.url}/v1/models/slow:predict"
        answers = []

        def ask():
            with contextlib.suppress(OSError):
                answers.append(fetch(url, {"instances": IMAGE.tolist()})[0])

        callers = [threading.Thread(target=ask, daemon=True) for _ in range(12)]
        for each in callers:
            each.start()
        while "convzoo_requests_active 12.0" not in fetch(f"{server.url}/metrics")[1]:
            time.sleep(0.005)
        assert server.stop() == 0
        for each in callers:
            each.join(20)
        # All of them would have taken 3.6 s.
        assert answers.count(200) < 12


# --- Memory ---------------------------------------------------------------------------------------


def publish_large(base_path):
    """A network with 40 million weights, 160 MB; it is made and forgotten here."""
    import openvino as ov
    from openvino import opset13 as ops

    from tests.serving.published import FP32

    place = publish_tiny(base_path, "large")
    rng = np.random.default_rng(0)
    image = ops.parameter([-1, 2, 2, 1], np.float32, name="image")
    flat = ops.reshape(image, np.array([-1, 4]), special_zero=False)
    grown = ops.matmul(flat, ops.constant(np.ones((4, 6300), np.float32)), False, False)
    square = ops.constant(rng.standard_normal((6300, 6300), dtype=np.float32))
    grown = ops.matmul(grown, square, False, False)
    logits = ops.matmul(grown, ops.constant(np.ones((6300, 3), np.float32)), False, False)
    image.output(0).get_tensor().set_names({"image"})
    logits.output(0).get_tensor().set_names({"logits"})
    network = ov.Model([logits, ops.softmax(logits, axis=1)], [image], "large")
    network.outputs[1].get_tensor().set_names({"probabilities"})
    ov.save_model(network, place / FP32, compress_to_fp16=False)
    inputs, _ = read_golden(place)
    compiled = ov.Core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    expected = compiled(inputs)[0]
    write_golden(place, inputs, {"logits": expected, "probabilities": softmax(expected)})
    # The manifest says what the files are, so it is written anew.
    manifest = read_manifest(place)
    files = {
        name: FileRecord(bytes=(place / name).stat().st_size, sha256=file_sha256(place / name))
        for name in manifest.files
    }
    (place / MANIFEST).write_text(manifest.model_copy(update={"files": files}).model_dump_json())


def test_an_unloaded_version_gives_its_memory_back(tmp_path, poll):
    base_path = tmp_path / "models"
    publish_tiny(base_path)
    publish_large(base_path)
    with serve(base_path, tmp_path, "--no-tune") as server:

        def resident_mb():
            status = Path(f"/proc/{server.process.pid}/status").read_text()
            line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
            return int(line.split()[1]) / 1024

        loaded = resident_mb()
        assert fetch(f"{server.url}/v2/repository/models/large/unload", {})[0] == 200
        poll(lambda: resident_mb() < loaded - 100)
        assert fetch(f"{server.url}/v2/repository/models/large/load", {})[0] == 200
        # Loading and unloading again does not pile up.
        assert fetch(f"{server.url}/v2/repository/models/large/unload", {})[0] == 200
        poll(lambda: resident_mb() < loaded - 100)
        assert server.stop() == 0
