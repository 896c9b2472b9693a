"""Loading, unloading, configuration and statistics; and a server that leaves them out."""

import json

import pytest
from google.protobuf import text_format

from serving.errors import LoadError, VersionNotFoundError
from serving.protocols.grpc import build_grpc
from serving.protocols.http import build_http
from serving.transport import GrpcRequest, HttpRequest
from serving.wire.codes import CODE_NAMES
from serving.wire.pool import message
from tests.serving.protocols.fakes import FakeService

OIP = "/inference.GRPCInferenceService"
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"


class FakeAdministration:
    """Remembers what it was told."""

    def __init__(self):
        self.told = []
        self.failure = None

    async def reload_config(self, call):
        self.told.append(("reload", tuple(each.name for each in call.models), call.deadline))
        if self.failure is not None:
            raise self.failure

    async def load(self, model):
        self.told.append(("load", model))

    async def unload(self, model):
        self.told.append(("unload", model))


@pytest.fixture
def administration():
    return FakeAdministration()


def http(administration, service=None):
    handler = build_http(service or FakeService(), administration)

    async def send(method, path, body=b""):
        response = await handler(HttpRequest(method, f"/v2/{path}", body=body))
        return response.status, json.loads(response.body)

    return send


def grpc(administration, service=None):
    routes = build_grpc(service or FakeService(), administration)

    async def send(path, body=b"", **fields):
        body = body if isinstance(body, bytes) else body.SerializeToString()
        response = await routes[path](GrpcRequest(body, **fields))
        return CODE_NAMES[response.code], response.message if response.code else response.body

    return send


def reload_request(names=("m",)):
    models = "".join(
        f'config {{ name: "{name}" base_path: "/{name}" model_platform: "tensorflow" }} '
        for name in names
    )
    request = message("tensorflow.serving.ReloadConfigRequest")()
    text_format.Parse(f"model_config_list {{ {models} }}", request.config)
    return request


async def test_models_are_loaded_and_unloaded_over_rest(administration):
    ask = http(administration)
    assert await ask("POST", "repository/models/a%2Fb/load") == (200, {"name": "a/b", "load": True})
    body = b'{"parameters": {"unload_dependents": false}}'
    assert (await ask("POST", "repository/models/m/unload", body))[0] == 200
    assert administration.told == [("load", "a/b"), ("unload", "m")]
    status, answer = await ask("POST", "repository/models/m/load", b'{"parameters": {"config": 1}}')
    assert (status, "'config' is not supported" in answer["error"]) == (501, True)
    assert (await ask("POST", "repository/models/m/load", b"[]"))[0] == 400
    assert (await ask("GET", "repository/models/m/load"))[0] == 405


@pytest.mark.parametrize("field", ["model_name", "repository_name"], ids=["triton", "kserve"])
async def test_models_are_loaded_and_unloaded_over_grpc(administration, field):
    call = grpc(administration)
    request = message("inference.RepositoryModelLoadRequest")(**{field: "m"})
    code, body = await call(f"{OIP}/RepositoryModelLoad", request)
    answer = message("inference.RepositoryModelLoadResponse").FromString(body)
    assert (code, answer.model_name, answer.isLoaded) == ("OK", "m", True)
    code, body = await call(f"{OIP}/RepositoryModelUnload", request)
    answer = message("inference.RepositoryModelUnloadResponse").FromString(body)
    assert (code, answer.model_name, answer.isUnloaded) == ("OK", "m", True)
    assert administration.told == [("load", "m"), ("unload", "m")]
    request.parameters["file:1/model.pb"].bytes_param = b"x"
    assert (await call(f"{OIP}/RepositoryModelLoad", request))[0] == "UNIMPLEMENTED"
    assert (await call(f"{OIP}/RepositoryModelLoad"))[0] == "INVALID_ARGUMENT"


async def test_a_configuration_replaces_the_one_before(administration):
    call = grpc(administration)
    code, body = await call(RELOAD, reload_request(("m", "n")), deadline=5.0)
    answer = message("tensorflow.serving.ReloadConfigResponse").FromString(body)
    assert (code, answer.status.error_code) == ("OK", 0)
    assert administration.told == [("reload", ("m", "n"), 5.0)]


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (VersionNotFoundError("m", 3, (1,)), "FAILED_PRECONDITION"),
        (LoadError("1 model did not become available"), "UNKNOWN"),
    ],
)
async def test_a_configuration_that_cannot_serve_has_tensorflow_servings_code(
    administration, failure, code
):
    administration.failure = failure
    assert await grpc(administration)(RELOAD, reload_request()) == (code, str(failure))


@pytest.mark.parametrize("may_administer", [True, False])
async def test_statistics_are_told_in_nanoseconds(administration, may_administer):
    service, told = FakeService(), []
    given = administration if may_administer else None
    ask, call = http(given, service), grpc(given, service)
    for path in ("models/stats", "models/m/stats", "models/m/versions/2/stats"):
        status, found = await ask("GET", path)
        told.append(service.last)
        (stats,) = found["model_stats"]
        assert (status, stats["name"], stats["version"]) == (200, "m", "2")
        assert stats["inference_stats"]["success"] == {"count": 3, "ns": 250_000_000}
        assert stats["batch_stats"] == [
            {"batch_size": 4, "compute_infer": {"count": 1, "ns": 500_000}}
        ]
        assert (stats["inference_count"], stats["last_inference"]) == (5, 1500)
    request = message("inference.ModelStatisticsRequest")()
    for name in ("", "m"):
        request.name = name
        _, body = await call(f"{OIP}/ModelStatistics", request)
        told.append(service.last)
        (stats,) = message("inference.ModelStatisticsResponse").FromString(body).model_stats
        assert (stats.execution_count, stats.inference_stats.compute_infer.ns) == (2, 1_000_000)
    assert [each and (each.model, each.version) for each in told] == [
        *(None, ("m", None), ("m", 2)),
        *(None, ("m", None)),
    ]
    assert (await ask("GET", "models/n/stats"))[0] == 404


async def test_only_what_there_is_is_advertised(administration):
    for each, is_there in ((administration, True), (None, False)):
        _, answer = await http(each)("GET", "")
        assert ("model_repository" in answer["extensions"]) == is_there
        assert "statistics" in answer["extensions"]
        _, body = await grpc(each)(f"{OIP}/ServerMetadata")
        found = message("inference.ServerMetadataResponse").FromString(body)
        assert list(found.extensions) == answer["extensions"]


async def test_a_server_without_administration_says_so():
    ask, call = http(None), grpc(None)
    for method, path in (
        ("POST", "repository/models/m/load"),
        ("POST", "repository/models/m/unload"),
    ):
        status, answer = await ask(method, path)
        assert (status, "follows its base path" in answer["error"]) == (501, True)
    load = message("inference.RepositoryModelLoadRequest")(model_name="m")
    for path, request in (
        (RELOAD, reload_request()),
        (f"{OIP}/RepositoryModelLoad", load),
        (f"{OIP}/RepositoryModelUnload", load),
    ):
        code, text = await call(path, request)
        assert (code, "follows its base path" in text) == ("UNIMPLEMENTED", True), path
