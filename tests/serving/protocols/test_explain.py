"""`layers`, `explain` and the playground's files, without an engine."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from serving.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    OverloadedError,
    UnsupportedError,
)
from serving.protocols.http import build_http
from serving.protocols.playground import pages
from serving.transport import HttpRequest
from serving.wire import explain_json
from serving.wire.tfs_json import loads
from tests.serving.protocols.fakes import FakeService


@pytest.fixture
def service():
    return FakeService()


@pytest.fixture
def ask(service):
    handle = build_http(service)

    async def send(method, path, body=b"", query="", **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await handle(HttpRequest(method, path, query, named, body))

    return send


async def test_layers_say_what_can_be_looked_into(ask):
    answer = await ask("GET", "/api/models/m/layers")
    assert answer.status == 200
    found = explain_json.decode_layers(answer.body)
    assert found.layers[0].name == "conv1"
    assert found.methods[0].problem == "no"


@pytest.mark.parametrize(("place", "version"), [("", 2), ("/versions/1", 1), ("/labels/stable", 1)])
async def test_an_explanation_comes_from_the_version_that_was_asked(ask, place, version):
    answer = await ask("POST", f"/api/models/m{place}/explain", b"img", "method=saliency")
    found = explain_json.decode_reply(answer.body)
    assert (found.version, found.method) == (version, "saliency")
    assert np.array_equal(found.arrays["map"], [[0.5, -2.0]])


async def test_the_deadline_and_the_request_id_go_with_the_call(ask, service):
    await ask(
        "POST", "/api/models/m/explain", b"img", "method=input",
        x_request_timeout_s="5", x_request_id="abc",
    )  # fmt: skip
    assert service.last.deadline is not None
    assert service.last.request_id == "abc"
    await ask("GET", "/api/models/m/layers", x_request_timeout_s="5")
    assert service.last is not None


@pytest.mark.parametrize(
    ("method", "verb", "allowed"),
    [("GET", "explain", "POST"), ("DELETE", "explain", "POST"), ("POST", "layers", "GET")],
)
async def test_another_method_is_answered_with_the_one_that_works(ask, method, verb, allowed):
    answer = await ask(method, f"/api/models/m/{verb}", b"img", "method=input")
    assert (answer.status, dict(answer.headers)["allow"]) == (405, allowed)
    assert f"{allowed} is." in loads(answer.body)["error"]


async def test_a_picture_comes_as_png(ask):
    answer = await ask("POST", "/api/models/m/explain", b"img", "method=input&format=png")
    assert dict(answer.headers)["content-type"] == "image/png"
    assert answer.body.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (InvalidRequestError("x"), 400),
        (UnsupportedError("x"), 501),
        (OverloadedError("x", retry_after_s=1), 429),
        (DeadlineExceededError("x"), 504),
    ],
)
async def test_errors_have_the_codes_of_predictions(ask, service, failure, status):
    service.failure = failure
    answer = await ask("POST", "/api/models/m/explain", b"img", "method=input")
    predicted = await ask("POST", "/api/models/m/classify", b"img")
    assert answer.status == predicted.status
    assert answer.status == status or isinstance(failure, OverloadedError)
    assert loads(answer.body)["error"] == "x"


async def test_an_unknown_model_is_not_found(ask):
    assert (await ask("GET", "/api/models/zzz/layers")).status == 404
    assert (await ask("POST", "/api/models/zzz/explain", b"", "method=input")).status == 404


# --- the playground's files ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "index.html", "app.js", "trace.js", "style.css"])
async def test_the_playground_is_served_with_a_policy_that_lets_nothing_foreign_in(ask, name):
    answer = await ask("GET", f"/playground/{name}")
    headers = dict(answer.headers)
    assert answer.status == 200
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    again = await ask("GET", f"/playground/{name}", if_none_match=headers["etag"])
    assert (again.status, again.body) == (304, b"")


async def test_the_bare_path_leads_to_the_page(ask):
    answer = await ask("GET", "/playground")
    assert (answer.status, dict(answer.headers)["location"]) == (308, "/playground/")


@pytest.mark.parametrize(
    "path", ["/playground/../app.py", "/playground/__init__.py", "/playground/x"]
)
async def test_nothing_but_its_own_files_is_served(ask, path):
    assert (await ask("GET", path)).status == 404


async def test_the_page_takes_no_posts(ask):
    assert (await ask("POST", "/playground/")).status == 501


def test_the_page_asks_nobody_else():
    for name, (body, _, _) in pages().items():
        addresses = re.findall(r"(?:https?:)?//[a-z][\w.-]+", body.decode())
        assert [each for each in addresses if "w3.org" not in each] == [], name
        assert not re.search(r"\b(?:src|href)=\"(?!data:|#)[^\"]*/", body.decode()), name


def test_every_file_of_the_page_goes_into_the_wheel():
    settings = tomllib.loads(Path("pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["*"]
    assert {f"*.{name.rpartition('.')[2]}" for name in pages()} <= set(patterns)
