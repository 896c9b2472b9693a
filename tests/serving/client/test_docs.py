"""Every snippet of docs/client.md, run against a real server."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serving.client import Client
from tests.e2e.conftest import serve
from tests.serving.published import publish_tiny
from tests.zoo.test_preprocess import encoded
from zoo.artifact import write_labels

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs/client.md").read_text()
WITNESS = ROOT / "build" / "witness" / "bin" / "python"
SNIPPET = re.compile(
    r"(?:<!-- runs with (?P<needs>\w+) -->\n)?```python\n(?P<code>.*?)```", re.DOTALL
)
SNIPPETS = [(found["needs"], found["code"]) for found in SNIPPET.finditer(TEXT)]

pytestmark = pytest.mark.openvino


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A server with the model `lenet5` for 28 x 28 pixels."""
    place = tmp_path_factory.mktemp("digits")
    publish_tiny(place / "models", "lenet5", side=28)
    write_labels(place / "models" / "lenet5", {"stable": 1})
    with serve(place / "models", place) as server:
        yield server


@pytest.fixture
def here(tmp_path, monkeypatch):
    png = encoded(np.full((28, 28), 200, np.uint8))
    (tmp_path / "scans").mkdir()
    for name in ("digit.png", "scans/a.png", "scans/b.png"):
        (tmp_path / name).write_bytes(png)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def placed(code, server):
    """The snippet with the addresses of this test's server."""
    authority = server.url.removeprefix("http://")
    return code.replace("localhost:8501", authority).replace("localhost:8500", server.grpc)


def test_every_snippet_runs(digits, here, capsys):
    names: dict = {}
    own = [code for needs, code in SNIPPETS if needs is None]
    assert len(own) > 10
    opened = set()
    for code in own:
        exec(compile(placed(code, digits), "docs/client.md", "exec"), names)  # noqa: S102
        opened |= {each for each in names.values() if isinstance(each, Client)}
    for client in opened:
        client.close()
    told = capsys.readouterr().out
    assert "array[np.newaxis]" in told
    assert told.count("scans") == 2
    assert told.count("('lenet5',)") == 2
    assert names["probabilities"].shape == (2, 3)
    assert len(names["answers"]) == 3


@pytest.mark.parametrize("needs", ["tensorflow_serving", "tritonclient"])
def test_what_stood_before_gives_what_stands_after(digits, here, needs):
    """Old clients run in a process of their own: TensorFlow and gevent change the one they are in."""
    (code,) = [code for each, code in SNIPPETS if each == needs]
    interpreter = Path(sys.executable) if needs == "tensorflow_serving" else WITNESS
    probe = f"import importlib.util, sys; sys.exit(not importlib.util.find_spec({needs!r}))"
    if (
        not interpreter.exists()
        or subprocess.run([interpreter, "-c", probe], check=False).returncode
    ):
        pytest.skip(f"no {needs} here")
    script = placed(code, digits) + "\nprint(probabilities.tolist())\n"
    done = subprocess.run([interpreter, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = np.array(ast.literal_eval(done.stdout.strip().splitlines()[-1]))
    np.testing.assert_allclose(found, np.full((2, 3), 1 / 3), atol=1e-6)


def test_the_table_of_errors_is_the_tree():
    from serving.client import errors

    listed = re.findall(r"^\| (`\w+Error`.*?) \|.*\| (\d+) \|$", TEXT, re.MULTILINE)
    told = {name: int(code) for names, code in listed for name in re.findall(r"`(\w+)`", names)}
    kinds = [each for each in vars(errors).values() if isinstance(each, type)]
    tree = {each.__name__: each.exit_code for each in kinds if issubclass(each, errors.ClientError)}
    assert told == {name: code for name, code in tree.items() if name != "ClientError"}
