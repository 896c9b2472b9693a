"""Methods that look over a data set, or over several networks: top patches, evolution, sanity."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field, field_validator

from zoo.errors import UsageError
from zoo.explain.deconvnet import Patch, top_patches
from zoo.explain.evolution import PAPER_EPOCHS, evolution
from zoo.explain.methods import Options, Seed, Subject, explain, find, read_options
from zoo.explain.probe import (
    Floats,
    Probe,
    chosen_target,
    logits,
    one_hot,
    require_maps,
    require_relu,
)
from zoo.explain.sanity import SanityStep, weight_randomisation
from zoo.explain.source import Source
from zoo.suggest import unknown

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH = 64
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MOST_CHANNELS = 24
Channel = Annotated[int, Field(ge=0)]

# What each method's attribution is called among its arrays.
ATTRIBUTIONS = {
    "saliency": "saliency",
    "guided_backpropagation": "attribution",
    "grad_cam": "upsampled",
    "guided_grad_cam": "attribution",
    "integrated_gradients": "attribution",
    "deconvnet": "projection",
    "occlusion": "drop",
}


class TopPatchesOptions(Options):
    """Which maps, the first ones when none is named, and how many images of each."""

    channels: tuple[Channel, ...] | None = Field(default=None, min_length=1, max_length=4096)
    count: int = Field(default=9, ge=1, le=100)

    @field_validator("channels", mode="before")
    @classmethod
    def _one_or_more(cls, channels: Any) -> Any:
        return (channels,) if isinstance(channels, int) else channels


class EvolutionOptions(Options):
    """Which map."""

    channel: Channel = 0


class SanityOptions(Options):
    """Which method is checked, the seed of the random weights, and how many images of the data."""

    of: str = "grad_cam"
    seed: Seed = 0
    images: int = Field(default=16, ge=1, le=10_000)


@dataclass(frozen=True, slots=True)
class Overview:
    """One of these methods, as `Method` describes the others."""

    title: str
    paper: str
    options: type[Options]
    takes_layer: bool = True
    takes_target: bool = False


OVERVIEWS: Mapping[str, Overview] = {
    "top_patches": Overview("Top patches of a data set", "zeiler2014", TopPatchesOptions),
    "evolution": Overview("Feature evolution over a run", "zeiler2014", EvolutionOptions),
    "sanity": Overview(
        "Weight-randomisation check of a method",
        "adebayo2018",
        SanityOptions,
        takes_target=True,
    ),
}


def overview(
    source: Source,
    method: str,
    *,
    image: Path | None,
    data: Path | None,
    layer: str | None,
    target: str | None,
    options: Mapping[str, Any],
) -> tuple[dict[str, Any], "Image"]:
    """Runs one of them: what it found, as JSON has it, and its picture.

    Raises:
        UsageError: something it needs is not given, or an option that does not work.
    """
    chosen = read_options(method, OVERVIEWS[method].options, options)
    if isinstance(chosen, SanityOptions):
        return _sanity(source, image, data, layer, target, chosen)
    if data is None:
        raise UsageError(f"{method} looks over images; --data names their folder.")
    if layer is None:
        raise UsageError(f"{method} needs --layer; --layers lists them.")
    run: Callable[..., tuple[dict[str, Any], Image]] = (
        _top_patches if method == "top_patches" else _evolution
    )
    return run(source, data, layer, chosen)


def _probe(path: Path) -> Any:
    from zoo.quiet import import_tensorflow

    import_tensorflow()
    from zoo.keras_probe import load_probe

    return load_probe(path)


def image_paths(folder: Path) -> list[Path]:
    """The images of a folder and its subfolders, by name.

    Raises:
        UsageError: there are none.
    """
    found = sorted(each for each in folder.rglob("*") if each.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise UsageError(f"There is no image ({', '.join(IMAGE_SUFFIXES)}) in {folder}.")
    return found


def _batches(source: Source, paths: list[Path]) -> Iterator[Floats]:
    for start in range(0, len(paths), BATCH):
        pixels = np.stack(
            [
                source.preprocessing.to_pixels(source.preprocessing.decode(path.read_bytes()))
                for path in paths[start : start + BATCH]
            ]
        )
        yield source.preprocessing.to_input(pixels, source.arrays)


def _top_patches(
    source: Source, data: Path, layer: str, options: TopPatchesOptions
) -> tuple[dict[str, Any], "Image"]:
    from zoo.explain import render

    paths = image_paths(data)
    probe = _probe(source.keras_file)
    most = min(MOST_CHANNELS, require_maps(probe, layer).output_shape[2])
    channels = options.channels or tuple(range(most))
    found = top_patches(probe, _batches(source, paths), layer, channels, count=options.count)
    is_bgr = source.preprocessing.input.colour == "bgr"
    panels = []
    for channel, patches in found.items():
        projected = render.tiles(
            [render.signed(_padded(each.projection_hwc, patches).sum(-1)) for each in patches],
            columns=3,
        )
        pixels = render.tiles(
            [render.natural(_padded(each.pixels_hwc, patches), is_bgr=is_bgr) for each in patches],
            columns=3,
        )
        panels.append((f"map {channel}", _beside(projected, pixels)))
    picture = _in_rows(render.page, panels, f"{source.name}: top patches of {layer}")
    plain = {
        "method": "top_patches",
        "layer": layer,
        "images": len(paths),
        "maps": {
            str(channel): [
                {
                    "file": str(paths[each.index]),
                    "activation": each.activation,
                    "place": list(each.place),
                    "box": each.box._asdict(),
                }
                for each in patches
            ]
            for channel, patches in found.items()
        },
    }
    return plain, picture


def _padded(array_hwc: Floats, patches: tuple[Patch, ...]) -> Floats:
    """Brought to the size of the largest patch: those at the edge are cut."""
    height = max(each.pixels_hwc.shape[0] for each in patches)
    width = max(each.pixels_hwc.shape[1] for each in patches)
    padded = np.full((height, width, array_hwc.shape[2]), array_hwc.flat[0], np.float32)
    padded[: array_hwc.shape[0], : array_hwc.shape[1]] = array_hwc
    return padded


def _beside(left: "Image", right: "Image") -> "Image":
    from PIL import Image

    sheet = Image.new("RGB", (left.width + right.width + 6, left.height), (255, 255, 255))
    sheet.paste(left, (0, 0))
    sheet.paste(right, (left.width + 6, 0))
    return sheet


def _in_rows(
    page: Callable[..., "Image"], panels: list[tuple[str, "Image"]], title: str, across: int = 3
) -> "Image":
    from PIL import Image

    rows = [
        page(title if start == 0 else "", panels[start : start + across])
        for start in range(0, len(panels), across)
    ]
    width = max(row.width for row in rows)
    sheet = Image.new("RGB", (width, sum(row.height for row in rows)), (255, 255, 255))
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _evolution(
    source: Source, data: Path, layer: str, options: EvolutionOptions
) -> tuple[dict[str, Any], "Image"]:
    from zoo.explain import render

    if not source.snapshots:
        paper = ",".join(map(str, PAPER_EPOCHS))
        raise UsageError(
            f"{source.name} kept no snapshots; a run keeps those its recipe names, e.g. "
            f"`convzoo train ... checkpoints.snapshots=[{paper}]`."
        )
    trained = _probe(source.keras_file)
    probes: dict[int, Probe] = {}
    for epoch, path in source.snapshots.items():
        with np.load(path, allow_pickle=False) as file:
            probes[epoch] = trained.with_weights({name: file[name] for name in file.files})
    paths = image_paths(data)
    images = np.concatenate(list(_batches(source, paths)))
    channel = options.channel
    stages = evolution(probes, images, layer, channel)
    patches = tuple(stage.patch for stage in stages)
    panels = [
        (
            f"epoch {stage.epoch}",
            render.enlarged(
                render.signed(_padded(stage.patch.projection_hwc, patches).sum(-1)), 120
            ),
        )
        for stage in stages
    ]
    plain = {
        "method": "evolution",
        "layer": layer,
        "channel": channel,
        "stages": [
            {
                "epoch": stage.epoch,
                "file": str(paths[stage.patch.index]),
                "activation": stage.patch.activation,
                "place": list(stage.patch.place),
            }
            for stage in stages
        ],
    }
    return plain, render.page(f"{source.name}: map {channel} of {layer}", panels)


def _sanity(
    source: Source,
    image: Path | None,
    data: Path | None,
    layer: str | None,
    target: str | None,
    options: SanityOptions,
) -> tuple[dict[str, Any], "Image"]:
    from zoo.explain import render
    from zoo.explain.cli import class_id

    of = options.of
    if of not in ATTRIBUTIONS:
        raise UsageError(f"sanity: {unknown('attribution method', of, ATTRIBUTIONS)}")
    if image is None and data is None:
        raise UsageError("Which image? sanity explains one, or those of --data, again and again.")
    paths = [image] if image is not None else image_paths(data)[: options.images]  # type: ignore[arg-type]  # one of them is given
    trained = _probe(source.keras_file)
    every = [
        weight_randomisation(
            trained,
            attribution_of(
                of,
                source.subject(trained, path.read_bytes()),
                layer,
                class_id(target, source.labels),
            ),
            seed=options.seed,
        )
        for path in paths
    ]
    steps = [
        SanityStep(
            each[0].layer,
            float(np.mean([step.rank for step in each])),
            float(np.mean([step.signed_rank for step in each])),
        )
        for each in zip(*every, strict=True)
    ]
    plain = {
        "method": "sanity",
        "of": of,
        "images": len(paths),
        "steps": [
            {"layer": each.layer, "rank": each.rank, "signed_rank": each.signed_rank}
            for each in steps
        ],
    }
    lines = [
        ("rank correlation", [1.0, *(max(0.0, each.rank) for each in steps)]),
        ("with signs", [1.0, *(max(0.0, each.signed_rank) for each in steps)]),
    ]
    chart = render.curve(list(range(len(steps) + 1)), lines)
    note = "randomised, one after the other: " + ", ".join(each.layer for each in steps)
    return plain, render.page(f"{of} against random weights", [("", chart)], note[:160])


def attribution_of(
    method: str, trained: Subject, layer: str | None, target: int | None
) -> Callable[[Probe], Floats]:
    """A function from a probe to a method's attribution for one image.

    The class and the layer are those of the trained network all the way: else another question
    would be asked each time. The deconvnet starts at the class score, with 1: a unit inside may be
    silent in a network of random weights.
    """
    images = trained.image_hwc[None]
    class_ = chosen_target(trained.probe, images, target)
    takes_layer = find(method).takes_layer and method != "deconvnet"

    def attribution(probe: Probe) -> Floats:
        if method == "deconvnet":
            require_relu(probe, probe.output, "The deconvnet")
            classes = logits(probe, images).shape[-1]
            seed = one_hot(1, classes, class_)
            projected: Floats = probe.pull_back(images, probe.output, seed, rule="deconvnet")[0]
            return projected
        subject = Subject(
            probe, trained.pixels_hwc, trained.image_hwc, trained.input, trained.labels
        )
        found = explain(subject, method, layer=layer if takes_layer else None, target=class_)
        array: Floats = found.arrays[ATTRIBUTIONS[method]]
        return array

    return attribution
