"""What `pip install convzoo` gives, with no extra: the client and the command line, and no more."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conftest import serve
from tests.serving.published import publish_tiny
from tests.zoo.test_preprocess import encoded

pytestmark = [pytest.mark.e2e, pytest.mark.openvino]

ROOT = Path(__file__).parents[2]
MOST_MB = 150
HEAVY = ("tensorflow", "keras", "openvino", "PIL", "hpack", "uvloop", "ray", "matplotlib")


def run(*command, cwd=None, **options):
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A fresh environment with the wheel and what it needs, as its folder."""
    place = tmp_path_factory.mktemp("base")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    # A copy, because building leaves its traces where the sources lie.
    sources = place / "sources"
    for package in ("zoo", "training", "serving"):
        shutil.copytree(ROOT / package, sources / package)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, sources)
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", place, sources)
    (wheel,) = place.glob("convzoo-*.whl")
    environment = place / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    run(*pip, "--python", environment / "bin" / "python", "install", wheel)
    return environment


def test_it_is_small(installed):
    size = sum(file.lstat().st_size for file in installed.rglob("*") if not file.is_dir())
    assert size < MOST_MB * 1e6


def test_importing_the_client_brings_nothing_heavy_and_is_typed(installed):
    code = f"""
import sys
import serving.client, serving.client.testing
from pathlib import Path
serving.client.Client("http://localhost").close()
serving.client.Client("grpc://localhost").close()
print([name for name in {HEAVY!r} if name in sys.modules])
print((Path(serving.__file__).parent / "py.typed").exists())
"""
    told = run(installed / "bin" / "python", "-I", "-c", code, cwd=installed)
    assert told.splitlines() == ["[]", "True"]


def test_convzoo_predict_works_there(installed, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(np.array([[0, 255], [100, 0]], np.uint8)))
    publish_tiny(tmp_path / "models")
    command = installed / "bin" / "convzoo"
    with serve(tmp_path / "models", tmp_path) as server:
        for url in (server.url, f"grpc://{server.grpc}"):
            told = run(command, "predict", "tiny", "a.png", "--url", url, "--json", cwd=tmp_path)
            (document,) = json.loads(told)
            assert document["scores"][0]["label"] == "bee"
        table = run(command, "predict", "tiny", ".", "--url", server.url, cwd=tmp_path)
    assert "bee" in table
    refused = subprocess.run(
        [command, "predict", "tiny", "a.png", "--url", "http://127.0.0.1:9", "--timeout-s", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 10
    assert refused.stderr.startswith("error: No connection to 127.0.0.1:9")
    assert refused.stdout == ""
