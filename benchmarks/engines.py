"""TensorFlow and OpenVINO in each precision, in turns, on one image at a time.

    python -m benchmarks.engines [--models lenet5_modern,alexnet,googlenet,vgg16]
        [--precisions fp32,bf16,int8] [--rounds 9] [--seconds 1.5] [--out build/engines]

The networks are published with fresh weights (`benchmarks.untrained`), the eight-bit ones calibrated
on noise: neither changes how long anything takes. Each engine has a process of its own, loaded once
for all rounds, and waits while another is measured. TensorFlow runs the published SavedModel's
`serving_default` as its users call it; OpenVINO runs as the server runs it.

A round measures every engine, one after the other, each round starting with another; its ratio is
TensorFlow's median time over the engine's in that round. What is told is the median of the rounds'
ratios, and the lowest and the highest of them. A round during which other programs took more than
`--most-others` of the processors is measured again, up to three times as many rounds as asked for;
then the least disturbed count. Whatever was taken during those that count is told, too.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

# What was asked for, as ratios to TensorFlow.
ASKED = {
    ("lenet5_modern", "fp32"): 7.0,
    ("alexnet", "fp32"): 1.6,
    ("googlenet", "fp32"): 1.4,
    ("vgg16", "fp32"): 1.5,
    ("alexnet", "int8"): 4.5,
    ("googlenet", "int8"): 2.5,
    ("vgg16", "int8"): 5.0,
}

# Loads an engine, says so, and then measures for as many seconds as each line of its input says.
ENGINE = """
import json, sys, time
import numpy as np
from pathlib import Path
from zoo.artifact import read_golden, read_manifest
place, engine = Path(sys.argv[1]), sys.argv[2]
image = np.ascontiguousarray(read_golden(place)[0]["image"][:1])
if engine == "tensorflow":
    import tensorflow as tf
    signature = tf.saved_model.load(str(place)).signatures["serving_default"]
    run = lambda: signature(image=tf.constant(image))["probabilities"].numpy()
else:
    from serving.core import engine as engines
    model = engines.load("openvino", place, read_manifest(place))
    run = lambda: model.run("serving_default", {"image": image})["probabilities"]
for _ in range(5):
    run()
print("ready", flush=True)
for line in sys.stdin:
    until, times = time.perf_counter() + float(line), []
    run()
    while time.perf_counter() < until or len(times) < 5:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    print(json.dumps(times), flush=True)
"""


class Engine:
    """One engine in a process of its own, loaded and waiting."""

    def __init__(self, name: str, place: Path) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-c", ENGINE, str(place), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        self._line()

    def cpu_s(self) -> float:
        """The processor time it has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _line(self) -> str:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise SystemExit(f"{self.name} ended with exit code {self._process.wait()}.")
        return line

    def median_s(self, seconds: float) -> float:
        """The median time of one image, asked for so many seconds."""
        self._process.stdin.write(f"{seconds}\n")  # type: ignore[union-attr]
        self._process.stdin.flush()  # type: ignore[union-attr]
        return statistics.median(json.loads(self._line()))

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()


@contextlib.contextmanager
def loaded(places: dict[str, Path]) -> Iterator[dict[str, Engine]]:
    """Each precision's engine, and TensorFlow's; they are ended afterwards."""
    with contextlib.ExitStack() as stack:
        engines = {}
        for name, place in places.items():
            engines[name] = Engine("tensorflow" if name == "tensorflow" else "openvino", place)
            stack.callback(engines[name].close)
        yield engines


def processors_s() -> tuple[float, float]:
    """The time that all processors together have worked, and the time that there was."""
    line = Path("/proc/stat").read_text().splitlines()[0]
    user, nice, system, idle, waiting, *rest = (
        int(each) / os.sysconf("SC_CLK_TCK") for each in line.split()[1:9]
    )
    worked = user + nice + system + sum(rest)
    return worked, worked + idle + waiting


def measure(
    places: dict[str, Path], rounds: int, seconds: float, most_others: float
) -> tuple[dict[str, list[float]], float]:
    """Each engine's median time of one image, by round, in seconds.

    Returns:
        Those, and the largest share of the processors that others took during one of the rounds.
    """
    found: list[tuple[float, dict[str, float]]] = []
    with loaded(places) as engines:
        order = list(engines)
        while len(found) < 3 * rounds:
            first = len(found) % len(order)
            ours = -sum(each.cpu_s() for each in engines.values())
            worked, there_was = processors_s()
            times = {
                name: engines[name].median_s(seconds) for name in order[first:] + order[:first]
            }
            ours += sum(each.cpu_s() for each in engines.values())
            worked, there_was = (
                now - then for now, then in zip(processors_s(), (worked, there_was), strict=True)
            )
            found.append((max(worked - ours, 0.0) / there_was, times))
            if sum(others <= most_others for others, _ in found) == rounds:
                break
    chosen = sorted(found, key=lambda each: each[0])[:rounds]
    return {name: [times[name] for _, times in chosen] for name in places}, chosen[-1][0]


def summarise(model: str, found: dict[str, list[float]]) -> dict[str, Any]:
    """Times in milliseconds and ratios to TensorFlow: median, lowest, highest."""

    def spread(values: list[float]) -> dict[str, float]:
        return {"median": statistics.median(values), "low": min(values), "high": max(values)}

    return {
        name: {
            "ms": spread([1e3 * each for each in times]),
            "ratio": spread(
                [one / other for one, other in zip(found["tensorflow"], times, strict=True)]
            ),
            "asked": ASKED.get((model, name)),
        }
        for name, times in found.items()
    }


def as_markdown(document: dict[str, Any]) -> str:
    """The table of a run."""
    lines = [
        "| network | engine | one image | times faster than TensorFlow | asked |",
        "|---|---|---|---|---|",
    ]
    for model, engines in document["models"].items():
        for name, each in engines.items():
            engine = "TensorFlow" if name == "tensorflow" else f"OpenVINO {name}"
            ratio = "{median:.2f} ({low:.2f} to {high:.2f})".format(**each["ratio"])
            asked = "" if each["asked"] is None else f"{each['asked']:.1f}"
            lines.append(
                f"| {model} | {engine} | {each['ms']['median']:.3g} ms "
                f"| {'' if name == 'tensorflow' else ratio} | {asked} |"
            )
    told = (f"{model} {others:.1%}" for model, others in document["others"].items())
    lines += ["", f"The most that other programs took of the processors: {', '.join(told)}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures; writes `<out>.json` and `<out>.md` after each network, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="lenet5_modern,alexnet,googlenet,vgg16")
    parser.add_argument("--precisions", default="fp32,bf16,int8")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.5, help="For each engine and round.")
    parser.add_argument(
        "--most-others", type=float, default=0.05, help="Of the processors, during a round."
    )
    parser.add_argument("--base-path", type=Path, default=ROOT / "build" / "benchmark-precisions")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "engines")
    given = parser.parse_args()
    document: dict[str, Any] = {
        "rounds": given.rounds,
        "seconds": given.seconds,
        "models": {},
        "others": {},
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    for model in given.models.split(","):
        precisions = given.precisions.split(",")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.untrained", str(given.base_path)),
                *(f"{model}:{precision}" for precision in precisions),
            ],
            check=True,
            cwd=ROOT,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.PIPE,
            text=True,
        )
        published = [Path(line) for line in done.stdout.splitlines()]
        places = dict(zip(precisions, published, strict=True))
        places = {"tensorflow": published[0], **places}
        found, others = measure(places, given.rounds, given.seconds, given.most_others)
        document["models"][model] = summarise(model, found)
        document["others"][model] = others
        given.out.with_suffix(".json").write_text(json.dumps(document, indent=2) + "\n")
        given.out.with_suffix(".md").write_text(as_markdown(document))
    print(as_markdown(document))


if __name__ == "__main__":
    main()
