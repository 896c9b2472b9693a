"""Decoding photographs: as the server does it, beside Pillow, alone and on every core.

    python benchmarks/decoding.py [--seconds 2]

Pictures like photographs (smooth shapes and fine noise) of several sizes are decoded from JPEG, in
one thread and in as many as there are cores, in turns within each round; the median of the rounds
is told, and how many times the first column it is. The last column is all that the server does
with an image: decoding, resizing to 224x224 and arithmetic.
"""

import argparse
import io
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

# A script's own folder comes first on the path; `serving.py` there would hide the package.
sys.path[0] = str(Path(__file__).parents[1])

from zoo.preprocess import ImageLimits, Preprocessing, Resize, ScaleTo, decode  # noqa: E402
from zoo.spec import ImageInput  # noqa: E402

SIZES = ((224, 224), (375, 500), (1080, 1920))
ROUNDS = 5


def photograph(height: int, width: int) -> bytes:
    """A JPEG that takes as long as a photograph of its size."""
    rng = np.random.default_rng(1)
    small = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3)).astype(np.uint8)
    smooth = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth, np.int16) + rng.normal(0, 6, (height, width, 3)).astype(np.int16)
    written = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(written, "JPEG", quality=90)
    return written.getvalue()


def per_second(one: Callable[[], object], threads: int, seconds: float) -> float:
    """How often `one` runs in a second, in so many threads."""
    until = time.perf_counter() + seconds

    def work(_: int) -> int:
        count = 0
        while time.perf_counter() < until:
            one()
            count += 1
        return count

    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        total = sum(pool.map(work, range(threads)))
    return total / (time.perf_counter() - started)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    given = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    limits = ImageLimits()
    preprocessing = Preprocessing(
        input=ImageInput(height=224, width=224, channels=3),
        pixel_steps=(Resize(height=224, width=224),),
        input_steps=(ScaleTo(),),
    )
    print(f"| JPEG | Pillow | convzoo | convzoo, {cores} threads | with resizing |")
    print("|---|---|---|---|---|")
    for height, width in SIZES:
        data = photograph(height, width)

        def pillow(data: bytes = data) -> object:
            return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

        def ours(data: bytes = data) -> object:
            return decode(data, limits)

        def whole(data: bytes = data) -> object:
            return preprocessing.to_input(preprocessing.to_pixels(decode(data, limits))[None])

        ways = ((pillow, 1), (ours, 1), (ours, cores), (whole, cores))
        rounds = [
            [per_second(one, threads, given.seconds / ROUNDS) for one, threads in ways]
            for _ in range(ROUNDS)
        ]
        first, *rest = (statistics.median(each) for each in zip(*rounds, strict=True))
        cells = [f"{rate:,.0f} /s ({rate / first:.1f})" for rate in rest]
        print(
            f"| {width}x{height}, {len(data) / 1000:.0f} kB | {first:,.0f} /s "
            f"| {' | '.join(cells)} |"
        )


if __name__ == "__main__":
    main()
