"""A real server on a tiny network, for every test that asks one."""

import shutil
import subprocess

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


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """An authority `ca.pem`, and `server` and `client` certificates by it; `other.pem` by itself."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("needs the openssl program")
    place = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments):
        subprocess.run([program, *arguments], cwd=place, check=True, capture_output=True)

    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for name in ("ca", "other"):
        openssl(
            *new, "-days", "2", "-subj", f"/CN={name}", "-keyout", f"{name}.key",
            "-out", f"{name}.pem",
        )  # fmt: skip
    for name, more in (("server", ("-addext", "subjectAltName=DNS:model.test")), ("client", ())):
        openssl(
            *new, "-days", "2", "-subj", f"/CN={name}", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-addext", "basicConstraints=critical,CA:FALSE", *more,
            "-keyout", f"{name}.key", "-out", f"{name}.pem",
        )  # fmt: skip
    return place
