"""Replays a version's golden records in this process on every engine: `python -m training.verify DIR`.

Publishing runs it in a process of its own, which knows nothing but what lies on the disk.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from zoo.artifact import GOLDEN, Array, EngineRecord, Manifest, read_golden, verify
from zoo.errors import ParityError


def differences(version: Path) -> dict[str, float]:
    """Each engine's largest difference from the golden logits, in their standard deviations.

    Raises:
        CorruptVersionError: a file is not what the manifest says.
        ParityError: an engine differs by more than its tolerance.
    """
    manifest = verify(version)
    if not (version / GOLDEN).is_file():
        raise ParityError(f"{version} has no golden records.")
    inputs, outputs = read_golden(version)
    found = {}
    for name, record in manifest.engines.items():
        logits = _run(name, record, version, inputs["image"])
        gap = difference(logits, outputs["logits"])
        found[name] = gap
        if not gap <= record.tolerance:
            raise ParityError(
                f"{name}'s logits ({record.precision}) differ from the golden ones by {gap:.2e} "
                f"standard deviations; at most {record.tolerance:.1e} is accepted."
            )
    return found


def difference(found: Array, expected: Array) -> float:
    """Largest absolute difference, in standard deviations of what was expected.

    In double precision: the square of a large float32 is infinite, and all differences are nothing
    beside it. NaN where one of the two is no number.
    """
    gap = np.abs(found.astype(np.float64) - expected).max()
    return float(gap / max(float(expected.std(dtype=np.float64)), 1e-12))


def _run(engine: str, record: EngineRecord, version: Path, image: Any) -> Array:
    if engine == "tensorflow":
        from zoo.quiet import import_tensorflow

        import_tensorflow()
        import tensorflow as tf

        loaded = tf.saved_model.load(str(version))
        answer: Array = loaded.signatures["logits"](image=tf.constant(image))["logits"].numpy()
        return answer
    from training.openvino import run_ir

    return run_ir(version / record.file, image, record.precision)["logits"]


class DefaultEngine:
    """A version as its default engine answers: from inputs [N, H, W, C] to logits [N, K].

    Args:
        version: A published version.
        manifest: Its manifest.
    """

    def __init__(self, version: Path, manifest: Manifest) -> None:
        record = manifest.engines[manifest.default_engine]
        self._engine = manifest.default_engine
        self._version = version
        self._record = record
        self._compiled: Any = None

    def __call__(self, image_nhwc: Any, batch: int = 64) -> Any:
        """Logits, float32 [N, K]."""
        if self._engine == "tensorflow":
            return _run("tensorflow", self._record, self._version, image_nhwc)
        run = self.compiled()
        parts = [
            np.array(run({"image": image_nhwc[start : start + batch]})["logits"])
            for start in range(0, len(image_nhwc), batch)
        ]
        return np.concatenate(parts)

    def compiled(self) -> Any:
        """A function from {"image": array} to outputs by name, in this process."""
        if self._compiled is None:
            from training.openvino import compile_ir

            self._compiled = compile_ir(self._version / self._record.file, self._record.precision)
        return self._compiled


def main() -> None:
    """Prints the differences as JSON; exits with the error's code when something is wrong."""
    try:
        sys.stdout.write(json.dumps(differences(Path(sys.argv[1]))) + "\n")
    except Exception as error:  # noqa: BLE001 - the parent process reads the last line
        sys.stderr.write(f"{error}\n")
        sys.exit(getattr(error, "exit_code", 1))


if __name__ == "__main__":
    main()
