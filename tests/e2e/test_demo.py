"""The main job, as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.tensorflow, pytest.mark.slow]


def test_the_demo_trains_publishes_serves_asks_and_stops(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "zoo.command", "demo", "--dir", str(tmp_path), "--json"],
        stdout=subprocess.PIPE,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0
    result = json.loads(done.stdout)
    assert result["accuracy"] >= 0.97
    assert len(result["answers"]) >= 10
    right = sum(each["label"] == each["true_label"] for each in result["answers"])
    assert right >= len(result["answers"]) - 2
    for picture in result["pictures"]:
        assert Path(picture).read_bytes().startswith(b"\x89PNG")
    version = tmp_path / "1" / "models" / result["model"] / "1"
    assert (version / "saved_model.pb").is_file()
    assert (version / "assets.extra/convzoo/openvino/fp32.xml").is_file()
