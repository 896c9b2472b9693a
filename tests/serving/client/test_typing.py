"""The client's types, as mypy and pyright read them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILES = ("serving/client", "tests/typing/client.py")


def check(*command):
    found = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_mypy_knows_what_every_method_gives():
    check("mypy", *FILES)


@pytest.mark.slow  # pyright reads NumPy anew each time
def test_pyright_knows_it_too():
    check("pyright", "--pythonpath", sys.executable, *FILES)
