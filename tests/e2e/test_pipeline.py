"""The whole pipeline as a plain shell runs it: exit codes, what it leaves, what a server answers."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import yaml

from zoo.artifact import MANIFEST, list_versions, read_labels

ACTION = Path(__file__).parents[2] / ".github/actions/pipeline/action.yml"

pytestmark = [pytest.mark.e2e, pytest.mark.tensorflow]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data and a pipeline file."""
    from training.data import digits

    place = tmp_path_factory.mktemp("pipeline")
    images = digits.load()
    test = np.arange(len(images)) % 4 == 0
    np.savez(
        place / "good.npz",
        x_train=images.pixels_nhwc[~test],
        y_train=images.class_ids[~test],
        x_test=images.pixels_nhwc[test],
        y_test=images.class_ids[test],
    )
    rng = np.random.default_rng(1)
    wrong = images.class_ids[~test].copy()
    some = rng.random(len(wrong)) < 0.7
    wrong[some] = rng.permutation(wrong[some])
    np.savez(
        place / "worse.npz",
        x_train=images.pixels_nhwc[~test],
        y_train=wrong,
        x_test=images.pixels_nhwc[test],
        y_test=images.class_ids[test],
    )
    write(place)
    return place


def write(place, data="good.npz", **changes):
    settings = {
        "recipe": "digits_lenet5_modern",
        "overrides": {
            "data.source": "npz",
            "epochs": 8,
            "augmentation.affine": None,
            **changes,
        },
        "data_dir": data,
        "gates": {"least_accuracy": 0.8, "accuracy_drop": 0.02, "most_latency_ratio": 20},
    }
    (place / "pipeline.yaml").write_text(yaml.safe_dump(settings))


def convzoo(place, *arguments, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "zoo.command", *arguments],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "GITHUB_STEP_SUMMARY": str(place / "summary.md")},
    )
    assert done.returncode == code, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done


def run(place, code=0):
    done = convzoo(place, "pipeline", "run", "pipeline.yaml", "--json", code=code)
    return json.loads(done.stdout) if code == 0 else done.stderr


def as_github_does(place, code=0, **inputs):
    """Runs the composite action's own step, and returns what it put out.

    The shell, its options and its files are GitHub's; expressions are the action's inputs.
    """
    action = yaml.safe_load(ACTION.read_text())
    values = {name: each.get("default", "") for name, each in action["inputs"].items()} | inputs
    (step,) = [each for each in action["runs"]["steps"] if each.get("id") == "run"]

    def filled(text):
        return re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: values[found[1]], text)

    assert "${{" not in step["run"]  # what a caller sends is no part of the script
    environment = {name: filled(text) for name, text in step["env"].items()}
    assert not any("${{" in text for text in environment.values())
    output = place / "github_output"
    output.write_text("")
    (place / "step.sh").write_text(step["run"])
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", place / "step.sh"],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={
            **os.environ,
            **environment,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "GITHUB_OUTPUT": str(output),
            "GITHUB_STEP_SUMMARY": str(place / "summary.md"),
        },
    )
    assert done.returncode == code, done.stderr[-3000:]
    return dict(line.split("=", 1) for line in output.read_text().splitlines()), done.stderr


def stable(place):
    return read_labels(place / "models" / "lenet5_modern").get("stable")


def test_from_data_to_production_and_back(place):
    # The first run promotes.
    first = run(place)
    assert first["promoted"]
    assert first["ran"] == ["check", "train", "publish", "gate", "promote"]
    assert stable(place) == first["version"] == 1
    suite = ET.fromstring((place / "pipeline" / "gate.xml").read_text())  # noqa: S314
    assert suite.get("failures") == "0"
    assert int(suite.get("tests")) == len(suite.findall("testcase")) >= 3
    assert "lenet5_modern version 1: pass" in (place / "summary.md").read_text()

    check_card(place / "models/lenet5_modern/1")

    # The second changes nothing.
    before = sorted(path for path in place.rglob("*") if "models" in path.parts)
    outputs, _ = as_github_does(place)
    second = json.loads(outputs["result"])
    assert outputs["exit-code"] == "0"
    assert second["ran"] == []
    assert "nothing to do" in second["words"]
    assert sorted(path for path in place.rglob("*") if "models" in path.parts) == before
    steps = json.loads(
        convzoo(place, "pipeline", "run", "pipeline.yaml", "--dry-run", "--json").stdout
    )
    assert not any(step["runs"] for step in steps)

    # Worse data is refused with 4, and production stays.
    write(place, "worse.npz")
    told = run(place, code=4)
    assert "is refused by its gates" in told
    assert stable(place) == 1
    report = json.loads((place / "pipeline" / "gate.json").read_bytes())
    failed = {each["name"] for each in report["gates"] if each["outcome"] == "fail"}
    assert "accuracy against the baseline" in failed
    assert report["against"] == 1
    # Again the same verdict, without training again.
    outputs, told = as_github_does(place, code=4, overrides="promote.label=null promote.keep=9")
    assert outputs["exit-code"] == "4"
    assert json.loads(outputs["result"])["outcome"] == "fail"
    assert "train: nothing has changed" in told
    assert stable(place) == 1
    convzoo(place, "promote", "lenet5_modern", "2", code=2)

    # A killed run goes on: training, and then nothing is done twice.
    write(place, epochs=14)
    kill_in_training(place)
    third = run(place)
    assert third["version"] == 3
    assert stable(place) == 3

    # Rollback restores the previous answers of a running server.
    with serving(place) as ask:
        golden = np.load(place / "models/lenet5_modern/1/assets.extra/convzoo/golden.npz")
        image, first = golden["input:image"], golden["output:probabilities"]
        assert not np.allclose(ask("labels/stable", image), first, atol=1e-4)
        convzoo(place, "rollback", "lenet5_modern", "--why", "complaints")
        wait_until(lambda: np.allclose(ask("labels/stable", image), first, atol=1e-4))
    assert stable(place) == 1
    told = convzoo(place, "versions", "lenet5_modern", "--history").stdout
    assert "3 -> 1" in told
    assert "complaints" in told

    refuse_what_is_corrupted(place)
    assert stable(place) == 1


def refuse_what_is_corrupted(place):
    """A candidate of which one bit has changed is refused with 7, everywhere."""
    weights = place / "models/lenet5_modern/3/assets.extra/convzoo/openvino/fp32.bin"
    data = bytearray(weights.read_bytes())
    data[100] ^= 1
    weights.write_bytes(data)
    told = convzoo(place, "gate", "models/lenet5_modern/3", "--data", "good.npz", code=7).stderr
    assert "fp32.bin has SHA-256" in told
    convzoo(place, "promote", "lenet5_modern", "3", code=7)
    run(place, code=7)


def kill_in_training(place):
    with subprocess.Popen(
        [sys.executable, "-m", "zoo.command", "pipeline", "run", "pipeline.yaml"],
        cwd=place,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        watchdog = threading.Timer(120, process.kill)
        watchdog.start()
        told = []
        for line in process.stderr:
            told.append(line)
            if "epoch 2/" in line:
                process.send_signal(signal.SIGKILL)
                break
        watchdog.cancel()
    assert any("epoch 2/" in line for line in told), told
    assert sorted(list_versions(place / "models/lenet5_modern")) == [1, 2]


class serving:  # noqa: N801 - used as a function
    """A server on the models, as a context manager that gives a function to ask it."""

    def __init__(self, place):
        self.place = place

    def __enter__(self):
        ready = self.place / "ready.json"
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "zoo.command", "serve", "--base-path", "models"),
                *("--rest-port", "0", "--grpc-port", "0", "--ready-file", str(ready)),
                *("--poll-interval-s", "0.2"),
            ],
            cwd=self.place,
            stderr=subprocess.DEVNULL,
        )
        wait_until(ready.exists)
        port = json.loads(ready.read_bytes())["rest_port"]

        def ask(which, image):
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/v1/models/lenet5_modern/{which}:predict",
                json.dumps({"instances": image.tolist()}).encode(),
                {"content-type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=30) as reply:
                return np.asarray(json.load(reply)["predictions"], np.float32)

        return ask

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)


def wait_until(holds, limit_s=60):
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_faulty_pipeline_file_names_its_fault(tmp_path):
    (tmp_path / "p.yaml").write_text("recipe: digits_lenet5_modern\ngates: {acuracy_drop: 1}\n")
    assert "acuracy_drop" in convzoo(tmp_path, "pipeline", "run", "p.yaml", code=2).stderr
    (tmp_path / "p.yaml").write_text("recipe: nothing\n")
    assert "nothing" in convzoo(tmp_path, "pipeline", "run", "p.yaml", "--dry-run", code=2).stderr


def check_card(version):
    """A published version has a model card that hubs can read, and its reports."""
    card = (version / "assets.extra/convzoo/README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    manifest = json.loads((version / MANIFEST).read_bytes())
    assert front["library_name"] == "keras"
    assert front["pipeline_tag"] == "image-classification"
    measured = front["model-index"][0]["results"][0]["metrics"][0]
    assert measured["value"] == pytest.approx(manifest["metrics"]["accuracy"]["value"], abs=1e-6)
    names = {path.name for path in (version / "assets.extra/convzoo/report").iterdir()}
    assert names >= {"evaluation.json", "metrics.jsonl", "data.json", "confusion.png"}
