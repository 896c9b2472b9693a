"""Steps a second of `convzoo train`'s loop beside a plain Keras `fit`: same network, batch and data.

    python benchmarks/training.py                       # the small networks
    python benchmarks/training.py alexnet googlenet     # any of the catalog
    python benchmarks/training.py --all                 # every one of them; hours on two cores

Both take turns in one process, after a warm-up that compiles. Above 1 the loop is faster. A rate is
that of all rounds together, each an epoch. tf.data's tuner makes many an epoch of Keras's wait for it
to wake up (`training.data.pipeline.batches` does without), so the ratio of the best rounds, which
had no such wait, stands beside, and the ratio of a step's processor time (the median of all rounds).
Each network has a process of its own, so that none is measured beside what another has left in
memory.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# A script's own folder comes first on the path, where this file would stand for the package.
sys.path[0] = str(Path(__file__).parents[1])

import numpy as np  # noqa: E402

import zoo  # noqa: E402
from zoo.quiet import import_tensorflow  # noqa: E402

# Multiply-accumulates of a round: those of a step are three times the forward pass's.
ROUND_MACS = 1e11
SMALL = ("lenet5", "lenet5_modern", "convnet", "alexnet_cifar", "resnet20", "xo")


def main() -> None:
    """Measures and prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", help=f"default: {' '.join(SMALL)}")
    parser.add_argument("--all", action="store_true", help="every network of the catalog")
    parser.add_argument("--batch-size", type=int, help="by the network's size")
    parser.add_argument("--steps", type=int, help="steps a round; about two seconds of them")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    names = zoo.list_models() if arguments.all else arguments.networks or list(SMALL)
    given = (arguments.batch_size, arguments.steps, arguments.rounds)
    if len(names) == 1:
        import_tensorflow()
        rows = [measure(names[0], *given)]
    else:
        rows = []
        sys.stdout.write(
            "| network | images a step | Keras fit, steps/s | convzoo | ratio | of the best rounds "
            "| of processor time |\n"
        )
        sys.stdout.write("|---|---|---|---|---|---|---|\n")
        for name in sorted(names, key=lambda each: zoo.describe(each).macs):
            row = measured_apart(name, *given)
            rows.append(row)
            sys.stdout.write(
                f"| `{name}` | {row['batch_size']} | {row['keras']:.3g} | {row['convzoo']:.3g} "
                f"| {row['ratio']:.2f} | {row['best']:.2f} | {row['processor']:.2f} |\n"
            )
            sys.stdout.flush()
    if arguments.json or len(names) == 1:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")


def measured_apart(
    name: str, batch_size: int | None, steps: int | None, rounds: int
) -> dict[str, Any]:
    """The same in a process of its own."""
    options = [f"--rounds={rounds}"]
    options += [f"--batch-size={batch_size}"] if batch_size else []
    options += [f"--steps={steps}"] if steps else []
    done = subprocess.run(
        [sys.executable, __file__, name, *options, "--json"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    row: dict[str, Any] = json.loads(done.stdout)[0]
    return row


def measure(name: str, batch_size: int | None, steps: int | None, rounds: int) -> dict[str, Any]:
    """Steps a second of both, and the ratios of time, of the best rounds and of processor time."""
    macs = zoo.describe(name).macs
    batch_size = batch_size or (32 if macs < 3e8 else 8 if macs < 3e9 else 2)
    # About two seconds, so that what an epoch costs once, in either, does not decide.
    steps = steps or min(300, max(3, int(ROUND_MACS / (3 * macs * batch_size))))
    rng = np.random.default_rng(1)
    shape = zoo.describe(name).input.shape
    classes = zoo.describe(name).num_classes
    pixels = rng.integers(0, 256, (batch_size * steps, *shape)).astype(np.uint8)
    ids = rng.integers(0, classes, len(pixels))
    ours = loop_round(name, pixels, ids, batch_size)
    keras_fit = fit_round(name, pixels, ids, batch_size)
    ours()
    keras_fit()
    seconds: dict[str, list[float]] = {"convzoo": [], "keras": []}
    processor_s: dict[str, list[float]] = {"convzoo": [], "keras": []}
    for _ in range(rounds):
        for key, one in (("keras", keras_fit), ("convzoo", ours)):
            started, worked = time.perf_counter(), time.process_time()
            one()
            processor_s[key].append(time.process_time() - worked)
            seconds[key].append(time.perf_counter() - started)
    rates = {key: steps * rounds / sum(each) for key, each in seconds.items()}
    by_processor = [statistics.median(processor_s[key]) for key in ("keras", "convzoo")]
    return {
        "network": name,
        "batch_size": batch_size,
        "keras": rates["keras"],
        "convzoo": rates["convzoo"],
        "ratio": rates["convzoo"] / rates["keras"],
        "best": min(seconds["keras"]) / min(seconds["convzoo"]),
        "processor": by_processor[0] / by_processor[1],
    }


def loop_round(name: str, pixels: Any, ids: Any, batch_size: int) -> Callable[[], None]:
    """One epoch of this project's loop."""
    from training import recipe as recipes
    from training.checkpoint import Place
    from training.data.dataset import Dataset, Images
    from training.loop import Loop
    from training.run import Run
    from zoo.preprocess import Preprocessing, ScaleTo

    recipe = recipes.validate(
        {
            "model": {"name": name},
            "data": {"source": "xo"},
            "optimizer": {"kind": "sgd", "learning_rate": 1e-4, "momentum": 0.9},
            "epochs": 1,
            "batch_size": batch_size,
        },
        "benchmark",
    )
    spec = zoo.describe(name)
    images = Images(pixels, ids)
    none = images.take(np.arange(0))
    labels = tuple(map(str, range(spec.num_classes)))
    loop = Loop(
        recipe,
        zoo.create(name),
        Dataset("benchmark", images, none, images, labels),
        Preprocessing(input=spec.input, input_steps=(ScaleTo(),)),
        {},
        Run(Path(tempfile.mkdtemp())),
    )

    def one() -> None:
        loop._fit_epoch(Place(), lambda _: None, threading.Event())  # noqa: SLF001

    return one


def fit_round(name: str, pixels: Any, ids: Any, batch_size: int) -> Callable[[], None]:
    """One epoch of Keras's."""
    import keras
    import tensorflow as tf

    model = zoo.create(name)
    model.compile(
        keras.optimizers.SGD(1e-4, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    dataset = (
        tf.data.Dataset.from_tensor_slices((pixels, ids))
        .shuffle(len(pixels))
        .batch(batch_size)
        .map(lambda x, y: (tf.cast(x, tf.float32) / 255, y), num_parallel_calls=2)
        .prefetch(tf.data.AUTOTUNE)
    )
    return lambda: model.fit(dataset, epochs=1, verbose=0) and None


if __name__ == "__main__":
    main()
