"""Every protocol that the client speaks, asked of one real server; and servers that answer oddly."""

import json
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
import pytest

from serving.client import Client, Retries
from serving.client.dialects import dialect
from serving.client.errors import (
    AnswerError,
    AuthenticationError,
    InvalidInputError,
    ModelNotFoundError,
    OverloadedError,
    UnsupportedError,
    UsageError,
)
from serving.client.exchange import Reply
from serving.client.failures import grpc_error
from serving.client.results import Framing
from serving.client.testing import FakeServer
from serving.errors import InvalidRequestError
from serving.messages import (
    ClassifyImagesReply,
    ExplainReply,
    LabelScore,
    LayerRecord,
    LayersReply,
    MethodRecord,
    ModelMetadata,
    ModelStatus,
    PredictCall,
    Target,
    TensorSpec,
    VersionState,
    VersionStatus,
)
from serving.messages import Framing as WireFraming
from serving.messages import Signature as WireSignature
from serving.wire import native_json, oip_json, oip_proto, tfs_json
from serving.wire.codes import CODE_NUMBERS
from serving.wire.explain_json import encode_layers, encode_reply
from tests.serving.published import logits_of, softmax

IMAGE = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 2, 2, 1)
PIXELS = np.array([[0, 255], [100, 0]], np.uint8)
PROTOCOLS = ("auto", "native", "oip", "tfs")

served = pytest.mark.openvino


@pytest.fixture(params=[f"{kind}-{name}" for kind in ("http", "grpc") for name in PROTOCOLS])
def spoken(request, tiny_server):
    kind, _, protocol = request.param.partition("-")
    url = tiny_server.url if kind == "http" else f"grpc://{tiny_server.grpc}"
    with Client(url, protocol=protocol, timeout_s=10) as client:
        yield protocol, client


@served
def test_every_protocol_gives_the_same_answers(spoken):
    _, client = spoken
    client.wait_until_ready()
    client.wait_until_ready("tiny")
    found = client.predict("tiny", IMAGE)
    np.testing.assert_allclose(found["probabilities"], softmax(logits_of(IMAGE, 2.0)), atol=1e-6)
    assert (found.model, found.signature) == ("tiny", "serving_default")
    older = client.predict("tiny", {"image": IMAGE}, version=1, outputs=["probabilities"])
    np.testing.assert_allclose(older.array, softmax(logits_of(IMAGE)), atol=1e-6)
    assert older.array.dtype == np.float32
    status = client.status("tiny")
    assert [(each.version, each.state) for each in status.versions] == [
        (2, "AVAILABLE"),
        (1, "AVAILABLE"),
    ]
    metadata = client.metadata("tiny")
    assert metadata.version == 2
    assert metadata.signatures["serving_default"].inputs["image"].dtype == "float32"
    with pytest.raises(ModelNotFoundError, match="huge"):
        client.predict("huge", IMAGE)
    with pytest.raises(ModelNotFoundError):
        client.status("huge")


@served
def test_what_a_protocol_has_no_word_for_is_refused_here(spoken):
    protocol, client = spoken
    if protocol in ("auto", "native"):
        assert client.classify("tiny", PIXELS).label == "bee"
    else:
        with pytest.raises(UnsupportedError, match="takes tensors, not images"):
            client.classify("tiny", PIXELS)
    if protocol == "tfs":
        with pytest.raises(UnsupportedError, match="no list of models"):
            client.models()
    else:
        assert client.models() == ("tiny",)
    if protocol == "oip":
        with pytest.raises(UnsupportedError, match="no version labels"):
            client.predict("tiny", IMAGE, label="stable")
    else:
        found = client.predict("tiny", IMAGE, label="stable")
        np.testing.assert_allclose(found.array, softmax(logits_of(IMAGE)), atol=1e-6)
        with pytest.raises(ModelNotFoundError, match="no version label 'q'"):
            client.predict("tiny", IMAGE, label="q")
        with pytest.raises(ModelNotFoundError, match="no version label 'q'"):
            client.metadata("tiny", label="q")
    if protocol in ("auto", "native"):
        with pytest.raises(ModelNotFoundError, match="no version label 'q'") as refused:
            client.classify("tiny", PIXELS, label="q")
        assert refused.value.known == ("tiny",)
    with pytest.raises(UnsupportedError):
        client.load("tiny")
    with pytest.raises(UnsupportedError):
        client.unload("tiny")


@served
def test_numbers_that_json_has_no_word_for_come_back(tiny_server):
    image = np.full((1, 2, 2, 1), np.nan, np.float32)
    with Client(tiny_server.url) as client:
        assert np.isnan(client.predict("tiny", image).array).all()


def test_a_label_that_tensorflow_serving_does_not_know_is_no_fault_of_the_input(foreign):
    words = "Unrecognized servable version label: q"
    foreign.pages = {"/v1/models/m/labels/q/metadata": (400, {"error": words})}
    with pytest.raises(ModelNotFoundError, match=words) as refused:
        foreign.client.metadata("m", label="q")
    assert refused.value.status == "400"


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "grpc://127.0.0.1:9"])
def test_what_has_no_word_carries_the_facts_of_its_call(url):
    with Client(url, protocol="tfs") as client:
        for ask, model in (
            (client.models, ""),
            (lambda: client.load("m"), "m"),
            (lambda: client.unload("m"), "m"),
            (lambda: client.layers("m"), "m"),
        ):
            with pytest.raises(UnsupportedError) as refused:
                ask()
            assert (refused.value.url, refused.value.model) == (url, model)
    with Client(url, protocol="tfs") as client, pytest.raises(UsageError) as wrong:
        client.status("m", timeout_s=-1)
    assert (wrong.value.url, wrong.value.model) == (url, "m")


class Later:
    """A transport to a server of a later release, which tells more of everything."""

    def __init__(self, documents):
        self.documents = documents

    def send(self, step):
        path = step.request.path.partition("?")[0]
        document = self.documents[path.rpartition("/")[2]]
        return Reply(200, json.dumps(document).encode(), {"x-convzoo-outcome": "cached"})

    def close(self):
        pass


KEYED_BY_NAME = ("signature_def", "inputs", "outputs", "defaults", "arrays", "facts", "options")


def _more(document, name=""):
    if isinstance(document, list):
        return [_more(each) for each in document]
    if not isinstance(document, dict):
        return document
    told = {key: _more(each, key) for key, each in document.items()}
    return told if name in KEYED_BY_NAME else told | {"told_later": [1]}


def test_all_that_the_server_tells_is_there_and_what_a_later_one_adds_does_no_harm():
    labels, shape = ("ant", "bee"), (2, 2, 1)
    inputs = {"q": TensorSpec("q", "float32", (2,), "q:0")}
    called = "tensorflow/serving/predict"
    signature = WireSignature("product", inputs, inputs, called, {"q": np.float32([1, 2])})
    layers = LayersReply(
        "m", 3, labels, shape, "bgr", None,
        (LayerRecord("conv1", "Conv2D", shape, ("image",), ("filters",)),),
        (MethodRecord("filters", "Filters", "k2012", True, True, False, False, {}),),
        WireFraming(28, 20, True),
    )  # fmt: skip
    status = ModelStatus("m", (VersionStatus(3, VersionState.END, "INTERNAL", "broken"),))
    explained = ExplainReply("m", 3, "input", None, None, None, {}, {})
    scores = ((LabelScore(1, "bee", 0.75),),)
    written = {
        "layers": encode_layers(layers),
        "metadata": tfs_json.encode_metadata_reply(ModelMetadata("m", 3, {"product": signature})),
        "m": tfs_json.encode_status_reply(status),
        "classify": native_json.encode_reply(ClassifyImagesReply("m", 3, scores)),
        "explain": encode_reply(explained),
    }
    later = Later({name: _more(json.loads(body)) for name, body in written.items()})
    with Client("http://later", protocol="native", transport=later) as client:
        found = client.layers("m")
        assert (found.colour, found.framing) == ("bgr", Framing(field=28, box=20, is_by_mass=True))
        assert found.methods[0].paper == "k2012"
        (version,) = client.status("m").versions
        assert (version.error_code, version.error) == ("INTERNAL", "broken")
        later.documents["m"]["model_version_status"][0]["state"] = "ASLEEP"
        assert client.status("m").versions[0].state == "START"
        assert client.classify("m", PIXELS).outcome == "cached"
        assert client.explain("m", PIXELS, method="input") == client.explain(
            "m", PIXELS, method="input"
        )
        metadata = client.metadata("m")
        assert metadata == client.metadata("m")
    product = metadata.signatures["product"]
    assert (product.method_name, product.inputs["q"].tensor_name) == (called, "q:0")
    np.testing.assert_array_equal(product.defaults["q"], np.float32([1, 2]))
    assert not product.defaults["q"].flags.writeable
    assert "q: float32 (2,) = [1. 2.]" in str(metadata)


def test_a_version_and_a_label_together_are_refused():
    server, both = FakeServer(), {"version": 1, "label": "stable"}
    server.add("m", lambda x: x, classify=lambda _: {"ant": 1.0}, version_label="stable")
    with server.client() as client:
        asks = [
            lambda: client.predict("m", {"x": IMAGE}, **both),
            lambda: client.classify("m", PIXELS, **both),
            lambda: client.predict_many("m", [{"x": IMAGE}], **both),
            lambda: client.classify_many("m", [PIXELS], **both),
            lambda: client.metadata("m", **both),
            lambda: client.layers("m", **both),
            lambda: client.explain("m", PIXELS, method="saliency", **both),
        ]
        for ask in asks:
            with pytest.raises(UsageError, match=r"version=1 and label='stable'") as refused:
                ask()
            assert (refused.value.model, refused.value.url) == ("m", client._core._address.url)
    assert server.calls == []


def test_models_are_known_by_their_whole_names():
    server = FakeServer()
    for name in ("bf", "dotted.name", "v1.0"):
        server.add(name, lambda x: x)
    with server.client() as client, pytest.raises(ModelNotFoundError) as missing:
        client.metadata("m")
    assert missing.value.known == ("bf", "dotted.name", "v1.0")


def test_a_protocol_that_is_none_is_told():
    with pytest.raises(UsageError, match="there are auto, native, oip, tfs"):
        Client("http://localhost", protocol="triton")


# --- Servers that are not ours: what they may answer, over a real connection --------------------


class Foreign(BaseHTTPRequestHandler):
    """Answers each path with a status and a JSON document, or 404."""

    pages: dict
    asked: list

    def do_GET(self):
        length = int(self.headers.get("content-length", 0))
        self.rfile.read(length)
        self.asked.append(self.path)
        status, document = self.pages.get(self.path, (404, {"error": "Not Found"}))
        body = b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - http.server's name

    def log_message(self, *_):
        pass


@pytest.fixture
def foreign():
    kind = type("Fresh", (Foreign,), {"pages": {}, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        with Client(url, timeout_s=5, retries=Retries(attempts=1)) as client:
            kind.client = client
            yield kind
        server.shutdown()
        thread.join()


MLSERVER_REPLY = {
    "model_name": "sum",
    "model_version": "v0.1.0",
    "id": "7",
    "outputs": [{"name": "total", "shape": [1, 1], "datatype": "INT64", "data": [6]}],
}


def test_a_server_that_describes_nothing_and_answers_json_is_understood(foreign):
    foreign.pages = {
        "/v2": (200, {"name": "mlserver", "version": "1.7", "extensions": []}),
        "/v2/health/ready": (200, None),
        "/v2/models/sum/ready": (200, None),
        "/v2/models/sum": (200, {"name": "sum", "platform": "", "inputs": [], "outputs": []}),
        "/v2/models/sum/infer": (200, MLSERVER_REPLY),
        "/v2/repository/index": (200, [{"name": "sum", "state": "READY"}, {"name": "off"}]),
        "/v2/repository/models/off/load": (200, None),
    }
    client = foreign.client
    client.wait_until_ready("sum")
    found = client.predict("sum", {"x": np.arange(4)})
    assert found.array.tolist() == [[6]]
    assert (found.version, found.request_id) == (None, "7")
    assert client.models() == ("sum", "off")
    assert client.status("sum").is_ready
    assert not client.status("off").is_ready
    client.load("off")
    assert foreign.asked.count("/v2") == 1


def test_a_server_without_the_open_protocol_is_taken_for_tensorflow_serving(foreign):
    foreign.pages = {
        "/v1/models/m": (
            200,
            {
                "model_version_status": [
                    {
                        "version": "1",
                        "state": "AVAILABLE",
                        "status": {"error_code": "OK", "error_message": ""},
                    }
                ]
            },
        )
    }
    foreign.client.wait_until_ready()
    assert foreign.client.status("m").is_ready


def test_discovery_takes_no_refusal_for_an_answer(foreign):
    foreign.pages = {"/v2": (401, {"error": "no token"})}
    with pytest.raises(AuthenticationError, match="no token"):
        foreign.client.models()


def test_discovery_takes_a_bad_request_for_no_protocol(foreign):
    foreign.pages = {"/v2": (400, {"error": "plain HTTP on a port with TLS"})}
    with pytest.raises(AnswerError, match=r"plain HTTP on .*Is this the REST port") as told:
        foreign.client.classify("m", PIXELS)
    assert told.value.status == "400"


@served
def test_the_grpc_port_asked_over_http_is_told(tiny_server):
    with (
        Client(f"http://{tiny_server.grpc}", timeout_s=5, retries=Retries(attempts=1)) as client,
        pytest.raises(AnswerError, match="Is this the REST port"),
    ):
        client.classify("tiny", PIXELS)


@pytest.mark.parametrize("document", [[], {"outputs": 3}, {"outputs": [{"name": "a"}]}, "text"])
def test_an_answer_that_is_none_says_so(foreign, document):
    foreign.pages = {
        "/v2": (200, {"name": "other"}),
        "/v2/models/m": (200, {"name": "m"}),
        "/v2/models/m/infer": (200, document),
    }
    with pytest.raises(AnswerError):
        foreign.client.predict("m", {"x": np.zeros(1)})


def test_models_are_loaded_over_grpc_where_the_server_takes_orders():
    asked = []

    class Loading(grpc.GenericRpcHandler):
        def service(self, details):
            def answer(request, _):
                asked.append((details.method.rpartition("/")[2], request[2:]))
                return b""

            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(ThreadPoolExecutor(1), [Loading()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Client(f"grpc://127.0.0.1:{port}", protocol="oip") as client:
            client.load("m")
            client.unload("m")
    finally:
        server.stop(None).wait()
    assert asked == [("RepositoryModelLoad", b"m"), ("RepositoryModelUnload", b"m")]


class Taking(grpc.GenericRpcHandler):
    """An Open Inference server that describes nothing and gives each input back."""

    def service(self, details):
        def answer(request, _):
            if not details.method.endswith("/ModelInfer"):
                return b""
            return infer_response(oip_proto.decode_infer_request(request).call.inputs["x"])

        return grpc.unary_unary_rpc_method_handler(answer)


def test_a_batch_that_is_too_large_for_grpc_is_asked_item_by_item():
    limit = [("grpc.max_receive_message_length", 10_000)]
    server = grpc.server(ThreadPoolExecutor(2), [Taking()], options=limit)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    items = [{"x": np.full(size, size, np.float32)} for size in (2000, 2000, 2000, 3000)]
    try:
        with Client(f"grpc://127.0.0.1:{port}", protocol="oip") as client:
            found = list(client.predict_many("m", items))
    finally:
        server.stop(None).wait()
    assert [each.is_ok for each in found] == [True, True, True, False]
    assert found[1].unwrap().array.shape == (2000,)
    assert isinstance(found[3].error, InvalidInputError)
    assert found[3].error.status == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("The message is larger than 67108864 bytes: 70000000.", InvalidInputError),
        ("SERVER: Received message larger than max (9 vs. 4)", InvalidInputError),
        ("gRPC message exceeds maximum size 4: 9", InvalidInputError),
        ("The queue is full.", OverloadedError),
    ],
)
def test_what_is_too_large_is_told_from_what_is_too_much(words, kind):
    error = grpc_error(Reply(CODE_NUMBERS["RESOURCE_EXHAUSTED"], message=words))
    assert (type(error), error.status) == (kind, "RESOURCE_EXHAUSTED")


def test_a_tensor_is_not_copied_on_its_way_to_the_connection():
    image = np.zeros((1, 224, 224, 3), np.float32)
    call = PredictCall(Target("m"), {"image": image})
    _, sent = dialect("native", is_grpc=False).predict(call, None).request.body
    assert np.shares_memory(np.frombuffer(sent, np.float32), image)
    # gRPC takes one piece, which is the one copy.
    tracemalloc.start()
    dialect("native", is_grpc=True).predict(call, None)
    assert tracemalloc.get_traced_memory()[1] < 1.1 * image.nbytes
    tracemalloc.stop()


def infer_response(array, request_id="r1", version="1", name="y"):
    made = oip_proto.message("inference.ModelInferResponse")(
        model_name="m", model_version=version, id=request_id, raw_output_contents=[array.tobytes()]
    )
    made.outputs.add(name=name, datatype="FP32", shape=array.shape)
    return made.SerializeToString()


def test_a_tensor_is_not_copied_on_its_way_back():
    array = np.arange(1 << 18, dtype=np.float32).reshape(4, -1)
    body = infer_response(array)
    found = oip_proto.decode_infer_reply(body).outputs["y"]
    assert np.shares_memory(found, np.frombuffer(body, np.uint8))
    np.testing.assert_array_equal(found, array)
    head = json.dumps(
        {
            "model_name": "m",
            "outputs": [
                {
                    "name": "y",
                    "datatype": "FP32",
                    "shape": array.shape,
                    "parameters": {"binary_data_size": array.nbytes},
                }
            ],
        }
    ).encode()
    whole = memoryview(bytearray(head + array.tobytes()))
    found = oip_json.decode_infer_reply(whole, str(len(head))).outputs["y"]
    assert np.shares_memory(found, np.frombuffer(whole, np.uint8))


def test_answers_to_the_same_question_are_read_as_if_each_were_the_first():
    """What is like the answer before is taken from its place; what is not is read anew."""
    reader = oip_proto.InferReplyReader()
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    answers = [
        infer_response(rows),
        infer_response(rows * 2, request_id="r2"),
        infer_response(rows, request_id="r3", version="2"),
        infer_response(rows, request_id="longer", version="2"),
        infer_response(rows, request_id="", name="z"),
        infer_response(rows[:1], request_id="", name="z"),
        infer_response(rows, request_id="m", name="m"),  # the id stands elsewhere too
        infer_response(rows * 3, request_id="m", name="m"),
    ]
    for body in [*answers, *reversed(answers)]:
        expected = oip_proto.decode_infer_reply(body)
        found = reader.again(body) or reader.read(body)
        assert (found.model, found.version, found.request_id) == (
            expected.model,
            expected.version,
            expected.request_id,
        )
        assert found.outputs.keys() == expected.outputs.keys()
        for name, array in expected.outputs.items():
            np.testing.assert_array_equal(found.outputs[name], array)


@pytest.mark.parametrize("cut", [1, 5, 40, 1 << 19])
def test_a_large_message_that_is_cut_says_so(cut):
    body = infer_response(np.zeros(1 << 18, np.float32))[:-cut]
    with pytest.raises(InvalidRequestError, match=r"ends too early|no end"):
        oip_proto.decode_infer_reply(body)


def test_a_model_that_changed_what_it_takes_is_asked_anew():
    server = FakeServer()
    narrow, wide = {"x": ("float32", (None, 2))}, {"x": ("float32", (None, 3))}
    server.add("m", lambda x: x.sum(1), inputs=narrow)
    with server.client() as client:
        for _ in range(2):
            assert client.predict("m", np.ones((1, 2), np.float32)).array.tolist() == [2]
        server.add("m", lambda x: x.sum(1), inputs=wide)
        assert client.predict("m", np.ones((1, 3), np.float32)).array.tolist() == [3]


@pytest.mark.parametrize("dtype", [object, "S", "U"])
def test_strings_of_another_length_follow_each_other(dtype):
    server = FakeServer()
    server.add("m", lambda x: x, inputs={"x": ("bytes", (None,))})
    with server.client() as client:
        for text in ("abc", "a", "abcdef", ""):
            words = np.array([text, "eight..."]).astype(dtype)
            assert client.predict("m", words).array.tolist() == [text.encode(), b"eight..."]


@pytest.mark.parametrize("is_grpc", [False, True], ids=["http", "grpc"])
@pytest.mark.parametrize("protocol", ["native", "oip", "tfs"])
@pytest.mark.parametrize("dtype", [object, "S3", "U3"])
def test_no_request_of_strings_is_repeated(protocol, is_grpc, dtype):
    words = np.array(["abc"]).astype(dtype)
    assert dialect(protocol, is_grpc=is_grpc).again(PredictCall(Target("m"), {"x": words})) is None


@pytest.fixture
def half():
    """A client of a server whose model takes bfloat16."""
    server = FakeServer()
    server.add("m", lambda x: x.astype(np.float32), inputs={"x": ("bfloat16", (None,))})
    with server.client() as client:
        yield client


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.ones(2, np.float32), r"is float32. Convert it: array.astype\(ml_dtypes.bfloat16\)"),
        (np.zeros(2, "V2"), r"Name its type: array.view\(ml_dtypes.bfloat16\)"),
    ],
)
def test_how_an_array_becomes_bfloat16_is_told(half, array, words):
    with pytest.raises(InvalidInputError, match=words) as refused:
        half.predict("m", array)
    assert refused.value.field == "x"


def test_lists_become_bfloat16(half):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.array([1.5, -2]).astype(ml_dtypes.bfloat16)
    for numbers in (array, [1.5, -2], array.view("V2").view(ml_dtypes.bfloat16)):
        assert half.predict("m", numbers).array.tolist() == [1.5, -2]


def test_a_list_for_bfloat16_names_the_package_that_is_missing(half, monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(InvalidInputError, match="pip install ml_dtypes"):
        half.predict("m", [1.5])
