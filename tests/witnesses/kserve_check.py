"""Asks a server through KServe's own clients; run in an environment of its own.

Usage: kserve_check.py HTTP_URL GRPC_ADDRESS. The server holds the model `tiny` of
tests/serving/published.py in versions 1 and 2. Exits with 0 when every claim holds.
"""

import asyncio
import logging
import sys

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as stubs
from kserve.protocol.infer_type import RequestedOutput

WEIGHTS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], np.float32)
IMAGE = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 2, 2, 1)
FORMS = ("list", "nested", "array", "bytes")


def expected(scale):
    logits = IMAGE.reshape(2, 4) @ WEIGHTS * scale
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def tensor(form, image=IMAGE):
    made = InferInput("image", list(image.shape), "FP32")
    if form == "bytes":
        made.set_data_from_numpy(image, binary_data=True)
    elif form == "array":
        made.set_data_from_numpy(image, binary_data=False)
    else:
        made = InferInput(
            "image", list(image.shape), "FP32", image.tolist() if form == "nested" else None
        )
        if form == "list":
            made.data = image.ravel().tolist()
    return made


def request(form="bytes", image=IMAGE, **more):
    return InferRequest("tiny", [tensor(form, image)], **more)


def holds(response, scale=2.0):
    (output,) = response.outputs
    assert output.name == "probabilities", output.name
    assert output.datatype == "FP32", output.datatype
    np.testing.assert_allclose(output.as_numpy(), expected(scale), atol=1e-5)


async def refused(call, kind, *words):
    try:
        await call
    except kind as error:
        text = str(error)
        assert all(word in text for word in words), text
        return error
    raise AssertionError(f"no error with {words}")


async def rest_v2(url):
    async with InferenceRESTClient(RESTConfig(protocol="v2", timeout=20)) as client:
        assert await client.is_server_live(url) is True
        assert await client.is_server_ready(url) is True
        assert await client.is_model_ready(url, "tiny") is True
        assert await client.is_model_ready(url, "huge") is False
        for form in FORMS:
            for parameters in (None, {"binary_data_output": True}):
                asked = request(form, request_id=f"{form}-7", parameters=parameters)
                answer = await client.infer(url, asked, model_name="tiny")
                holds(answer)
                assert (answer.id, answer.model_name) == (f"{form}-7", "tiny"), answer
            for is_binary in (True, False):
                wanted = [RequestedOutput("probabilities", {"binary_data": is_binary})]
                headers = {}
                answer = await client.infer(
                    url,
                    request(form, request_outputs=wanted),
                    model_name="tiny",
                    response_headers=headers,
                )
                holds(answer)
                assert answer.id, "the client makes an id; it comes back"
                assert ("inference-header-content-length" in headers) is is_binary, headers
        as_dict, length = request("list").to_rest()
        assert length is None
        holds(await client.infer(url, as_dict, model_name="tiny"))

        wrong = request(image=np.zeros((1, 3), np.float32))
        status = httpx.HTTPStatusError
        ask = client.infer
        error = await refused(ask(url, wrong, model_name="tiny"), status, "[1, 3]", "400")
        assert error.response.json()["error"], error
        await refused(ask(url, request(), model_name="huge"), status, "huge", "404")
        unknown = request(request_outputs=[RequestedOutput("scores")])
        await refused(ask(url, unknown, model_name="tiny"), status, "scores", "probabilities")
        typed = request()
        typed.inputs[0]._datatype = "INT64"
        await refused(ask(url, typed, model_name="tiny"), status, "image", "400")
        holds(await ask(url, request(), model_name="tiny"))


async def rest_v1(url):
    async with InferenceRESTClient(RESTConfig(protocol="v1", timeout=20)) as client:
        assert await client.is_server_live(url) is True
        rows = {"instances": IMAGE.tolist()}
        answer = await client.infer(url, rows, model_name="tiny")
        np.testing.assert_allclose(answer["predictions"], expected(2.0), atol=1e-5)
        status = httpx.HTTPStatusError
        wrong = {"instances": [[1.0, 2.0]]}
        await refused(client.infer(url, wrong, model_name="tiny"), status, "400")
        await refused(client.infer(url, rows, model_name="huge"), status, "huge", "404")
        await refused(client.is_model_ready(url, "huge"), status, "huge", "404")
        # As before TensorFlow Serving itself: its status of a model has no field `ready`.
        assert await client.is_model_ready(url, "tiny") is None


async def over_grpc(address):
    async with InferenceGRPCClient(address, timeout=20) as client:
        assert await client.is_server_live() is True
        assert await client.is_server_ready() is True
        assert await client.is_model_ready("tiny") is True
        ask, failure = client.infer, grpc.RpcError
        await refused(client.is_model_ready("huge"), failure, "NOT_FOUND", "huge")
        for form in ("list", "array", "bytes"):
            answer = await ask(request(form, request_id=f"{form}-7"))
            holds(answer)
            assert (answer.id, answer.model_version) == (f"{form}-7", "2"), answer
            holds(await ask(request(form, model_version="1")), 1.0)
        wanted = [RequestedOutput("probabilities", {"binary_data": True})]
        parameters = {"priority": 1, "note": "from KServe", "is_checked": True}
        headers = [("x-request-id", "k7")]
        asked = request("list", request_outputs=wanted, parameters=parameters)
        holds(await ask(asked, headers=headers))
        wrong = request(image=np.zeros((1, 3), np.float32))
        await refused(ask(wrong), failure, "INVALID_ARGUMENT", "[1, 3]")
        await refused(ask(request(model_version="9")), failure, "NOT_FOUND", "9")
        holds(await ask(request()))


def metadata_and_repository(address):
    """What KServe's stubs have beyond its client; its load and unload differ from Triton's."""
    with grpc.insecure_channel(address) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)
        assert stub.ServerMetadata(messages.ServerMetadataRequest()).name == "convzoo"
        found = stub.ModelMetadata(messages.ModelMetadataRequest(name="tiny"))
        assert list(found.versions) == ["1", "2"], found
        (taken,) = found.inputs
        assert (taken.name, taken.datatype) == ("image", "FP32"), found
        assert list(taken.shape) == [-1, 2, 2, 1], found
        unload = messages.RepositoryModelUnloadRequest(model_name="tiny")
        answer = stub.RepositoryModelUnload(unload)
        assert (answer.model_name, answer.isUnloaded) == ("tiny", True), answer
        assert not stub.ModelReady(messages.ModelReadyRequest(name="tiny")).ready
        answer = stub.RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name="tiny"))
        assert (answer.model_name, answer.isLoaded) == ("tiny", True), answer
        assert stub.ModelReady(messages.ModelReadyRequest(name="tiny")).ready


if __name__ == "__main__":
    http_url, grpc_address = sys.argv[1:]
    logging.disable()  # the client logs each error that is wanted here, with its traceback
    asyncio.run(rest_v2(http_url))
    asyncio.run(rest_v1(http_url))
    asyncio.run(over_grpc(grpc_address))
    metadata_and_repository(grpc_address)
    print("kserve: every claim holds")
