"""The trace of a small network as one tall picture.

Array names: h row, w column, c channel.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.explain.methods import Explanation, Subject
from zoo.explain.probe import Floats
from zoo.explain.render import FAINT, INK, PAPER, enlarged, font, signed, tiles

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

CELL = 44
LEFT = 16
MOST_MAPS = 32


def trace_picture(found: Explanation, subject: Subject) -> "Image":
    """One band for each operation: its maps, and its strongest unit worked out."""
    from PIL import Image, ImageDraw

    bands = [_band(step, found.arrays, subject) for step in found.facts["steps"]]
    bands.append(_votes(found, subject))
    width = max(band.width for band in bands)
    sheet = Image.new("RGB", (width, sum(band.height + 14 for band in bands)), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = 0
    for band in bands:
        sheet.paste(band, (0, top))
        draw.line([(0, top + band.height + 6), (width, top + band.height + 6)], (222, 226, 230))
        top += band.height + 14
    return sheet


def sentence(step: Mapping[str, Any], labels: Sequence[str] = ()) -> str:
    """What a step does to its strongest unit, in words and numbers."""
    unit = step["unit"]
    if unit is None:
        return f"The image: {'x'.join(map(str, step['shape']))} numbers."
    values = [value for value in unit["patch"] if value is not None]
    place = tuple(unit["place"])
    where = f"place {place[:2]}, map {place[2]}" if len(place) == 3 else f"unit {place[0]}"
    if len(place) == 1 and step["shape"] == [len(labels)]:
        where += f" ({labels[place[0]]})"
    match unit["operation"]:
        case "convolution" | "dense":
            total = float(np.dot(values, unit["kernel"]))
            text = f"{len(values)} products sum to {total:.4f}"
            if unit["scale"] != 1:
                text += f", divided by {1 / unit['scale']:.0f}"
            text += f", {unit['bias']:+.4f} bias = {unit['before']:.4f}"
        case "max":
            text = f"the largest of {len(values)} is {unit['before']:.4f}"
        case "mean":
            text = f"the mean of {len(values)} is {unit['before']:.4f}"
        case "sum":
            text = (
                f"the sum of {len(values)} is {sum(values):.4f}, times {unit['scale']:.4f}, "
                f"{unit['bias']:+.4f} = {unit['before']:.4f}"
            )
        case "distance":
            text = f"{len(values)} squared differences to the class's code sum to {-unit['before']:.4f}"
        case _:
            text = f"{unit['operation']} of {unit['before']:.4f}"
    if unit["activation"] != "linear":
        text += f"; {unit['activation']} makes it {unit['value']:.4f}"
    return f"{where}: {text}"


def _band(step: Mapping[str, Any], arrays: Mapping[str, Floats], subject: Subject) -> "Image":
    from PIL import Image, ImageDraw

    output = arrays[f"map:{step['layer']}"]
    maps = _maps(output)
    unit = step["unit"]
    grids = _grids(unit, step)
    formula = sentence(step, subject.labels)
    title = f"{step['layer']}  ({step['kind']}, {'x'.join(map(str, step['shape']))})"
    words = [font(17).getlength(title), font(13).getlength(formula)]
    across = maps.width + sum(len(grid[0]) * CELL + 56 for _, grid, _ in grids) + 32
    votes = largest_votes(unit)
    across = max(across, maps.width + 24 + 300 * bool(votes))
    tallest = max([maps.height, 18 * len(votes), *(len(grid) * CELL + 20 for _, grid, _ in grids)])
    sheet = Image.new("RGB", (int(max(across, *words)) + 2 * LEFT, tallest + 80), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((LEFT, 8), title, INK, font=font(17))
    draw.text((LEFT, 34), formula, INK, font=font(13))
    sheet.paste(maps, (LEFT, 62))
    for row, line in enumerate(votes):
        draw.text((LEFT + maps.width + 24, 60 + 18 * row), line, INK, font=font(13))
    left = LEFT + maps.width + 32
    for index, (name, grid, top) in enumerate(grids):
        if index:
            sign = "=" if name.startswith("product") else "x"
            draw.text((left - 34, 62 + 20 + len(grid) * CELL // 2), sign, INK, font=font(22))
        draw.text((left, 60), name, FAINT, font=font(13))
        _numbers(draw, grid, (left, 80), top)
        left += len(grid[0]) * CELL + 56
    return sheet


def largest_votes(unit: Mapping[str, Any] | None, count: int = 6) -> list[str]:
    """The inputs that count most in a dense unit, with what they give; none for other units."""
    if unit is None or unit["operation"] != "dense":
        return []
    products = np.array(unit["patch"]) * np.array(unit["kernel"])
    most = np.argsort(-np.abs(products), kind="stable")[:count]
    return ["largest votes"] + [
        f"from {i}: {unit['patch'][i]:.3f} x {unit['kernel'][i]:.3f} = {products[i]:+.3f}"
        for i in most
    ]


def _maps(output: Floats) -> "Image":
    if output.ndim == 1:
        across = len(output) if len(output) <= 20 else 20
        rows = -(-len(output) // across)
        padded = np.zeros(rows * across, np.float32)
        padded[: len(output)] = output
        return enlarged(signed(padded.reshape(rows, across)), min(16 * across, 400))
    top = float(np.abs(output).max()) or 1.0
    shown = [
        signed(output[..., channel], top) for channel in range(min(MOST_MAPS, output.shape[2]))
    ]
    return tiles(shown, columns=8, side=90 if len(shown) <= 8 else 48)


Grid = list[list[float | None]]


def _grids(
    unit: Mapping[str, Any] | None, step: Mapping[str, Any]
) -> list[tuple[str, Grid, float]]:
    """The patch, the kernel and the products that fit on paper."""
    if unit is None or unit["operation"] not in ("convolution", "max", "mean", "sum"):
        return []
    shape = unit["patch_shape"]
    patch = np.array([np.nan if v is None else v for v in unit["patch"]]).reshape(shape)
    if unit["operation"] != "convolution":
        return [("its window", _listed(patch), float(np.nanmax(np.abs(patch))) or 1.0)]
    kernel = np.array(unit["kernel"]).reshape(shape)
    products = patch * kernel
    channel = int(np.abs(products.sum((0, 1))).argmax())
    of = f" on map {channel} of {shape[2]}" if shape[2] > 1 else ""
    source = step["parents"][0]
    return [
        (name, _listed(array[..., channel]), float(np.abs(array).max()) or 1.0)
        for name, array in (
            (f"patch of {source}{of}", patch),
            ("kernel", kernel),
            (f"products, sum {products[..., channel].sum():.3f}", products),
        )
    ]


def _listed(array: Floats) -> Grid:
    return [[None if np.isnan(value) else float(value) for value in row] for row in array]


def _numbers(draw: "ImageDraw", grid: Grid, at: tuple[int, int], top: float) -> None:
    for row, values in enumerate(grid):
        for column, value in enumerate(values):
            x, y = at[0] + column * CELL, at[1] + row * CELL
            shade = signed(np.array([[value or 0.0]]), top)[0, 0]
            # Half the colour, so that black numbers stay readable.
            fill = tuple(int(255 - (255 - int(each)) * 0.55) for each in shade)
            draw.rectangle([x, y, x + CELL - 2, y + CELL - 2], fill=fill, outline=(206, 212, 218))
            if value is not None:
                text = f"{value:.2f}"
                wide = font(12).getlength(text)
                draw.text((x + (CELL - 2 - wide) / 2, y + 14), text, INK, font=font(12))


def _votes(found: Explanation, subject: Subject) -> "Image":
    from PIL import Image, ImageDraw

    probabilities = found.facts["probabilities"]
    sheet = Image.new("RGB", (560, 40 + 24 * len(probabilities)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((LEFT, 8), "softmax: what it says", INK, font=font(17))
    for row, probability in enumerate(probabilities):
        y = 36 + 24 * row
        draw.text((LEFT, y + 3), subject.label(row), INK, font=font(13))
        draw.rectangle([130, y + 2, 130 + round(320 * probability), y + 18], fill=(33, 102, 172))
        draw.text((460, y + 3), f"{probability:.4f}", INK, font=font(13))
    return sheet
