"""Eight-bit forms of a network: calibrated on training data, accepted by what they cost.

NNCF's post-training quantisation. A form that loses too much is made again with the most damaged
layers left in floating point, until it is good enough or nothing is gained.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.statistics import Difference, not_worse, paired_difference
from zoo.errors import GateFailedError
from zoo.frozen import Frozen
from zoo.preprocess import Floats

# Layers left in floating point at each further attempt.
ATTEMPTS = (0, 1, 2, 4, 8)


class QuantizationReport(Frozen):
    """What eight bits cost.

    Attributes:
        fp32_accuracy: On the validation part.
        int8_accuracy: On the same images.
        difference: int8 less fp32, with its 95 % paired interval.
        agreement: The share of images on which both give the same class.
        in_float: Layers that were left in floating point.
        worst_layers: Signal-to-noise ratio in dB of the most damaged layers, quantised alone.
        images: Images of the validation part.
    """

    fp32_accuracy: float
    int8_accuracy: float
    difference: Difference
    agreement: float
    in_float: tuple[str, ...]
    worst_layers: dict[str, float]
    images: int


@dataclass(frozen=True, slots=True)
class Quantized:
    """An eight-bit form that was accepted."""

    model: Any
    report: QuantizationReport


def quantize(
    fp32: Path,
    calibration: Floats,
    validation: Floats,
    class_ids: Any,
    *,
    most_drop: float = 0.005,
    talk: Callable[[str], None] = lambda _: None,
) -> Quantized:
    """Makes an eight-bit form that loses no more than a stated share of right answers.

    Args:
        fp32: The OpenVINO form with outputs `logits` and `probabilities`.
        calibration: Training inputs [N, H, W, C].
        validation: Inputs that neither training nor calibration saw.
        class_ids: Their classes, int64 [N].
        most_drop: The largest loss of accuracy, a fraction; judged by the paired 95 % interval.
        talk: Takes one line an attempt.

    Raises:
        GateFailedError: no attempt was good enough; names the outcome and the worst layers.
    """
    import openvino as ov

    core = ov.Core()
    reference = run(core.read_model(fp32), validation)["logits"]
    right = reference.argmax(-1) == class_ids
    ranked: dict[str, float] = {}
    report = None
    for number in ATTEMPTS:
        if number and not ranked:
            ranked = damage(core, fp32, calibration)
        if number > len(ranked):
            break
        in_float = tuple(list(ranked)[:number])
        model = _quantized(core.read_model(fp32), calibration, in_float)
        logits = run(model, validation)["logits"]
        answers = logits.argmax(-1)
        difference = paired_difference(answers == class_ids, right)
        report = QuantizationReport(
            fp32_accuracy=float(right.mean()),
            int8_accuracy=float((answers == class_ids).mean()),
            difference=difference,
            agreement=float((answers == reference.argmax(-1)).mean()),
            in_float=in_float,
            worst_layers=dict(list(ranked.items())[:5]),
            images=len(class_ids),
        )
        talk(
            f"int8{f' with {len(in_float)} layers in float' if in_float else ''}: accuracy "
            f"{report.int8_accuracy:.2%} against {report.fp32_accuracy:.2%}, the same class for "
            f"{report.agreement:.2%}"
        )
        if not_worse(difference, most_drop) == "pass":
            return Quantized(model, report)
    low, high = report.difference.low, report.difference.high  # type: ignore[union-attr]
    named = ", ".join(f"{name} ({ratio:.0f} dB)" for name, ratio in list(ranked.items())[:5])
    raise GateFailedError(
        f"int8 changes the accuracy by {low:+.2%} to {high:+.2%} on {len(class_ids):,} validation "
        f"images; at most {-most_drop:+.2%} is accepted. The most damaged layers: {named}. "
        "More validation images narrow the interval; --most-drop widens the bound."
    )


def run(model: Any, image_nhwc: Floats, batch: int = 64) -> dict[str, Floats]:
    """A network's outputs by name, float32 [N, ...]; arithmetic in fp32 where it is not int8."""
    import openvino as ov

    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    parts: dict[str, list[Floats]] = {}
    for start in range(0, len(image_nhwc), batch):
        results = compiled({"image": image_nhwc[start : start + batch]})
        for port in compiled.outputs:
            parts.setdefault(port.get_any_name(), []).append(np.array(results[port]))
    return {name: np.concatenate(each) for name, each in parts.items()}


def damage(core: Any, fp32: Path, calibration: Floats) -> dict[str, float]:
    """How much each layer's own quantisation disturbs the logits, the worst first.

    Returns:
        Layer name to signal-to-noise ratio of the logits in dB with that layer alone quantised.
    """
    some = calibration[:64]
    reference = run(core.read_model(fp32), some)["logits"]
    names = [
        each.get_friendly_name()
        for each in core.read_model(fp32).get_ordered_ops()
        if each.get_type_name() in ("Convolution", "GroupConvolution", "MatMul")
    ]
    found = {}
    for name in names:
        others = tuple(each for each in names if each != name)
        logits = run(_quantized(core.read_model(fp32), some, others), some)["logits"]
        noise = float(np.square(logits - reference).sum())
        found[name] = 10 * float(np.log10(np.square(reference).sum() / max(noise, 1e-20)))
    return dict(sorted(found.items(), key=lambda each: each[1]))


def _quantized(model: Any, calibration: Floats, in_float: tuple[str, ...]) -> Any:
    import logging

    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    dataset = nncf.Dataset([each[None] for each in calibration], lambda each: {"image": each})
    # Its progress bars go to standard output, which is for results.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
        return nncf.quantize(
            model,
            dataset,
            subset_size=len(calibration),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=list(in_float)) if in_float else None,
        )
