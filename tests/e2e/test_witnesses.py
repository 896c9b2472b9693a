"""Clients that are not ours, each in an environment of its own."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITNESS = ROOT / "build" / "witness"
KSERVE = ROOT / "build" / "kserve"

pytestmark = [pytest.mark.e2e, pytest.mark.openvino]


@pytest.fixture(scope="module")
def tiny_server(tmp_path_factory):
    from tests.e2e.conftest import serve
    from tests.serving.published import publish_tiny
    from zoo.artifact import write_labels

    place = tmp_path_factory.mktemp("witness")
    publish_tiny(place / "models")
    publish_tiny(place / "models", scale=2.0)
    write_labels(place / "models" / "tiny", {"stable": 1})
    with serve(place / "models", place) as server:
        yield server


def claims_hold(python, check, *arguments):
    done = subprocess.run(
        [python, ROOT / "tests" / "witnesses" / check, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every claim holds" in done.stdout


def test_tritonclient_works_unchanged_in_all_four_forms(tiny_server):
    if not (WITNESS / ".complete").exists():
        pytest.skip("no build/witness; `make witness` installs tritonclient there")
    address = tiny_server.url.removeprefix("http://")
    python = WITNESS / "bin" / "python"
    claims_hold(python, "tritonclient_check.py", address, tiny_server.grpc)


def test_kserves_own_clients_work_unchanged(tiny_server):
    if not (KSERVE / ".complete").exists():
        pytest.skip("no build/kserve; `make foreign` installs KServe's clients there")
    python = KSERVE / "bin" / "python"
    claims_hold(python, "kserve_check.py", tiny_server.url, tiny_server.grpc)
