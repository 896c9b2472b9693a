"""Weights that were not trained here, ready to be published.

What a run knows of its network, these are told: the publisher's preprocessing, a file of labels,
and images, which need no classes. Nothing is measured, unless images come for it.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from training import baseline
from training.data import sources
from training.data.dataset import Files, Images
from training.data.store import decoded
from training.material import Material
from training.measure import with_labels
from training.quantize import require_enough
from training.run import CALIBRATION, VALIDATION
from zoo.artifact import Architecture, Origin, file_sha256
from zoo.catalog import CATALOG, create, describe
from zoo.errors import DataError, ImageError, UsageError
from zoo.precision import Precision
from zoo.preprocess import Pixels, Preprocessing, resize
from zoo.quiet import import_tensorflow
from zoo.weights.choose import choose
from zoo.weights.inputs import in_words, preprocessing_of
from zoo.weights.load import load, num_classes

if TYPE_CHECKING:
    from training.data.sources import AnyPart

SYNTHETIC_IMAGES = 8


def prepare(
    network: str,
    weights: str,
    *,
    labels: Path | None = None,
    images: str | None = None,
    precision: Precision = "fp32",
    most_drop: float = 0.005,
    talk: Callable[[str], None] = lambda _: None,
) -> Material:
    """Builds a network with its weights and gathers what a version needs beside them.

    Args:
        network: A catalog name, and what the model is called when nobody says otherwise.
        weights: A publisher or a file, see `zoo.weights.choose.choose`.
        labels: A file of class names, see `read_labels`; "class 0" and so on when None.
        images: A source, as `training.data.sources.unlabelled` takes it: for the golden records,
            the baseline of drift, and to tell what fewer bits cost.
        precision: What the version shall compute in.
        most_drop: What fewer bits may cost, a fraction.
        talk: Takes one line for each stage.

    Raises:
        UsageError: no such network or weights, or eight bits without images.
        DataError: the file cannot be read or downloaded, or does not fit the network, as many labels as classes are not there, or
            the images cannot be used.
        GateFailedError: too few images to tell what fewer bits cost.
    """
    if precision == "int8" and images is None:
        raise UsageError(
            "int8 is calibrated on images, and held against fp32 on others: --images FOLDER gives "
            "them. fp32 needs none."
        )
    if network not in CATALOG and Path(network).is_dir():
        raise UsageError(f"{network} is a folder, so a run, and has its weights: no --weights.")
    chosen = choose(network, weights)
    declared = chosen.declared
    spec = describe(chosen.network)
    classes = num_classes(chosen.path, chosen.network) or spec.num_classes
    options = dict(declared.options)
    if classes != spec.num_classes:
        options["num_classes"] = classes
    names = (
        tuple(f"class {number}" for number in range(classes))
        if labels is None
        else read_labels(labels, classes)
    )
    preprocessing = preprocessing_of(declared)
    source = chosen.public.name if chosen.public is not None else str(chosen.path)
    talk(f"{spec.title} with {source}; {in_words(declared)}, as for {declared.name}")
    given = None if images is None else _read_images(images, names, preprocessing, precision, talk)
    if given is not None and precision != "fp32":
        require_enough(precision, len(given.sample("validation")), most_drop)
    import_tensorflow()
    model = create(chosen.network, **options)
    load(model, chosen.path)
    public = chosen.public
    origin = Origin(
        weights=chosen.path.name if public is None else public.name,
        url="" if public is None else public.url,
        licence="" if public is None else public.licence,
        sha256=file_sha256(chosen.path),
        input=in_words(declared),
        top1_error=None if public is None else public.top1_error,
        golden="synthetic" if given is None else "images",
    )
    return Material(
        name=network,
        model=model,
        save_model=model.save,
        preprocessing=preprocessing,
        arrays={},
        labels=names,
        about={
            "architecture": Architecture(name=chosen.network, options=options),
            "origin": origin,
        },
        golden=lambda: synthetic(preprocessing) if given is None else given.images,
        cause="such weights cannot be served",
        sample=lambda name: _none(preprocessing) if given is None else given.sample(name),
        has_classes=given is not None and given.has_classes,
        baseline=None
        if given is None
        else baseline.of_inputs(given.images, given.sizes, preprocessing, {}),
        no_baseline="there are no images; --images FOLDER gives one",
        answered=lambda: () if given is None else (given.images,),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Given:
    """Images that came with the weights, at the input's size; `sizes` as they came, int64 [N, 2]."""

    images: Images
    sizes: NDArray[np.int64]
    has_classes: bool

    def sample(self, name: str) -> Images:
        """Images to calibrate on, up to a quarter of all, and others to measure on."""
        number = min(CALIBRATION, len(self.images) // 4)
        rows = np.arange(len(self.images))
        return self.images.take(rows[:number] if name == "calibration" else rows[number:])


def _read_images(
    source: str,
    labels: tuple[str, ...],
    preprocessing: Preprocessing,
    precision: Precision,
    talk: Callable[[str], None],
) -> _Given:
    """Some images of a source; their classes count where they are the network's and are needed."""
    parts: Mapping[str, AnyPart] | None = None
    if precision != "fp32":
        try:
            parts = with_labels(sources.find(source).load(), labels, source).parts()
        except DataError as error:
            talk(f"Fewer bits are held against fp32's own answers, without classes: {error}")
    has_classes = parts is not None
    if parts is None:
        parts = sources.unlabelled(source)
    places = [(part, row) for part in parts.values() for row in range(len(part))]
    rows = baseline.draw(len(places), CALIBRATION + VALIDATION)
    pixels, sizes, class_ids = [], [], []
    unread: list[str] = []
    # Class after class as they lie, the first ones would all be of one.
    for index in np.random.RandomState(1).permutation(rows):
        part, row = places[index]
        try:
            image = decoded(part, row, is_upright=preprocessing.upright)
            pixels.append(preprocessing.to_pixels(image))
        except (ImageError, DataError) as error:
            name = part.names[row] if isinstance(part, Files) else f"image {row}"
            unread.append(f"{name}: {error}")
        else:
            sizes.append(image.shape[:2])
            class_ids.append(part.class_ids[row])
    if not pixels:
        raise DataError(
            f"None of the images of {source} can be used" + (f": {unread[0]}" if unread else ".")
        )
    if unread:
        talk(f"Warning: {len(unread)} images cannot be used, e.g. {unread[0]}")
    talk(f"{len(pixels):,} of {len(places):,} images of {source}")
    images = Images(np.stack(pixels), np.array(class_ids, np.int64))
    return _Given(images, np.array(sizes, np.int64), has_classes)


def _none(preprocessing: Preprocessing) -> Images:
    return Images(np.zeros((0, *preprocessing.input.shape), np.uint8), np.zeros(0, np.int64))


def synthetic(preprocessing: Preprocessing) -> Images:
    """Drawn images, the same ones each time: coloured clouds with coarse and fine grain."""
    rng = np.random.RandomState(0)
    height, width = 240, 320

    def cloud() -> Pixels:
        layers = [
            resize(rng.randint(0, 256, (side, side, 3)).astype(np.uint8), height, width, "bicubic")
            for side in (3, 12, 48)
        ]
        mixed: Pixels = np.mean(layers, axis=0).astype(np.uint8)
        return mixed

    pixels = np.stack([preprocessing.to_pixels(cloud()) for _ in range(SYNTHETIC_IMAGES)])
    return Images(pixels, np.zeros(len(pixels), np.int64))


def read_labels(path: Path, classes: int) -> tuple[str, ...]:
    """The class names, in the order of the network's outputs.

    Args:
        path: A text file with one label a line; a JSON list; or JSON as keras.applications'
            imagenet_class_index.json has it, {"0": ["n01440764", "tench"], ...}.
        classes: How many the network has.

    Raises:
        DataError: no such file, another number of labels, an empty one, or one that comes twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8: {error}") from error
    found = _from_json(path, text) if path.suffix == ".json" else text.rstrip().splitlines()
    names = tuple(label.strip() for label in found)
    if len(names) != classes:
        raise DataError(
            f"{path} has {len(names):,} labels; these weights tell {classes:,} classes apart."
        )
    if "" in names:
        raise DataError(f"{path} has no label for class {names.index('')}.")
    (label, number) = Counter(names).most_common(1)[0]
    if number > 1:
        first = names.index(label)
        raise DataError(
            f"{path} has {label!r} for class {first} and for class "
            f"{names.index(label, first + 1)}; answers could not be told apart."
        )
    return names


def _from_json(path: Path, text: str) -> list[str]:
    try:
        found = json.loads(text)
        if isinstance(found, dict):
            pairs = [found[str(number)] for number in range(len(found))]
            common = Counter(name for _, name in pairs)
            # ImageNet has two classes "crane" and two "maillot".
            found = [name if common[name] == 1 else f"{name} ({key})" for key, name in pairs]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(f"{path} holds no labels: {error}") from error
    if isinstance(found, list) and all(isinstance(each, str) for each in found):
        return found
    raise DataError(
        f'{path} holds no labels: expected ["tench", ...] or {{"0": ["n01440764", "tench"], ...}}.'
    )
