"""What a version computes in, and what a processor needs for it.

A processor that has no instructions for a 16-bit type computes in it all the same when OpenVINO is
asked to, either in another type without a word or several times slower than in fp32. So what
OpenVINO tells of the processor decides, not what it accepts.
"""

from collections.abc import Iterable
from typing import Literal, get_args

Precision = Literal["fp32", "bf16", "fp16", "int8"]
PRECISIONS: tuple[str, ...] = get_args(Precision)

# Precision -> OpenVINO's INFERENCE_PRECISION_HINT. Eight bits stand in the network itself; the hint
# is for the layers that stay in floating point.
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}

# Precision -> its name among OpenVINO's OPTIMIZATION_CAPABILITIES, and the instructions behind it.
NEEDS = {
    "bf16": ("BF16", "AVX512-BF16, AMX-BF16 or AVX-NE-CONVERT"),
    "fp16": ("FP16", "AVX512-FP16, AMX-FP16, AVX-NE-CONVERT or Arm's FP16"),
}


def lacking(precision: str, capabilities: Iterable[str], processor: str) -> str:
    """Why a processor does not compute in a precision by itself; empty when it does.

    Args:
        precision: One of `PRECISIONS`.
        capabilities: What OpenVINO's CPU device tells as its OPTIMIZATION_CAPABILITIES.
        processor: Its name, for the message.
    """
    if precision not in NEEDS:
        return ""
    name, instructions = NEEDS[precision]
    found = [each for each in capabilities if each in ("BF16", "FP16", "FP32", "INT8")]
    if name in found:
        return ""
    return (
        f"{precision} needs {instructions}; on this processor ({processor.strip()}) OpenVINO finds "
        f"{', '.join(found)}"
    )


def working(capabilities: Iterable[str]) -> tuple[str, ...]:
    """The precisions in which a processor computes by itself."""
    known = tuple(capabilities)
    return tuple(each for each in PRECISIONS if not lacking(each, known, ""))
