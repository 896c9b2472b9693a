"""Explanations as pictures, with Pillow alone.

Array names: h row, w column, c channel.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zoo.explain.methods import Explanation, Subject
from zoo.explain.probe import Array, Floats

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

Rgb = NDArray[np.uint8]

PAPER, INK, FAINT, LINE = (255, 255, 255), (27, 31, 36), (108, 117, 125), (206, 212, 218)
# From zero to the largest: dark to light through violet and orange, even in lightness.
HEAT = np.array(
    [(13, 8, 35), (75, 15, 109), (151, 39, 104), (221, 81, 58), (252, 165, 10), (252, 255, 164)],
    np.float32,
)
BLUE, RED = np.array((33, 102, 172), np.float32), np.array((178, 24, 43), np.float32)
GAP = 8
# Sides of the larger pictures on a page, in pixels.
PANEL = 280
# A tile is enlarged by whole factors to about this many pixels.
TILE = 64
MOST_TILES = 256


# --- arrays to colours --------------------------------------------------------------------------


def heat(values_hw: Floats, largest: float | None = None) -> Rgb:
    """Values from 0 to the largest as colours; what is below 0 is 0."""
    top = largest or float(np.nanmax(values_hw, initial=0)) or 1.0
    place = np.clip(np.nan_to_num(values_hw) / top, 0, 1) * (len(HEAT) - 1)
    low = np.minimum(place.astype(int), len(HEAT) - 2)
    share = (place - low)[..., None]
    colours: Rgb = (HEAT[low] * (1 - share) + HEAT[low + 1] * share).round().astype(np.uint8)
    return colours


def signed(values_hw: Floats, largest: float | None = None) -> Rgb:
    """Blue below zero, white at zero, red above."""
    top = largest or float(np.nanmax(np.abs(values_hw), initial=0)) or 1.0
    share = np.clip(np.nan_to_num(values_hw) / top, -1, 1)[..., None]
    ends = np.where(share < 0, BLUE, RED)
    colours: Rgb = (255 + (ends - 255) * np.abs(share)).round().astype(np.uint8)
    return colours


def gray(values_hw: Floats) -> Rgb:
    """Values from their lowest to their highest as gray."""
    low, high = float(values_hw.min()), float(values_hw.max())
    share = (values_hw - low) / ((high - low) or 1.0)
    return np.repeat((share * 255).round().astype(np.uint8)[..., None], 3, axis=2)


def natural(values_hwc: Floats, *, is_bgr: bool = False) -> Rgb:
    """An image in a network's units: three channels as colours, one as gray."""
    if values_hwc.shape[-1] != 3:
        return gray(values_hwc.mean(-1))
    low, high = float(values_hwc.min()), float(values_hwc.max())
    colours: Rgb = ((values_hwc - low) / ((high - low) or 1.0) * 255).round().astype(np.uint8)
    return colours[..., ::-1] if is_bgr else colours


def photo(pixels_hwc: NDArray[np.uint8], *, is_bgr: bool = False) -> Rgb:
    """Pixels as they are, in RGB."""
    if pixels_hwc.shape[-1] == 1:
        return np.repeat(pixels_hwc, 3, axis=2)
    return pixels_hwc[..., ::-1] if is_bgr else pixels_hwc


def overlay(pixels_rgb: Rgb, values_hw: Floats) -> Rgb:
    """A map laid over an image: the larger, the more of it shows."""
    top = float(values_hw.max(initial=0)) or 1.0
    share = np.clip(values_hw / top, 0, 1)[..., None] * 0.75
    dimmed = pixels_rgb.astype(np.float32) * 0.6
    mixed: Rgb = (dimmed * (1 - share) + heat(values_hw) * share).round().astype(np.uint8)
    return mixed


# --- colours to pictures ------------------------------------------------------------------------


def enlarged(rgb: Rgb, side: int = PANEL) -> "Image":
    """A picture of about that size; small ones keep their pixels as squares."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(rgb))
    factor = side / max(image.size)
    if factor >= 2:
        whole = int(factor)
        return image.resize((image.width * whole, image.height * whole), Image.Resampling.NEAREST)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.BILINEAR)


def tiles(maps: Sequence[Rgb], *, columns: int | None = None, side: int = TILE) -> "Image":
    """Pictures of one size, in rows."""
    from PIL import Image

    shown = [enlarged(each, side) for each in maps]
    across = columns or max(1, math.ceil(math.sqrt(len(shown) * 1.6)))
    width, height = shown[0].size
    rows = -(-len(shown) // across)
    across = min(across, len(shown))
    sheet = Image.new("RGB", (across * (width + 3) + 3, rows * (height + 3) + 3), LINE)
    for index, each in enumerate(shown):
        row, column = divmod(index, across)
        sheet.paste(each, (3 + column * (width + 3), 3 + row * (height + 3)))
    return sheet


def font(size: int = 13) -> "FreeTypeFont | ImageFont":
    """Pillow's own typeface."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def page(title: str, panels: Sequence[tuple[str, "Image"]], note: str = "") -> "Image":
    """Pictures side by side with their names above, under a title."""
    from PIL import Image, ImageDraw

    # The width goes by the widest of pictures and words.
    plain, bold = font(13), font(16)
    widths = [
        max(image.width, math.ceil(plain.getlength(name.split("\n")[0]))) for name, image in panels
    ]
    lines = [line for line in note.split("\n") if line]
    words = [bold.getlength(title), *(plain.getlength(line) for line in lines)]
    width = max(sum(widths) + GAP * 2 * (len(panels) + 1), math.ceil(max(words)) + 4 * GAP)
    height = max(image.height for _, image in panels)
    top = 34
    sheet = Image.new("RGB", (width, top + 24 + height + 20 * len(lines) + 2 * GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((2 * GAP, GAP), title, INK, font=bold)
    left = 2 * GAP
    for (name, image), wide in zip(panels, widths, strict=True):
        draw.text((left, top), name, FAINT, font=plain)
        sheet.paste(image, (left, top + 20))
        left += wide + 2 * GAP
    for index, line in enumerate(lines):
        draw.text((2 * GAP, top + 26 + height + 20 * index), line, INK, font=plain)
    return sheet


def curve(
    x: Sequence[float], lines: Sequence[tuple[str, Sequence[float]]], width: int = 420
) -> "Image":
    """Lines over x, each scaled to its own largest value; its name says which."""
    from PIL import Image, ImageDraw

    height, edge = 240, 26
    sheet = Image.new("RGB", (width, height + 18 * len(lines)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.line([(edge, edge), (edge, height - edge), (width - edge, height - edge)], FAINT)
    low, high = min(x), max(x)
    colours = [(33, 102, 172), (178, 24, 43), (27, 120, 55), (118, 42, 131)]
    for index, (name, values) in enumerate(lines):
        colour = colours[index % len(colours)]
        top = max(*values, 1e-12)
        points = [
            (
                edge + (at - low) / ((high - low) or 1) * (width - 2 * edge),
                height - edge - value / top * (height - 2 * edge),
            )
            for at, value in zip(x, values, strict=True)
        ]
        draw.line(points, colour, width=2)
        draw.text((edge, height - 4 + 18 * index), f"{name} (at most {top:.3g})", colour, font(12))
    draw.text((edge, height - edge + 3), f"{low:g}", FAINT, font(11))
    draw.text((width - edge - 24, height - edge + 3), f"{high:g}", FAINT, font(11))
    return sheet


# --- one picture for each method ----------------------------------------------------------------


def picture(found: Explanation, subject: Subject) -> "Image":
    """The picture of an explanation, with the image beside it."""
    if found.method == "trace":
        from zoo.explain.trace_picture import trace_picture

        return trace_picture(found, subject)
    from zoo.explain.methods import METHODS

    title = METHODS[found.method].title
    if found.layer is not None:
        title += f", {found.layer}"
    if found.target is not None:
        title += f", for {subject.label(found.target)!r}"
    is_bgr = subject.input.colour == "bgr"
    original = photo(subject.pixels_hwc, is_bgr=is_bgr)
    panels, note = _PANELS[found.method](found, subject, original)
    return page(title, [("image", enlarged(original)), *panels], note)


Panels = tuple[list[tuple[str, "Image"]], str]


def _map_panels(found: Explanation, _: Subject, __: Rgb) -> Panels:
    if found.layer is None:
        rows = [(name, _one_row(array)) for name, array in found.arrays.items()]
        return [("all layers", _stacked(rows))], ""
    (array,) = found.arrays.values()
    if array.ndim == 1:
        return [(f"{array.size} units", enlarged(signed(_folded(array)), PANEL))], ""
    top = float(np.abs(array).max()) or 1.0
    shown = array[..., :MOST_TILES]
    maps = [signed(shown[..., channel], top) for channel in range(shown.shape[-1])]
    note = f"blue below 0, red above; darkest {top:.3g}"
    if shown.shape[-1] < array.shape[-1]:
        note += f"; the first {MOST_TILES} of {array.shape[-1]} maps"
    return [(f"{array.shape[-1]} maps", tiles(maps))], note


def _one_row(array: Floats) -> "Image":
    if array.ndim == 1:
        return enlarged(signed(_folded(array, 64)), 512)
    top = float(np.abs(array).max()) or 1.0
    shown = [signed(array[..., channel], top) for channel in range(min(16, array.shape[-1]))]
    return tiles(shown, columns=16, side=48)


def _folded(units: Floats, width: int = 20) -> Floats:
    across = min(width, len(units))
    rows = -(-len(units) // across)
    padded = np.zeros(rows * across, np.float32)
    padded[: len(units)] = units
    return padded.reshape(rows, across)


def _stacked(rows: Sequence[tuple[str, "Image"]]) -> "Image":
    from PIL import Image, ImageDraw

    height = sum(image.height + 22 for _, image in rows)
    sheet = Image.new("RGB", (max(image.width for _, image in rows), height), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = 0
    for name, image in rows:
        draw.text((0, top), name, FAINT, font=font(12))
        sheet.paste(image, (0, top + 17))
        top += image.height + 22
    return sheet


def _filter_panels(found: Explanation, subject: Subject, _: Rgb) -> Panels:
    kernels = found.arrays["filters"][:MOST_TILES]
    if kernels.shape[-1] == 3:
        is_bgr = subject.input.colour == "bgr"
        shown = [natural(each, is_bgr=is_bgr) for each in kernels]
    else:
        top = float(np.abs(kernels).max())
        shown = [
            signed(each.mean(-1) if each.shape[-1] > 1 else each[..., 0], top) for each in kernels
        ]
    like = found.facts["nearest"][:12]
    note = "most like: " + ", ".join(f"{each['filter']} {each['cosine']:+.2f}" for each in like)
    return [(f"{len(found.arrays['filters'])} filters", tiles(shown))], note


def _classical_panels(found: Explanation, _: Subject, __: Rgb) -> Panels:
    shown = []
    for name, array in found.arrays.items():
        # Edges have both signs, blurs are pixels again.
        is_edge = name.startswith(("laplacian", "sobel"))
        rgb = signed(array.mean(-1)) if is_edge else natural(np.clip(array, 0, 255))
        shown.append((name, enlarged(rgb, 150)))
    return shown, ""


def _occlusion_panels(found: Explanation, subject: Subject, original: Rgb) -> Panels:
    best = found.arrays["best"]
    ids = np.unique(best)
    palette = heat(np.linspace(0.15, 1, len(ids)).astype(np.float32), 1.0)
    coloured = palette[np.searchsorted(ids, best)]
    names = ", ".join(subject.label(int(each)) for each in ids)
    probability = found.facts["probability"]
    return [
        ("what its cover costs", enlarged(overlay(original, found.arrays["drop"]))),
        ("probability", enlarged(heat(found.arrays["probability"], 1.0))),
        (f"map {found.facts['channel']}", enlarged(heat(found.arrays["strongest"]))),
        (f"wins: {names}", enlarged(coloured)),
    ], f"probability {probability:.3f} without the patch of {found.facts['patch']} pixels"


def _positive(name: str) -> "Callable[[Explanation, Subject, Rgb], Panels]":
    def panels(found: Explanation, _: Subject, original: Rgb) -> Panels:
        values = found.arrays[name]
        return [
            ("map", enlarged(heat(values))),
            ("over the image", enlarged(overlay(original, values))),
        ], f"largest {float(values.max()):.3g}"

    return panels


def _attribution(name: str) -> "Callable[[Explanation, Subject, Rgb], Panels]":
    def panels(found: Explanation, _: Subject, original: Rgb) -> Panels:
        total = found.arrays[name].sum(-1)
        strength = np.abs(found.arrays[name]).max(-1)
        note = ", ".join(
            f"{key.replace('_', ' ')} {value:.4g}"
            for key, value in found.facts.items()
            if isinstance(value, float)
        )
        return [
            ("blue against, red for", enlarged(signed(total))),
            ("strength over the image", enlarged(overlay(original, strength))),
        ], note

    return panels


def _made_image(found: Explanation, subject: Subject, _: Rgb) -> Panels:
    is_bgr = subject.input.colour == "bgr"
    note = ", ".join(f"{key} {value:.4g}" for key, value in found.facts.items())
    return [("found", enlarged(natural(found.arrays["image"], is_bgr=is_bgr)))], note


def _curves(found: Explanation, _: Subject, __: Rgb) -> Panels:
    lines = [
        (f"distance at {name}", list(map(float, values)))
        for name, values in zip(found.facts["layers"], found.arrays["distance"], strict=True)
    ]
    lines.append(("probability", list(map(float, found.arrays["probability"]))))
    return [(found.facts["motion"], curve(list(map(float, found.arrays["values"])), lines))], ""


def _unit_panels(found: Explanation, _: Subject, original: Rgb) -> Panels:
    from PIL import ImageDraw

    facts = found.facts
    factor = max(1, PANEL // max(original.shape[:2]))
    seen = enlarged(original)
    if factor >= 2 or max(original.shape[:2]) > PANEL:
        scale = seen.width / original.shape[1]
        box = facts["sees"]
        ImageDraw.Draw(seen).rectangle(
            [
                box["left"] * scale,
                box["top"] * scale,
                box["right"] * scale - 1,
                box["bottom"] * scale - 1,
            ],
            outline=(220, 40, 40),
            width=2,
        )
    panels = [("sees", seen)]
    for name in ("patch", "kernel", "products"):
        if name in found.arrays:
            array = found.arrays[name]
            plane = array.mean(-1) if array.ndim == 3 else np.atleast_2d(array)
            panels.append(
                (name, enlarged(signed(plane if plane.shape[0] > 1 else _folded(plane[0])), 180))
            )
    return panels, (
        f"{facts['operation']} at {facts['place']}: {facts['before']:.5g} before "
        f"{facts['activation']}, {facts['value']:.5g} after"
    )


def _plain(found: Explanation, subject: Subject, _: Rgb) -> Panels:
    array: Array = found.arrays["input"]
    is_bgr = subject.input.colour == "bgr"
    note = f"{'x'.join(map(str, array.shape))}, {array.min():.3g} to {array.max():.3g}"
    return [("what the network takes", enlarged(natural(array, is_bgr=is_bgr)))], note


_PANELS: "dict[str, Callable[[Explanation, Subject, Rgb], Panels]]" = {
    "input": _plain,
    "feature_maps": _map_panels,
    "filters": _filter_panels,
    "classical": _classical_panels,
    "unit": _unit_panels,
    "occlusion": _occlusion_panels,
    "saliency": _positive("saliency"),
    "class_model": _made_image,
    "guided_backpropagation": _attribution("attribution"),
    "grad_cam": _positive("upsampled"),
    "guided_grad_cam": _attribution("attribution"),
    "integrated_gradients": _attribution("attribution"),
    "deconvnet": _attribution("projection"),
    "inversion": _made_image,
    "invariance": _curves,
}
