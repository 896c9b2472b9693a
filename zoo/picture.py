"""A network as a picture: where its parameters and its work lie, layer by layer."""

from pathlib import Path
from typing import Any

from zoo.anatomy import Anatomy
from zoo.errors import UsageError


def draw(anatomy: Anatomy, title: str, path: Path) -> None:
    """Writes a PNG: output size, parameters, multiply-accumulates of every layer with weights.

    Args:
        anatomy: The network.
        title: Stands above.
        path: Where the picture goes.

    Raises:
        UsageError: it ends in something else than .png, or cannot be written there.
    """
    from matplotlib.figure import Figure

    if path.suffix.lower() != ".png":
        raise UsageError(f"The picture is a PNG, so its name ends in .png; found {path}.")

    layers = [layer for layer in anatomy.layers if layer.parameters or layer.macs]
    figure = Figure(figsize=(11, max(2.5, 0.6 + 0.22 * len(layers))), layout="constrained")
    axes: Any = figure.subplots(1, 3, sharey=True)
    places = range(len(layers))
    columns = (
        ("values of the output", [_values(layer.output_shape) for layer in layers], "#4c78a8"),
        ("trainable parameters", [layer.parameters for layer in layers], "#f58518"),
        ("multiply-accumulates", [layer.macs for layer in layers], "#54a24b"),
    )
    for axis, (name, values, colour) in zip(axes, columns, strict=True):
        axis.barh(places, values, color=colour)
        axis.set_title(f"{name}: {sum(values):,}", fontsize=9)
        axis.grid(axis="x", alpha=0.3)
        axis.tick_params(labelsize=7)
    axes[0].set_yticks(
        places, [f"{layer.name}  {'x'.join(map(str, layer.output_shape))}" for layer in layers]
    )
    axes[0].invert_yaxis()
    figure.suptitle(title)
    try:
        figure.savefig(path, dpi=110, format="png")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error


def _values(shape: tuple[int | None, ...]) -> int:
    count = 1
    for size in shape:
        count *= size or 1
    return count
