"""Asks a server through tritonclient in all four forms; run in an environment of its own.

Usage: tritonclient_check.py HTTP_ADDRESS GRPC_ADDRESS. The server holds the model `tiny` of
tests/serving/published.py in versions 1 and 2. Exits with 0 when every claim holds.
"""

import asyncio
import queue
import sys

import numpy as np
import tritonclient.grpc as grpc_client
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http as http_client
import tritonclient.http.aio as http_aio
from tritonclient.utils import InferenceServerException

WEIGHTS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], np.float32)
IMAGE = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 2, 2, 1)
LABELS = ("ant", "bee", "cat")


def expected(scale):
    logits = IMAGE.reshape(2, 4) @ WEIGHTS * scale
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def inputs(module):
    tensor = module.InferInput("image", IMAGE.shape, "FP32")
    tensor.set_data_from_numpy(IMAGE)
    return [tensor]


def holds(result, scale):
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected(scale), atol=1e-5)


def refused(call, words):
    message = None
    try:
        call()
    except InferenceServerException as error:
        message = error.message()
    assert message is not None, f"no error with {words!r}"
    assert words in message, message


def check_metadata(metadata, index):
    assert metadata["name"] == "tiny", metadata
    assert list(metadata["versions"]) == ["1", "2"], metadata
    (tensor,) = metadata["inputs"]
    assert (tensor["name"], tensor["datatype"]) == ("image", "FP32"), tensor
    assert [int(size) for size in tensor["shape"]] == [-1, 2, 2, 1], tensor
    assert {(each["version"], each["state"]) for each in index} == {("1", "READY"), ("2", "READY")}


def sync(module, address, *, is_http):
    client = module.InferenceServerClient(address)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    if is_http:
        assert not client.is_model_ready("huge")
        check_metadata(client.get_model_metadata("tiny"), client.get_model_repository_index())
        assert client.get_server_metadata()["name"] == "convzoo"
    else:
        refused(lambda: client.is_model_ready("huge"), "huge")
        index = client.get_model_repository_index(as_json=True)["models"]
        check_metadata(client.get_model_metadata("tiny", as_json=True), index)
        assert client.get_server_metadata().name == "convzoo"
    holds(client.infer("tiny", inputs(module)), 2.0)
    result = client.infer("tiny", inputs(module), model_version="1", request_id="r7")
    holds(result, 1.0)
    response = result.get_response()
    assert (response["id"] if is_http else response.id) == "r7"
    named = module.InferRequestedOutput("probabilities", class_count=2)
    ranked = client.infer("tiny", inputs(module), outputs=[named]).as_numpy("probabilities")
    assert ranked.shape == (2, 2)
    best = expected(2.0)[0].argmax()
    assert ranked[0, 0].decode().endswith(f":{best}:{LABELS[best]}"), ranked
    if is_http:
        tensor = module.InferInput("image", IMAGE.shape, "FP32")
        tensor.set_data_from_numpy(IMAGE, binary_data=False)
        plain = module.InferRequestedOutput("probabilities", binary_data=False)
        holds(client.infer("tiny", [tensor], outputs=[plain]), 2.0)
        packed = client.infer("tiny", inputs(module), request_compression_algorithm="gzip")
        holds(packed, 2.0)
    wrong = module.InferInput("image", (1, 3), "FP32")
    wrong.set_data_from_numpy(np.zeros((1, 3), np.float32))
    refused(lambda: client.infer("tiny", [wrong]), "[1, 3]")
    refused(lambda: client.infer("huge", inputs(module)), "huge")
    holds(client.infer("tiny", inputs(module)), 2.0)
    client.close()


def administer(module, address, *, is_http):
    client = module.InferenceServerClient(address)

    def told(answer, field):
        return answer[field] if is_http else getattr(answer, field)

    statistics = client.get_inference_statistics("tiny", "2")
    (found,) = told(statistics, "model_stats")
    assert int(told(found, "inference_count")) > 0, found
    everything = told(client.get_inference_statistics(), "model_stats")
    assert {told(each, "version") for each in everything} == {"1", "2"}
    config = client.get_model_config("tiny")
    assert told(config if is_http else config.config, "name") == "tiny"
    client.unload_model("tiny")
    if is_http:
        assert not client.is_model_ready("tiny")
        assert {each.get("state") for each in client.get_model_repository_index()} == {
            "UNAVAILABLE"
        }
    refused(lambda: client.infer("tiny", inputs(module)), "tiny")
    client.load_model("tiny")
    holds(client.infer("tiny", inputs(module)), 2.0)
    refused(lambda: client.load_model("huge"), "huge")
    client.close()


def stream(address):
    answers = queue.Queue()
    client = grpc_client.InferenceServerClient(address)
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for index in range(20):
        client.async_stream_infer("tiny", inputs(grpc_client), request_id=str(index))
    client.async_stream_infer("huge", inputs(grpc_client), request_id="wrong")
    client.async_stream_infer("tiny", inputs(grpc_client), request_id="last")
    found = [answers.get(timeout=10) for _ in range(22)]
    client.stop_stream()
    ids = [str(index) for index in range(20)]
    assert [result.get_response().id for result, error in found[:20]] == ids
    holds(found[0][0], 2.0)
    assert "huge" in found[20][1].message(), found[20]
    holds(found[21][0], 2.0)
    client.close()


async def asynchronous(module, plain, address):
    async with module.InferenceServerClient(address) as client:
        assert await client.is_server_ready()
        assert await client.is_model_ready("tiny")
        await client.get_model_metadata("tiny")
        results = await asyncio.gather(*(client.infer("tiny", inputs(plain)) for _ in range(20)))
        for result in results:
            holds(result, 2.0)


if __name__ == "__main__":
    http_address, grpc_address = sys.argv[1:]
    sync(http_client, http_address, is_http=True)
    sync(grpc_client, grpc_address, is_http=False)
    stream(grpc_address)
    administer(http_client, http_address, is_http=True)
    administer(grpc_client, grpc_address, is_http=False)
    asyncio.run(asynchronous(http_aio, http_client, http_address))
    asyncio.run(asynchronous(grpc_aio, grpc_client, grpc_address))
    print("tritonclient: every claim holds")
