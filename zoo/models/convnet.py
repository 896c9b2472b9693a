"""Any network of the pattern INPUT -> [[CONV -> RELU]*N -> POOL?]*M -> [FC -> RELU]*K -> FC.

The pattern of most classical networks, after the course notes CS231n (Karpathy et al.); here it is
a validated spec, also in YAML:

    input_shape: [32, 32, 3]
    num_classes: 10
    stages:
      - {convolutions: 2, filters: 32, pool: {kind: max}}
      - {convolutions: 2, filters: 64, pool: {kind: average}}
    dense: [256]
    activation: leaky_relu
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import keras
import yaml
from keras import layers
from pydantic import Field, ValidationError

from zoo.errors import UsageError
from zoo.frozen import Frozen
from zoo.layers import Maxout, SumPooling2D, scaled_tanh
from zoo.models.parts import image_input, require_size

ActivationName = Literal["relu", "leaky_relu", "maxout", "tanh", "scaled_tanh", "sigmoid"]


class Pool(Frozen):
    """The pool after a stage."""

    kind: Literal["max", "average", "sum"] = "max"
    size: int = Field(default=2, ge=1)
    strides: int | None = Field(default=None, ge=1)


class Stage(Frozen):
    """[CONV -> activation]*N -> POOL?"""

    convolutions: int = Field(default=1, ge=1)
    filters: int = Field(ge=1)
    kernel: int = Field(default=3, ge=1)
    strides: int = Field(default=1, ge=1)
    padding: Literal["same", "valid"] = "same"
    pool: Pool | None = None


class ConvNetSpec(Frozen):
    """A whole network.

    Attributes:
        input_shape: (height, width, channels).
        num_classes: Size of the output.
        stages: M stages.
        dense: Units of the K hidden dense layers.
        activation: After every convolution and hidden dense layer; maxout takes the largest of
            `maxout_pieces` linear functions a unit.
        dropout: After every hidden dense layer.
    """

    input_shape: tuple[int, int, int] = (32, 32, 3)
    num_classes: int = Field(default=10, ge=1)
    stages: tuple[Stage, ...] = Field(
        default=(
            Stage(convolutions=2, filters=32, pool=Pool()),
            Stage(convolutions=2, filters=64, pool=Pool()),
        ),
        min_length=1,
    )
    dense: tuple[Annotated[int, Field(ge=1)], ...] = (256,)
    activation: ActivationName = "relu"
    maxout_pieces: int = Field(default=2, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)


def read_spec(path: Path) -> ConvNetSpec:
    """Reads a spec from YAML.

    Raises:
        UsageError: it cannot be read; names the first fault.
    """
    try:
        return ConvNetSpec.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        raise UsageError(f"{path}: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']} (found {fault['input']!r})"


def convnet(
    input_shape: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
    *,
    include_top: bool = True,
    spec: ConvNetSpec | dict[str, Any] | str | Path | None = None,
) -> keras.Model:
    """A network of the pattern, from a spec.

    Args:
        input_shape: In place of the spec's, when given.
        num_classes: In place of the spec's, when given.
        include_top: False ends at the last stage.
        spec: A spec, its plain data, or the path of a YAML file; its defaults when None.

    Returns:
        A model from images [N, height, width, channels] to logits [N, num_classes].

    Raises:
        UsageError: a spec that is not valid, or stages that leave nothing of the image.
    """
    chosen = _spec(spec)
    shape = input_shape or chosen.input_shape
    require_size("convnet", shape, 1)
    image = image_input(shape)
    x: Any = image
    for number, stage in enumerate(chosen.stages, start=1):
        x = _stage(x, stage, number, chosen)
    if include_top:
        x = layers.Flatten(name="flatten")(x)
        for number, units in enumerate(chosen.dense, start=1):
            pieces = chosen.maxout_pieces if chosen.activation == "maxout" else 1
            x = layers.Dense(units * pieces, name=f"fc{number}")(x)
            x = _activate(x, chosen, f"fc{number}")
            if chosen.dropout:
                x = layers.Dropout(chosen.dropout, name=f"drop{number}")(x)
        x = layers.Dense(num_classes or chosen.num_classes, name="logits")(x)
    return keras.Model(image, x, name="convnet")


def _spec(spec: ConvNetSpec | dict[str, Any] | str | Path | None) -> ConvNetSpec:
    match spec:
        case None:
            return ConvNetSpec()
        case ConvNetSpec():
            return spec
        case str() | Path():
            return read_spec(Path(spec))
    try:
        return ConvNetSpec.model_validate(spec)
    except ValidationError as error:
        raise UsageError(f"The spec of convnet: {_first(error)}") from error


def _stage(x: Any, stage: Stage, number: int, spec: ConvNetSpec) -> Any:
    pieces = spec.maxout_pieces if spec.activation == "maxout" else 1
    for step in range(1, stage.convolutions + 1):
        name = f"conv{number}_{step}"
        smallest = min(x.shape[1:3])
        if stage.padding == "valid" and smallest < stage.kernel:
            raise UsageError(f"{name} has a kernel of {stage.kernel}; {smallest} pixels are left.")
        x = layers.Conv2D(
            stage.filters * pieces,
            stage.kernel,
            stage.strides,
            padding=stage.padding,
            kernel_initializer="he_normal",
            name=name,
        )(x)
        x = _activate(x, spec, name)
    if stage.pool is None:
        return x
    if min(x.shape[1:3]) < stage.pool.size:
        raise UsageError(
            f"The pool of stage {number} has size {stage.pool.size}; "
            f"{min(x.shape[1:3])} pixels are left."
        )
    kinds = {
        "max": layers.MaxPooling2D,
        "average": layers.AveragePooling2D,
        "sum": SumPooling2D,
    }
    return kinds[stage.pool.kind](stage.pool.size, stage.pool.strides, name=f"pool{number}")(x)


def _activate(x: Any, spec: ConvNetSpec, name: str) -> Any:
    layer_name = f"{name}_{spec.activation}"
    match spec.activation:
        case "maxout":
            return Maxout(spec.maxout_pieces, name=layer_name)(x)
        case "leaky_relu":
            return layers.LeakyReLU(negative_slope=0.01, name=layer_name)(x)
        case "scaled_tanh":
            return layers.Activation(scaled_tanh, name=layer_name)(x)
        case _:
            return layers.Activation(spec.activation, name=layer_name)(x)
