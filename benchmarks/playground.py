"""The playground in a real Chromium: how long a stroke waits for its answer, and what it looks like.

    python benchmarks/playground.py --base-path models --model lenet5_modern --compare xo
    python benchmarks/playground.py --base-path models --model lenet5_modern --compare xo --shots docs/images

It serves the base path on free ports of this machine, draws a seven over and over, and reads from
the page the time between a stroke and the answer that shows it. Needs playwright and Chromium.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

SEVEN = [(0.27, 0.22), (0.73, 0.22), (0.42, 0.82)]
ANSWERED = ".answers:not([data-stale]) .best"
CROSS = [[(0.17, 0.17), (0.83, 0.83)], [(0.83, 0.17), (0.17, 0.83)]]


@contextmanager
def served(base_path: Path) -> Iterator[str]:
    """A server of its own on free ports."""
    with tempfile.TemporaryDirectory() as place:
        ready = Path(place) / "ready.json"
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "zoo.command", "serve", "--base-path", str(base_path)),
                *("--rest-port", "0", "--grpc-port", "0", "--ready-file", str(ready)),
            ],
            env=os.environ | {"CONVZOO_LOG_LEVEL": "warning"},
        )
        try:
            while not ready.exists():
                if process.poll() is not None:
                    raise SystemExit(f"The server ended with {process.returncode}.")
                time.sleep(0.02)
            yield f"http://127.0.0.1:{json.loads(ready.read_text())['rest_port']}"
        finally:
            process.terminate()
            process.wait()


def stroke(page: Any, points: list[tuple[float, float]], steps: int = 8) -> None:
    """One stroke with the mouse, points in shares of the field."""
    page.locator("#pad").scroll_into_view_if_needed()
    box = page.locator("#pad").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=steps)
    page.mouse.up()


def open_page(page: Any, url: str, model: str) -> None:
    """The page with one model chosen."""
    page.goto(f"{url}/playground/?model={model}&language=en")
    page.wait_for_selector("html[data-ready]")


def measure(page: Any, rounds: int) -> list[float]:
    """Milliseconds from a stroke to its answer on the page."""
    times = []
    for _ in range(rounds):
        page.click("#clear")
        page.wait_for_selector("#answer-first .best", state="detached")
        stroke(page, SEVEN)
        page.wait_for_selector("#answer-first[data-ms] .best")
        page.wait_for_timeout(300)
        times.append(float(page.locator("#answer-first").get_attribute("data-ms")))
    return times


def shoot(page: Any, url: str, model: str, compare: str, folder: Path) -> None:
    """A picture of each state."""
    folder.mkdir(parents=True, exist_ok=True)

    def save(name: str, *, is_full: bool = False) -> None:
        page.wait_for_timeout(500)
        of = page.locator("body") if is_full else page
        keep(of, name)

    def keep(of: Any, name: str) -> None:
        # With 256 colours a picture takes a third of the bytes and looks almost the same.
        shot = Image.open(io.BytesIO(of.screenshot()))
        few = shot.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)
        few.save(folder / f"playground_{name}.png", optimize=True)

    open_page(page, url, model)
    save("empty")
    # All of the page is in view: maps that nobody sees are not brought up to date.
    view = page.viewport_size
    page.set_viewport_size({"width": view["width"], "height": 3000})
    stroke(page, SEVEN)
    page.wait_for_selector(ANSWERED)
    page.locator('details[data-layer="c3"] .strip button').nth(3).click()
    page.locator("#unit-line", has_text="products").wait_for()
    save("drawn", is_full=True)
    page.set_viewport_size(view)
    page.select_option("#method", "grad_cam")
    page.click("#run")
    page.wait_for_timeout(200)
    page.locator("#overlay-text", has_text="largest value").wait_for(timeout=120_000)
    page.select_option("#second", label=f"{compare} 1")
    page.select_option("#theme", "dark")
    page.select_option("#language", "zh")
    page.wait_for_selector("#answer-second .best")
    page.wait_for_selector(ANSWERED)
    save("dark_chinese")
    page.select_option("#language", "en")
    page.select_option("#theme", "light")
    open_page(page, url, "xo")
    for line in CROSS:
        stroke(page, line)
    page.wait_for_selector(ANSWERED)
    page.click("#trace-run")
    page.locator("#trace button", has_text="Next").click()
    page.wait_for_timeout(500)
    keep(page.locator("#trace-section"), "trace")
    page.route("**/classify*", lambda route: route.fulfill(status=429, json={"error": "Too many."}))
    stroke(page, CROSS[0])
    page.locator("#alert", has_text="Too many.").wait_for()
    save("error")
    page.unroute("**/classify*")
    page.set_viewport_size({"width": 390, "height": 844})
    open_page(page, url, model)
    stroke(page, SEVEN)
    page.wait_for_selector(ANSWERED)
    save("phone")


def main() -> None:
    """Measures, and takes pictures when asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-path", type=Path, required=True)
    parser.add_argument("--model", default="lenet5_modern")
    parser.add_argument("--compare", default="xo", help="Stands beside it in one picture.")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--shots", type=Path, help="Where pictures of each state go.")
    chosen = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("There is no Chromium here; Debian's is `apt-get install chromium`.")
    with served(chosen.base_path) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        if chosen.shots:
            shoot(page, url, chosen.model, chosen.compare, chosen.shots)
            page.set_viewport_size({"width": 1280, "height": 900})
        open_page(page, url, chosen.model)
        measure(page, 3)
        times = sorted(measure(page, chosen.rounds))
        browser.close()
    print(
        f"{chosen.model}: from a stroke to its answer, {len(times)} drawings: median "
        f"{statistics.median(times):.0f} ms, 90 % under {times[int(0.9 * len(times))]:.0f} ms"
    )


if __name__ == "__main__":
    main()
