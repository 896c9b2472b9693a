"""OpenVINO leaves the stack that signals are handled on as it was."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.serving.published import publish_tiny

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.openvino

# The network goes in another thread than it came in, as a loader's may; then somebody presses Ctrl-C.
PROGRAM = textwrap.dedent(
    """
    import os, signal, sys, threading
    from pathlib import Path
    from serving.engines.openvino import OpenVINOModel
    from zoo.artifact import read_manifest
    from zoo.signal_stack import _ask

    before = _ask()
    if sys.argv[2] == "engine":
        place = Path(sys.argv[1])
        kept = [OpenVINOModel(place, read_manifest(place))]
    else:
        import numpy as np
        from training.openvino import compile_ir, require

        require("fp32")
        (network,) = Path(sys.argv[1]).rglob("*.xml")
        kept = [compile_ir(network, "fp32")]
    after = _ask()
    assert (before.sp, before.flags, before.size) == (after.sp, after.flags, after.size)

    def drop():
        if sys.argv[2] == "engine":
            kept[0].close()
        kept.clear()

    thread = threading.Thread(target=drop)
    thread.start()
    thread.join()
    signal.signal(signal.SIGINT, lambda *_: print("handled", flush=True))
    os.kill(os.getpid(), signal.SIGINT)
    print("went on")
    """
)


@pytest.mark.parametrize("by", ["engine", "training"])
@pytest.mark.parametrize("faults", [[], ["-X", "faulthandler"]], ids=["plain", "faulthandler"])
def test_a_signal_is_handled_after_networks_have_come_and_gone(tmp_path, by, faults):
    place = publish_tiny(tmp_path)
    done = subprocess.run(
        [sys.executable, *faults, "-c", PROGRAM, str(place), by],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert done.stdout.split("\n")[:2] == ["handled", "went on"]
