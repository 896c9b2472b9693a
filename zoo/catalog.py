"""The one table of networks: what is known of each, and where its builder is.

Figures are the paper's (or the named source's) and are proven against the built networks by
`tests/zoo/test_catalog.py`.
"""

import inspect
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from zoo.errors import UsageError
from zoo.spec import ImageInput, ModelSpec, PublishedError
from zoo.suggest import unknown

if TYPE_CHECKING:
    import keras

# Background -0.1, ink 1.175, so that the mean is near 0 and the variance near 1 [lecun1998].
LENET_INPUT = ImageInput(height=32, width=32, channels=1, colour="gray", value_range=(-0.1, 1.175))

SPECS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="lenet5",
        title="LeNet-5 (1998)",
        year=1998,
        paper="lecun1998",
        builder="zoo.models.lenet:lenet5",
        input=LENET_INPUT,
        num_classes=10,
        parameters=60_000,
        macs=325_680,
        errors=(
            PublishedError(data="MNIST test", top1=0.95, source="[lecun1998] section III.B"),
            PublishedError(
                data="MNIST test, trained with distortions",
                top1=0.8,
                source="[lecun1998] section III.B",
            ),
        ),
        note="C3 table, trainable subsampling, scaled tanh, RBF output.",
    ),
    ModelSpec(
        name="lenet5_modern",
        title="LeNet-5, modern form",
        year=1998,
        paper="lecun1998",
        builder="zoo.models.lenet:lenet5_modern",
        input=LENET_INPUT,
        num_classes=10,
        parameters=61_706,
        macs=416_520,
        note="What is usually called LeNet-5: all maps connected, average pooling, softmax output.",
    ),
)

CATALOG: Mapping[str, ModelSpec] = MappingProxyType({spec.name: spec for spec in SPECS})


def list_models() -> tuple[str, ...]:
    """The catalog names, in the order of the table."""
    return tuple(CATALOG)


def describe(name: str) -> ModelSpec:
    """What is known of a network; builds nothing.

    Raises:
        UsageError: no such network; names those that are close.
    """
    try:
        return CATALOG[name]
    except KeyError:
        raise UsageError(unknown("model", name, CATALOG)) from None


def create(
    name: str,
    *,
    input_shape: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
    include_top: bool = True,
    **options: Any,
) -> "keras.Model":
    """Builds a network with freshly initialised weights.

    Args:
        name: A catalog name, e.g. "lenet5"; `list_models()` has them all.
        input_shape: (height, width, channels); the paper's when None.
        num_classes: Size of the output; the paper's when None.
        include_top: False leaves out the classifier: the output is the last feature maps.
        **options: What else this network's builder takes.

    Returns:
        A flat Keras model from "image", float32 [N, height, width, channels], to "logits",
        float32 [N, num_classes].

    Raises:
        UsageError: an unknown network or option, or a size the network cannot take.
    """
    spec = describe(name)
    module, function = spec.builder.split(":")
    builder = getattr(import_module(module), function)
    known = {
        parameter
        for parameter in inspect.signature(builder).parameters
        if parameter not in ("input_shape", "num_classes", "include_top", *spec.options)
    }
    for option in options:
        if option not in known:
            raise UsageError(unknown(f"option of {name}", option, known))
    model: keras.Model = builder(
        input_shape=tuple(input_shape or spec.input.shape),
        num_classes=spec.num_classes if num_classes is None else num_classes,
        include_top=include_top,
        **{**spec.options, **options},
    )
    return model
