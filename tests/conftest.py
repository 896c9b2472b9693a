"""What every test may use."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("ci")

DATASETS = Path(
    os.environ.get("CONVZOO_DATASETS", Path(__file__).resolve().parents[1] / "../shared/datasets")
)


@pytest.fixture(scope="session")
def datasets() -> Path:
    """The folder with real MNIST and CIFAR-10; skips where it is not there."""
    if not DATASETS.is_dir():
        pytest.skip(f"no data sets at {DATASETS}; set CONVZOO_DATASETS")
    return DATASETS.resolve()


@pytest.fixture
def poll():
    """Waits until a claim holds; fails with the claim's last value when it does not."""

    def wait(claim, timeout_s=15.0):
        until = time.monotonic() + timeout_s
        while not (value := claim()):
            if time.monotonic() > until:
                raise AssertionError(f"still {value!r} after {timeout_s} s")
            time.sleep(0.02)

    return wait


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
