"""Streams of requests, each with its answer: reflection and Triton's stream of inferences.

They are asked through a real listener, as grpc's own reflection client asks.
"""

import asyncio

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from serving.app import bind
from serving.listeners.grpc import GrpcListener
from serving.messages import PredictCall, Target
from serving.protocols.grpc import (
    SERVICES,
    build_grpc,
    build_grpc_streams,
    build_grpc_watches,
)
from serving.protocols.reflection import METHODS
from serving.transport import GrpcRequest
from serving.wire import oip_proto
from serving.wire.pool import message
from tests.serving.protocols.fakes import FakeService

INFER = "/inference.GRPCInferenceService/ModelStreamInfer"


@pytest.fixture
def service():
    return FakeService()


@pytest.fixture
async def address(service):
    listener = GrpcListener(
        {},
        [bind("127.0.0.1", 0, "--grpc-port")],
        max_message_bytes=1 << 20,
        streams=build_grpc_streams(service),
        watches=build_grpc_watches(service, look_every_s=0.01),
        max_in_flight=4,
    )
    await listener.start()
    yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    await listener.stop(0)


async def exchange(address, path, *requests):
    async with grpc.aio.insecure_channel(address) as channel:
        stream = channel.stream_stream(path)(iter(requests), timeout=10)
        return [body async for body in stream]


def asked(**fields):
    return message("grpc.reflection.v1.ServerReflectionRequest")(**fields).SerializeToString()


def answered(body):
    return message("grpc.reflection.v1.ServerReflectionResponse").FromString(body)


@pytest.mark.parametrize("path", METHODS)
async def test_services_and_their_files_are_told_in_both_versions(address, path):
    bodies = await exchange(
        address,
        path,
        asked(list_services="*"),
        asked(file_containing_symbol="tensorflow.serving.PredictionService"),
        asked(file_by_filename="inference.proto"),
        asked(all_extension_numbers_of_type="inference.ModelInferRequest"),
    )
    services, files, named, extensions = map(answered, bodies)
    assert [each.name for each in services.list_services_response.service] == sorted(SERVICES)
    # All that a file imports comes with it, so that a client's own pool can hold it.
    pool = DescriptorPool()
    found = [
        FileDescriptorProto.FromString(each)
        for each in files.file_descriptor_response.file_descriptor_proto
    ]
    for file in reversed(found):
        pool.AddSerializedFile(file.SerializeToString())
    assert pool.FindServiceByName("tensorflow.serving.PredictionService").methods_by_name["Predict"]
    assert pool.FindMessageTypeByName("google.protobuf.Any")
    (only,) = named.file_descriptor_response.file_descriptor_proto
    assert FileDescriptorProto.FromString(only).package == "inference"
    assert not extensions.all_extension_numbers_response.extension_number


async def test_every_service_that_is_listed_is_described(address):
    bodies = await exchange(
        address, METHODS[0], *(asked(file_containing_symbol=each) for each in SERVICES)
    )
    assert all(answered(body).HasField("file_descriptor_response") for body in bodies)


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"file_containing_symbol": "no.Body"}, 5, "no.Body"),
        ({"file_by_filename": "none.proto"}, 5, "none.proto"),
        ({"all_extension_numbers_of_type": "no.Body"}, 5, "no.Body"),
        ({"file_containing_extension": {"containing_type": "a.B"}}, 5, "a.B has no extension 0"),
        ({}, 3, "asks for nothing"),
    ],
)
async def test_what_is_not_there_is_told_and_the_stream_goes_on(address, fields, code, words):
    bodies = await exchange(address, METHODS[0], asked(**fields), asked(list_services=""))
    error = answered(bodies[0]).error_response
    assert (error.error_code, words in error.error_message) == (code, True)
    assert len(answered(bodies[1]).list_services_response.service) == len(SERVICES)


async def test_grpcs_own_reflection_client_finds_the_services(address):
    reflection = pytest.importorskip("grpc_reflection.v1alpha.proto_reflection_descriptor_database")

    def look():
        with grpc.insecure_channel(address) as channel:
            database = reflection.ProtoReflectionDescriptorDatabase(channel)
            pool = DescriptorPool(database)
            service = pool.FindServiceByName("inference.GRPCInferenceService")
            return database.get_services(), [each.name for each in service.methods]

    services, methods = await asyncio.to_thread(look)
    assert set(services) == set(SERVICES)
    assert "ModelInfer" in methods


def infer(value, request_id, model="m"):
    inputs = {"x": np.array([value], np.float32)}
    return oip_proto.encode_infer_request(PredictCall(Target(model), inputs, request_id=request_id))


async def test_an_error_ends_its_request_and_not_the_stream(address):
    long = np.zeros(1000, np.float32)  # its length takes several bytes to write
    requests = [
        infer(1, "a"),
        infer(1, "b", model="n"),
        b"\xff",
        oip_proto.encode_infer_request(PredictCall(Target("m"), {"x": long}, request_id="d")),
    ]
    bodies = await exchange(address, INFER, *requests)
    found = [message("inference.ModelStreamInferResponse").FromString(each) for each in bodies]
    assert [each.infer_response.id for each in found] == ["a", "b", "", "d"]
    assert found[0].infer_response.raw_output_contents[0] == np.float32(2).tobytes()
    assert "No model 'n'" in found[1].error_message
    assert "no ModelInferRequest" in found[2].error_message
    assert len(found[3].infer_response.raw_output_contents[0]) == 4000
    assert not found[0].error_message


async def test_every_answer_says_that_it_is_the_last_to_its_request(address):
    bodies = await exchange(address, INFER, infer(1, "a"), infer(1, "b", model="n"), b"\xff")
    for body in bodies:
        found = message("inference.ModelStreamInferResponse").FromString(body)
        assert found.infer_response.parameters["triton_final_response"].bool_param


async def test_an_answer_outside_of_a_stream_says_nothing_of_streams():
    handler = build_grpc(FakeService())["/inference.GRPCInferenceService/ModelInfer"]
    body = (await handler(GrpcRequest(infer(1, "a")))).body
    assert not message("inference.ModelInferResponse").FromString(body).parameters


class SlowService(FakeService):
    """Answers the first value last; remembers how many it answered at once."""

    def __init__(self):
        super().__init__()
        self.active = self.most = 0

    async def predict(self, call):
        self.active += 1
        self.most = max(self.most, self.active)
        await asyncio.sleep(0.01 * (5 - call.inputs["x"][0]))
        self.active -= 1
        return await super().predict(call)


class TestTogether:
    @pytest.fixture
    def service(self):
        return SlowService()

    async def test_a_stream_is_answered_together_within_its_bound_and_in_order(
        self, service, address
    ):
        ids = [str(index) for index in range(20)]
        bodies = await exchange(
            address, INFER, *(infer(index % 5, each) for index, each in enumerate(ids))
        )
        found = [message("inference.ModelStreamInferResponse").FromString(each) for each in bodies]
        assert [each.infer_response.id for each in found] == ids
        assert service.most == 4

    async def test_a_caller_that_goes_takes_its_requests_along(self, service, address):
        async with grpc.aio.insecure_channel(address) as channel:
            stream = channel.stream_stream(INFER)()
            await stream.write(infer(-500, "a"))
            while not service.active:
                await asyncio.sleep(0.001)
            stream.cancel()
        # predict was cancelled in its sleep, so it never counted itself out.
        assert service.last is None


async def test_a_watch_tells_the_state_and_every_change_of_it(service, address):
    response = message("grpc.health.v1.HealthCheckResponse")
    async with grpc.aio.insecure_channel(address) as channel:
        stream = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=10)
        assert response.FromString(await stream.read()).status == 1
        service.ready = False
        assert response.FromString(await stream.read()).status == 2
        service.ready = True
        assert response.FromString(await stream.read()).status == 1
        asked = message("grpc.health.v1.HealthCheckRequest")(service="nobody").SerializeToString()
        other = channel.unary_stream("/grpc.health.v1.Health/Watch")(asked, timeout=10)
        assert response.FromString(await other.read()).status == 3
