"""Eight-bit forms of a network: calibrated on training data, accepted by what they cost.

NNCF's post-training quantisation. Large dense layers keep their weights in four bits where that
costs too little to count, else in eight. A form that loses too much is made again with the most
damaged layers left in floating point, until it is good enough or nothing is gained.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from training.openvino import run_ir
from training.statistics import Difference, least_examples, not_worse, paired_difference
from zoo.errors import GateFailedError
from zoo.frozen import Frozen
from zoo.preprocess import Floats
from zoo.signal_stack import keeps_signal_stack

# Layers left in floating point at each further attempt.
ATTEMPTS = (0, 1, 2, 4, 8)

# A dense layer with so many weights does little else, with a batch of one, than bring them from
# memory: half the bytes are half its time.
LARGE_DENSE = 1 << 20
# Weights that share a scale in four bits; the layer's inputs have to be a multiple of it.
GROUP = 128


class PrecisionReport(Frozen):
    """What fewer bits cost.

    Attributes:
        precision: "bf16", "fp16" or "int8".
        fp32_accuracy: On the validation part.
        accuracy: In fewer bits, on the same images.
        difference: Fewer bits less fp32, with its 95 % paired interval.
        agreement: The share of images on which both give the same class.
        in_float: Layers that were left in floating point.
        four_bit: Dense layers whose weights are kept in four bits.
        worst_layers: Signal-to-noise ratio in dB of the most damaged layers, quantised alone.
        images: Images of the validation part.
        judged_by: "classes" that are known, or the "fp32" form's answers, where they are not.
    """

    precision: str
    fp32_accuracy: float
    accuracy: float
    difference: Difference
    agreement: float
    in_float: tuple[str, ...] = ()
    four_bit: tuple[str, ...] = ()
    worst_layers: dict[str, float] = Field(default_factory=dict)
    images: int
    judged_by: Literal["classes", "fp32"] = "classes"

    @property
    def words(self) -> str:
        """The report in one line."""
        some = f" with {len(self.in_float)} layers in float" if self.in_float else ""
        if self.four_bit:
            some = f" with the weights of {len(self.four_bit)} dense layers in four bits"
        if self.judged_by == "fp32":
            return (
                f"{self.precision}{some}: fp32's class for {self.agreement:.2%} of {self.images:,}"
            )
        return (
            f"{self.precision}{some}: accuracy {self.accuracy:.2%} against "
            f"{self.fp32_accuracy:.2%}, the same class for {self.agreement:.2%}"
        )

    def refusal(self, most_drop: float, more: str = "") -> GateFailedError:
        """Says by how much the accuracy changed, and what would help."""
        low, high = self.difference.low, self.difference.high
        what = "accuracy" if self.judged_by == "classes" else "agreement with fp32"
        return GateFailedError(
            f"{self.precision} changes the {what} by {low:+.2%} to {high:+.2%} on "
            f"{self.images:,} validation images; at most {-most_drop:+.2%} is accepted. {more}"
            "More validation images narrow the interval; --most-drop widens the bound."
        )


@dataclass(frozen=True, slots=True)
class Quantized:
    """An eight-bit form that was accepted."""

    model: Any
    report: PrecisionReport


def quantize(
    fp32: Path,
    calibration: Floats,
    validation: Floats,
    class_ids: Any | None,
    *,
    most_drop: float = 0.005,
    talk: Callable[[str], None] = lambda _: None,
) -> Quantized:
    """Makes an eight-bit form that loses no more than a stated share of right answers.

    Args:
        fp32: The OpenVINO form with outputs `logits` and `probabilities`.
        calibration: Training inputs [N, H, W, C].
        validation: Inputs that neither training nor calibration saw.
        class_ids: Their classes, int64 [N]; None judges by the fp32 form's own answers.
        most_drop: The largest loss of accuracy, a fraction; judged by the paired 95 % interval.
        talk: Takes one line an attempt.

    Raises:
        GateFailedError: no attempt was good enough; names the outcome and the worst layers.
    """
    require_enough("int8", len(validation), most_drop)
    reference = run_ir(fp32, validation)["logits"]
    ranked: dict[str, float] = {}
    report = None
    attempts: list[tuple[int, tuple[str, ...]]] = [(number, ()) for number in ATTEMPTS]
    if large := large_dense(fp32):
        attempts.insert(0, (0, large))
    for number, four_bit in attempts:
        if number and not ranked:
            ranked = damage(fp32, calibration)
        if number > len(ranked):
            break
        in_float = tuple(list(ranked)[:number])
        model = calibrated(fp32, calibration, in_float, four_bit)
        report = compare("int8", reference, run_ir(model, validation)["logits"], class_ids)
        report = report.model_copy(
            update={
                "in_float": in_float,
                "four_bit": four_bit,
                "worst_layers": dict(list(ranked.items())[:5]),
            }
        )
        talk(report.words)
        if not_worse(report.difference, most_drop) == "pass":
            return Quantized(model, report)
    named = ", ".join(f"{name} ({ratio:.0f} dB)" for name, ratio in list(ranked.items())[:5])
    assert report is not None  # noqa: S101 - there is at least one attempt
    raise report.refusal(most_drop, f"The most damaged layers: {named}. ")


def halve(
    network: Path,
    precision: str,
    validation: Floats,
    class_ids: Any | None,
    *,
    most_drop: float = 0.005,
    talk: Callable[[str], None] = lambda _: None,
) -> PrecisionReport:
    """What computing in sixteen bits costs; the network on the disk stays as it is.

    Args:
        network: The OpenVINO form with outputs `logits` and `probabilities`.
        precision: "bf16" or "fp16", which this processor has.
        validation: Inputs that training did not see.
        class_ids: Their classes, int64 [N]; None judges by the fp32 form's own answers.
        most_drop: The largest loss of accuracy, a fraction; judged by the paired 95 % interval.
        talk: Takes one line.

    Raises:
        GateFailedError: it costs more, or a value left the type's range.
    """
    require_enough(precision, len(validation), most_drop)
    reference = run_ir(network, validation)["logits"]
    logits = run_ir(network, validation, precision)["logits"]
    if not np.isfinite(logits).all():
        lost = int((~np.isfinite(logits).all(-1)).sum())
        raise GateFailedError(
            f"{lost:,} of {len(logits):,} validation images leave the range of {precision}; bf16 "
            "has the range of fp32."
        )
    report = compare(precision, reference, logits, class_ids)
    talk(report.words)
    if not_worse(report.difference, most_drop) != "pass":
        raise report.refusal(most_drop)
    return report


def require_enough(precision: str, images: int, most_drop: float) -> None:
    """Refuses before the work what could not be shown even if every answer stayed the same.

    Raises:
        GateFailedError: it could not; says how many images could.
    """
    if most_drop > 0 and images < (needed := least_examples(most_drop)):
        raise GateFailedError(
            f"{images:,} validation images cannot show that {precision} costs at most "
            f"{most_drop:.2%}; {needed:,} with the same answers could. --most-drop widens the "
            "bound; more images, of a run a larger data.validation_fraction, would do, too."
        )


def compare(
    precision: str, reference_nk: Floats, logits_nk: Floats, class_ids: Any | None
) -> PrecisionReport:
    """What a precision costs against fp32 on the same images; without classes, how far they agree."""
    answers, before = logits_nk.argmax(-1), reference_nk.argmax(-1)
    judged_by: Literal["classes", "fp32"] = "fp32" if class_ids is None else "classes"
    class_ids = before if class_ids is None else class_ids
    return PrecisionReport(
        precision=precision,
        fp32_accuracy=float((before == class_ids).mean()),
        accuracy=float((answers == class_ids).mean()),
        difference=paired_difference(answers == class_ids, before == class_ids),
        agreement=float((answers == before).mean()),
        images=len(class_ids),
        judged_by=judged_by,
    )


def damage(fp32: Path, calibration: Floats) -> dict[str, float]:
    """How much each layer's own quantisation disturbs the logits, the worst first.

    Returns:
        Layer name to signal-to-noise ratio of the logits in dB with that layer alone quantised.
    """
    some = calibration[:64]
    reference = run_ir(fp32, some)["logits"]
    names = layers_of(fp32)
    found = {}
    for name in names:
        others = tuple(each for each in names if each != name)
        logits = run_ir(calibrated(fp32, some, others), some)["logits"]
        noise = float(np.square(logits - reference).sum())
        found[name] = 10 * float(np.log10(np.square(reference).sum() / max(noise, 1e-20)))
    return dict(sorted(found.items(), key=lambda each: each[1]))


def layers_of(fp32: Path) -> list[str]:
    """The convolutions and dense layers of an OpenVINO form, in order."""
    import openvino as ov

    return [
        each.get_friendly_name()
        for each in ov.Core().read_model(fp32).get_ordered_ops()
        if each.get_type_name() in ("Convolution", "GroupConvolution", "MatMul")
    ]


def large_dense(fp32: Path) -> tuple[str, ...]:
    """Dense layers that are bound by memory; not the last one, whose errors nothing evens out."""
    import openvino as ov

    dense = [
        each
        for each in ov.Core().read_model(fp32).get_ordered_ops()
        if each.get_type_name() == "MatMul"
    ]
    found = []
    for layer in dense[:-1]:
        inputs = layer.input_value(0).get_partial_shape()[-1]
        outputs = layer.output(0).get_partial_shape()[-1]
        if inputs.is_dynamic or outputs.is_dynamic or inputs.get_length() % GROUP:
            continue
        if inputs.get_length() * outputs.get_length() >= LARGE_DENSE:
            found.append(layer.get_friendly_name())
    return tuple(found)


@keeps_signal_stack()
def calibrated(
    fp32: Path,
    calibration: Floats,
    in_float: tuple[str, ...] = (),
    four_bit: tuple[str, ...] = (),
) -> Any:
    """An eight-bit form of a network, however accurate.

    Args:
        fp32: The OpenVINO form with the input `image`.
        calibration: Inputs [N, H, W, C] from which the ranges of all tensors are taken.
        in_float: Layers that stay in floating point.
        four_bit: Dense layers whose weights are kept in four bits, with a scale for each `GROUP`;
            what comes into them is brought to eight bits as they run.
    """
    import logging

    import nncf
    import openvino as ov

    logging.getLogger("nncf").setLevel(logging.ERROR)
    dataset = nncf.Dataset([each[None] for each in calibration], lambda each: {"image": each})
    left = [*in_float, *four_bit]
    # Its progress bars go to standard output, which is for results.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
        model = nncf.quantize(
            ov.Core().read_model(fp32),
            dataset,
            subset_size=len(calibration),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=left) if left else None,
        )
        if not four_bit:
            return model
        others = [each for each in layers_of(fp32) if each not in four_bit]
        return nncf.compress_weights(
            model,
            mode=nncf.CompressWeightsMode.INT4_SYM,
            group_size=GROUP,
            all_layers=True,
            ignored_scope=nncf.IgnoredScope(names=others),
        )
