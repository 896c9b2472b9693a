"""The commands of the README and the guides, typed one after the other as they are printed."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.tensorflow, pytest.mark.openvino, pytest.mark.slow]

ROOT = Path(__file__).parents[2]


def blocks(file, title):
    """The code of a section, as shell: a Python block is given to Python."""
    text = (ROOT / file).read_text(encoding="utf-8")
    section = text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    for language, code in re.findall(r"```(sh|python)\n(.*?)```", section, re.DOTALL):
        yield code if language == "sh" else f"python - <<'END'\n{code}END\n"


def type_in(place, lines):
    """Runs a script whose server gets ports of its own and ends with the script."""
    with socket.socket() as rest, socket.socket() as grpc:
        for each in (rest, grpc):
            each.bind(("127.0.0.1", 0))
        ports = rest.getsockname()[1], grpc.getsockname()[1]
    script = "".join(lines).replace("127.0.0.1:8501", f"127.0.0.1:{ports[0]}")
    script = script.replace(". .venv/bin/activate\n", "").replace(
        "convzoo serve", f"convzoo serve --rest-port {ports[0]} --grpc-port {ports[1]}"
    )
    programs = place / "bin"
    programs.mkdir(exist_ok=True)
    for name, module in (("convzoo", " -m zoo.command"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{module} "$@"\n')
        (programs / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", f"set -eu\ntrap 'kill $(jobs -p) || true; wait' EXIT\n{script}"],
        cwd=place,
        env=os.environ
        | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "CONVZOO_URL": f"http://127.0.0.1:{ports[0]}",
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("newcomer")


def test_the_readmes_commands_do_what_they_say(place):
    told = type_in(place, blocks("README.md", "The same by hand"))
    assert told.count(".png") >= 32
    assert "\n8 0." in told
    assert '"state":"AVAILABLE"' in told
    assert '"class_id":8,"label":"8"' in told


def test_the_guide_to_explanations_goes_on_from_there(place):
    text = (ROOT / "docs" / "explain.md").read_text(encoding="utf-8")
    first = text.split("```sh\n", 1)[1].split("```", 1)[0]
    trained = ("convzoo train", "convzoo publish")
    own = [line + "\n" for line in first.splitlines() if not line.startswith(trained)]
    told = type_in(place, [*own, *blocks("docs/explain.md", "Over the server")])
    assert "grad_cam" in told
    assert (place / "seen.png").read_bytes().startswith(b"\x89PNG")


def test_the_guide_to_releasing_promotes_and_rolls_back(place):
    text = (ROOT / "docs" / "releasing.md").read_text(encoding="utf-8")
    first = text.split("```sh\n", 1)[1].split("```", 1)[0]
    pipeline = text.split("```yaml\n", 1)[1].split("```", 1)[0]
    # How long an image takes on a busy machine is no question of the guide.
    (place / "pipeline.yaml").write_text(
        pipeline.replace("0.02}", "0.02, most_latency_ratio: 100}")
    )
    # The README has published version 1.
    first = first.split("\n", 1)[1]
    told = type_in(place, [first])
    assert "stable: 1 -> 2" in told
    assert "stable: 2 -> 1" in told
    assert "complaints" in told
