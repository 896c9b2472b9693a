"""A real server on digits, digits that change, and a job that must be told."""

import io
import json
import time

import numpy as np
import pytest

from serving.client import Client
from tests.e2e.conftest import convzoo, serve
from training.corruptions import CHANGES
from training.data import sources
from zoo.command import main
from zoo.drift.records import read_window, window_files

pytestmark = [pytest.mark.e2e, pytest.mark.tensorflow]

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def digits():
    """The test part: pixels uint8 [N, 8, 8, 1] and class ids."""
    test = sources.find("digits").load().test
    return test.pixels_nhwc, test.class_ids


def png(pixels_hwc):
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels_hwc[:, :, 0]).save(buffer, "PNG")
    return buffer.getvalue()


class Asked:
    """A server that logs all it is asked, and moves what it wrote of one kind of images away."""

    def __init__(self, server, rest, grpc, published, log, preprocessing):
        self.server, self.clients = server, (rest, grpc)
        self.model, self.log, self.preprocessing = published.model, log, preprocessing

    def ask(self, pixels_nhwc):
        """Half as images over REST, half as tensors over gRPC."""
        rest, grpc = self.clients
        half = len(pixels_nhwc) // 2
        for start in range(0, half, 50):
            rest.classify(self.model, [png(each) for each in pixels_nhwc[start:half][:50]])
        rows = [self.preprocessing.to_pixels(each) for each in pixels_nhwc[half:]]
        for start in range(0, len(rows), 32):
            some = np.stack(rows[start : start + 32])
            grpc.predict(self.model, self.preprocessing.to_input(some))

    def written(self):
        files = [each for each in window_files(self.log) if not each.name.startswith(".")]
        return sum(read_window(each).images for each in files)

    def keep(self, place, images):
        until = time.monotonic() + 20
        while self.written() < images:
            assert time.monotonic() < until, (self.written(), self.server.log.read_text())
            time.sleep(0.05)
        assert self.written() == images
        (self.log / self.model).rename(place / self.model)


def judged(capsys, version, *arguments):
    """The exit code of `convzoo drift`, and its report."""
    capsys.readouterr()
    code = 0
    try:
        main(["drift", str(version), *map(str, arguments), "--json"])
    except SystemExit as stopped:
        code = stopped.code or 0
    report = json.loads(capsys.readouterr().out)
    return code, {each["name"]: each["verdict"] for each in report["findings"]}


def test_a_job_is_told_when_the_digits_change(published, digits, tmp_path, capsys):
    from zoo.artifact import read_manifest, verify

    version = published.base_path / published.model / "1"
    assert "assets.extra/convzoo/drift.json" in verify(version).files
    pixels, class_ids = digits
    noise, strengths = CHANGES["noise"]
    asked_for = {
        "plain": pixels,
        "inverted": 255 - pixels,
        "dim": pixels // 2,
        "noisy": np.stack([noise(each, strengths[-1], RNG) for each in pixels]),
        "zeros and ones": np.concatenate([pixels[class_ids < 2]] * 3),
    }
    log = tmp_path / "log"
    options = ("--drift-log", log, "--drift-sample", "1", "--drift-interval-s", "0.2")
    preprocessing = read_manifest(version).preprocessing
    with (
        serve(published.base_path, tmp_path, *options) as server,
        Client(server.url) as rest,
        Client(f"grpc://{server.grpc}") as grpc,
    ):
        asked = Asked(server, rest, grpc, published, log, preprocessing)
        for name, some in asked_for.items():
            (tmp_path / name).mkdir()
            asked.ask(some)
            asked.keep(tmp_path / name, len(some))
        # A folder that is no longer one: requests do not notice.
        log.rename(tmp_path / "was")
        log.write_text("in the way")
        asked.ask(pixels[:40])
        time.sleep(0.6)
        assert rest.classify(published.model, png(pixels[0])).label
        # It comes back, and what was counted meanwhile is written when the server goes.
        log.unlink()
        asked.ask(pixels[40:60])
        assert server.stop() == 0
        assert asked.written() == 61
        assert "nothing can be written to" in server.log.read_text()
        assert "Traceback" not in server.log.read_text()

    code, verdicts = judged(capsys, version, tmp_path / "plain")
    assert code == 0, verdicts
    assert set(verdicts) >= {"mean", "contrast", "sharpness", "width", "class", "inputs", "answers"}
    code, verdicts = judged(capsys, version, tmp_path / "inverted")
    assert code == 4
    assert verdicts["mean"] == verdicts["probability"] == verdicts["inputs"] == "alarm"
    assert verdicts["width"] == "ok"
    code, verdicts = judged(capsys, version, tmp_path / "dim")
    assert (code, verdicts["mean"], verdicts["sharpness"]) == (4, "alarm", "ok")
    code, verdicts = judged(capsys, version, tmp_path / "noisy")
    assert (code, verdicts["mean"]) == (4, "alarm")
    code, verdicts = judged(capsys, version, tmp_path / "zeros and ones")
    assert (code, verdicts["class"]) == (4, "alarm")

    # As a job in a process of its own runs it.
    page = tmp_path / "drift.html"
    done = convzoo("drift", version, tmp_path / "inverted", "--html", page, check=False)
    assert done.returncode == 4
    assert "is asked is not what it was trained on" in done.stderr
    assert "Traceback" not in done.stderr
    assert page.read_text(encoding="utf-8").count("<figure>") == len(verdicts)

    # Nothing of an image is anywhere: every file is small and has no list as long as one.
    files = window_files(tmp_path / "plain")
    assert 0 < sum(each.stat().st_size for each in files) < 20_000 * len(files)
    for file in files:
        window = read_window(file)
        assert max(map(len, (*window.counts.values(), window.classes))) < 8 * 8 / 2
        assert all(each.dimensions <= 16 for each in window.embeddings.values())
