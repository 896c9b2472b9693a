"""A real server on a tiny network, for every test that asks one."""

import pytest

from tests.e2e.conftest import serve
from tests.serving.published import publish_tiny
from zoo.artifact import write_labels


@pytest.fixture(scope="session")
def tiny_server(tmp_path_factory):
    """A server process with the model `tiny` in versions 1 and 2, label stable on 1."""
    place = tmp_path_factory.mktemp("tiny")
    base_path = place / "models"
    publish_tiny(base_path)
    publish_tiny(base_path, scale=2.0)
    write_labels(base_path / "tiny", {"stable": 1})
    # Read-only: a test that unloads the model would take it from all others.
    with serve(base_path, place, "--read-only") as server:
        yield server
