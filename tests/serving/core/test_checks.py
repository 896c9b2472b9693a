"""A request is held against its signature before any engine sees it."""

import numpy as np
import pytest

from serving.core.checks import check_call, filled
from serving.errors import InvalidRequestError
from serving.messages import PredictCall, Signature, Target, TensorSpec

SIGNATURE = Signature(
    "serving_default",
    {name: TensorSpec(name, "float32", (None, 2)) for name in ("a", "b")},
    {"y": TensorSpec("y", "float32", (None,))},
)


def call(*, outputs=(), **inputs):
    return PredictCall(Target("m"), inputs, outputs=outputs)


def floats(*shape):
    return np.zeros(shape, np.float32)


def test_the_rows_of_a_batch_are_those_of_every_input():
    assert check_call(call(a=floats(3, 2), b=floats(3, 2)), SIGNATURE, is_batched=True) == 3
    assert check_call(call(a=floats(0, 2), b=floats(0, 2)), SIGNATURE, is_batched=True) == 0
    assert check_call(call(a=floats(3, 2), b=floats(1, 2)), SIGNATURE, is_batched=False) == 1


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (call(a=floats(3, 2), b=floats(1, 2)), "different batch sizes: {'a': 3, 'b': 1}"),
        (call(a=floats(0, 2), b=floats(1, 2)), "different batch sizes: {'a': 0, 'b': 1}"),
        (call(a=floats(1, 3), b=floats(1, 2)), r"'a' has shape \[1, 3\].*takes \[N, 2\]"),
        (call(a=floats(2), b=floats(1, 2)), r"'a' has shape \[2\].*takes \[N, 2\]"),
        (call(a=floats(1, 2), b=floats(1, 2).astype(int)), "'b' has type int64.*takes float32"),
        (call(a=floats(1, 2)), "Missing but required: {b}"),
        (call(a=floats(1, 2), b=floats(1, 2), c=floats(1, 2)), "Sent extra: {c}"),
        (call(a=floats(1, 2), b=floats(1, 2), outputs=("z",)), "not found in signature: z"),
        (call(a=floats(1, 2), b=floats(1, 2), outputs=("y", "y")), "duplicate output.*y"),
    ],
)
def test_what_does_not_fit_is_named_with_what_would(asked, said):
    with pytest.raises(InvalidRequestError, match=said):
        check_call(asked, SIGNATURE, is_batched=True)


def test_what_is_missing_has_the_signatures_default():
    spec = TensorSpec("x", "float32", ())
    signature = Signature("s", {"p": spec, "q": spec}, {}, defaults={"q": np.float32(3)})
    given = PredictCall(Target("m"), {"p": np.float32(2)})
    assert filled(given, signature).inputs == {"p": np.float32(2), "q": np.float32(3)}
    assert given.inputs == {"p": np.float32(2)}
    whole = PredictCall(Target("m"), {"p": np.float32(2), "q": np.float32(4)})
    assert filled(whole, signature).inputs == whole.inputs
    plain = Signature("s", {"p": spec}, {})
    assert filled(given, plain) is given
