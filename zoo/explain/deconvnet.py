"""The deconvnet [zeiler2014, section 2]: from one unit back to the pixels that excite it.

Array names: n image, h row, w column, c channel.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zoo.errors import ExplainError
from zoo.explain.geometry import Box, receptive_box
from zoo.explain.probe import Floats, Layer, Probe, require_layer, require_relu


@dataclass(frozen=True, slots=True)
class Projection:
    """One unit's activation, projected back.

    Attributes:
        image_hwc: The projection, in the input's space.
        layer: The unit's layer.
        place: (row, column, channel), or (unit,) behind a flatten.
        activation: What the unit gave.
        box: Its receptive field; the projection is zero outside.
    """

    image_hwc: Floats
    layer: str
    place: tuple[int, ...]
    activation: float
    box: Box


def deconvnet(
    probe: Probe,
    image_hwc: Floats,
    layer: str,
    channel: int | None = None,
    place: tuple[int, int] | None = None,
) -> Projection:
    """Keeps one activation, sets the others to zero, and goes down layer by layer.

    Each pool puts a value where its maximum was (its switch), each ReLU lets what is positive
    pass, each convolution is transposed, normalisation is skipped. Where windows of a pool
    overlap and share a switch, their values add up.

    Args:
        probe: The network.
        image_hwc: A preprocessed image.
        layer: The unit's layer.
        channel: Its map, or its number behind a flatten; the one with the strongest unit when None.
        place: Its (row, column); where the map is strongest when None.

    Raises:
        ExplainError: no such unit, or no ReLU up to this layer.
    """
    found = require_layer(probe, layer)
    require_relu(probe, layer, "The deconvnet")
    output = probe.feature_maps(image_hwc[None], [layer])[layer][0]
    where = strongest_unit(found, output, channel, place)
    seed = np.zeros((1, *output.shape), np.float32)
    seed[(0, *where)] = output[where]
    projected = probe.pull_back(image_hwc[None], layer, seed, rule="deconvnet")[0]
    box = receptive_box(probe.layers, layer, *(where[:2] if found.has_maps else ()))
    return Projection(projected, layer, where, float(output[where]), box)


def strongest_unit(
    layer: Layer, output: Floats, channel: int | None, place: tuple[int, int] | None
) -> tuple[int, ...]:
    """The unit that is meant: what is given is kept, what is not is where the output is largest.

    Raises:
        ExplainError: no such map or place.
    """
    channels = output.shape[-1]
    if channel is not None and not 0 <= channel < channels:
        raise ExplainError(f"{layer.name!r} has maps 0 to {channels - 1}; there is no {channel}.")
    if not layer.has_maps:
        return (int(output.argmax()) if channel is None else channel,)
    if place is not None:
        if not all(0 <= at < size for at, size in zip(place, output.shape[:2], strict=True)):
            raise ExplainError(
                f"{layer.name!r} has {output.shape[0]} x {output.shape[1]} places; "
                f"there is no {place}."
            )
        chosen = int(output[place].argmax()) if channel is None else channel
        return (*place, chosen)
    strongest = output if channel is None else output[:, :, channel : channel + 1]
    row, column, offset = np.unravel_index(int(strongest.argmax()), strongest.shape)
    return int(row), int(column), int(offset) if channel is None else channel


@dataclass(frozen=True, slots=True)
class Patch:
    """One of the images that excite a map most.

    Attributes:
        index: The image's number in the data.
        activation: The map's strongest unit there.
        place: Its (row, column).
        box: Its receptive field.
        pixels_hwc: What of the image lies in it, in the input's units.
        projection_hwc: The deconvnet's projection there.
    """

    index: int
    activation: float
    place: tuple[int, int]
    box: Box
    pixels_hwc: Floats
    projection_hwc: Floats


def top_patches(
    probe: Probe,
    batches: Iterable[Floats],
    layer: str,
    channels: Sequence[int],
    *,
    count: int = 9,
) -> dict[int, tuple[Patch, ...]]:
    """For each map the images that excite it most, each counted once (figure 2).

    Args:
        probe: The network.
        batches: The data, images [N, H, W, C] a batch.
        layer: A layer with maps.
        channels: Which maps.
        count: How many images for each; the paper shows nine.

    Raises:
        ExplainError: no such layer or map, or no ReLU up to it.
    """
    found = require_layer(probe, layer)
    require_relu(probe, layer, "The deconvnet")
    wanted = list(channels)
    if (
        not found.has_maps
        or not wanted
        or not 0 <= min(wanted) <= max(wanted) < (found.output_shape[-1])
    ):
        raise ExplainError(
            f"{layer!r} has the shape {list(found.output_shape)}; maps {wanted} are asked for."
        )
    best: dict[int, list[tuple[float, int, tuple[int, int], Floats]]] = {c: [] for c in wanted}
    seen = 0
    for batch in batches:
        maps_nhwc = probe.feature_maps(batch, [layer])[layer][..., wanted]
        peaks, places = _peaks(maps_nhwc)
        for column, channel in enumerate(wanted):
            rows = np.argsort(-peaks[:, column], kind="stable")[:count]
            best[channel] += [
                (float(peaks[n, column]), seen + int(n), places[n][column], batch[n]) for n in rows
            ]
            best[channel] = sorted(best[channel], key=lambda each: (-each[0], each[1]))[:count]
        seen += len(batch)
    return {
        channel: tuple(_patch(probe, layer, channel, each) for each in found_here)
        for channel, found_here in best.items()
    }


def _peaks(maps_nhwc: Floats) -> tuple[Floats, list[list[tuple[int, int]]]]:
    count, height, width, channels = maps_nhwc.shape
    flat = maps_nhwc.reshape(count, height * width, channels)
    at: NDArray[np.intp] = flat.argmax(1)
    peaks: Floats = np.take_along_axis(flat, at[:, None], 1)[:, 0]
    return peaks, [[(int(p) // width, int(p) % width) for p in row] for row in at]


def _patch(
    probe: Probe, layer: str, channel: int, found: tuple[float, int, tuple[int, int], Floats]
) -> Patch:
    activation, index, place, image = found
    projection = deconvnet(probe, image, layer, channel, place)
    top, left, bottom, right = projection.box
    return Patch(
        index=index,
        activation=activation,
        place=place,
        box=projection.box,
        pixels_hwc=image[top:bottom, left:right],
        projection_hwc=projection.image_hwc[top:bottom, left:right],
    )
