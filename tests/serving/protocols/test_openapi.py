"""The description of the interface is whole, and what it describes is there."""

import json
import re

import pytest

from serving.protocols.http import build_http
from serving.protocols.openapi import document
from serving.transport import HttpRequest
from tests.serving.protocols.fakes import FakeService

DOCUMENT = document()
OPERATIONS = [
    (method.upper(), path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]


@pytest.fixture
def handler():
    return build_http(FakeService())


async def test_it_is_served_with_a_page_for_people_that_needs_nothing_from_elsewhere(handler):
    response = await handler(HttpRequest("GET", "/openapi.json"))
    assert (response.status, json.loads(response.body)) == (200, DOCUMENT)
    response = await handler(HttpRequest("GET", "/docs"))
    assert dict(response.headers)["content-type"].startswith("text/html")
    assert not re.search(rb"https?://", response.body)


def test_every_path_parameter_and_reference_is_described():
    schemas = DOCUMENT["components"]["schemas"]
    for reference in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)):
        assert reference in schemas
    names = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(names) == len(set(names))
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    for _, path, operation in OPERATIONS:
        described = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
        assert described == set(re.findall(r"{(\w+)}", path))
        assert set(operation["tags"]) <= tags
        assert "200" in operation["responses"]


@pytest.mark.parametrize(
    ("method", "path", "operation"), OPERATIONS, ids=[f"{m} {p}" for m, p, _ in OPERATIONS]
)
async def test_everything_described_is_there(handler, method, path, operation):
    concrete = path.format(model="m", version=1, label="stable")
    response = await handler(HttpRequest(method, concrete))
    missing = (b"Malformed request", b"Not Found", b"Method Not Allowed")
    assert not any(words in response.body for words in missing)
    # An empty body is at fault where a body is wanted, and nothing else is.
    allowed = {"200"} | set(operation["responses"]) | {"501"}
    assert str(response.status) in allowed, response.body
