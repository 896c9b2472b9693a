"""The sources by name: their settings, and how each becomes a `Dataset`."""

import abc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from training.data.dataset import Dataset, Files, Images, shown, split_by_content
from zoo.errors import DataError, UsageError
from zoo.frozen import Frozen
from zoo.suggest import unknown

DIGITS = tuple("0123456789")

Fraction = Annotated[float, Field(gt=0, lt=0.9)]
AnyDataset = Dataset[Images] | Dataset[Files]
AnyPart = Images | Files


class Source(Frozen, abc.ABC):
    """What every source can do besides loading: look at a part of its classes or images.

    Attributes:
        validation_fraction: What is taken from the training part, when the source has no
            validation part of its own.
        classes: Only these, in this order; empty stands for all.
        one_against_rest: A class name: the labels become ("not NAME", NAME).
        per_class: At most so many training images a class; the choice follows from their content.
        on_corrupt: An image that cannot be decoded stops the run, or is left out and listed.
    """

    validation_fraction: Fraction = 0.05
    classes: tuple[str, ...] = ()
    one_against_rest: str | None = None
    per_class: Annotated[int, Field(ge=1)] | None = None
    on_corrupt: Literal["stop", "skip"] = "stop"

    def load(self) -> AnyDataset:
        """Reads, splits and narrows the data.

        Raises:
            DataError: it cannot be read; names the file and what was expected.
            UsageError: a class that is not there.
        """
        dataset = self._load()
        dataset = replace(dataset, name=shown(dataset.name))
        if self.classes:
            dataset = _only(dataset, self.classes)
        if self.one_against_rest is not None:
            dataset = _one_against_rest(dataset, self.one_against_rest)
        if self.per_class is not None:
            dataset = replace(dataset, train=_few(dataset.train, self.per_class))
        return dataset

    @abc.abstractmethod
    def _load(self) -> AnyDataset: ...


class DigitsSource(Source):
    """scikit-learn's 1,797 digits; nothing is downloaded."""

    source: Literal["digits"] = "digits"
    test_fraction: Fraction = 0.2
    validation_fraction: Fraction = 0.1

    def _load(self) -> AnyDataset:
        from training.data import digits

        rest, test = split_by_content(digits.load(), self.test_fraction, "digits/test")
        train, validation = split_by_content(rest, self.validation_fraction, "digits/validation")
        return Dataset("digits", train, validation, test, DIGITS)


class MnistSource(Source):
    """MNIST: 60,000 training and 10,000 test images.

    `data_dir` is a folder with the four idx files, gzip or not; without it they are downloaded.
    """

    source: Literal["mnist"] = "mnist"
    data_dir: Path | None = None

    def _load(self) -> AnyDataset:
        from training.data import mnist

        all_train, test = mnist.load(self.data_dir)
        train, validation = split_by_content(
            all_train, self.validation_fraction, "mnist/validation"
        )
        return Dataset("mnist", train, validation, test, DIGITS)


class IdxSource(Source):
    """Any idx files named as MNIST's are: train-... and t10k-..., images and labels."""

    source: Literal["idx"] = "idx"
    data_dir: Path
    labels: tuple[str, ...] = DIGITS

    def _load(self) -> AnyDataset:
        from training.data import idx

        train, validation = split_by_content(
            idx.load_pair(self.data_dir, "train"), self.validation_fraction, "idx/validation"
        )
        test = idx.load_pair(self.data_dir, "t10k")
        return Dataset(self.data_dir.name, train, validation, test, self.labels)


class ImagesSource(Source):
    """Class folders with images, in a folder, a zip or a tar: `training.data.tree`.

    Where they have no test part, one is split off.
    """

    source: Literal["images"] = "images"
    data_dir: Path
    test_fraction: Fraction = 0.2

    def _load(self) -> AnyDataset:
        from training.data import tree

        found, labels, notes = tree.load(self.data_dir)
        rest = found.get("train", found.get(""))
        if rest is None:
            raise DataError(f"{self.data_dir} has the parts {', '.join(found)}, but no train.")
        test = found.get("test")
        validation = found.get("validation")
        if test is None and validation is not None and "" not in found:
            # ImageNet's own form: its test labels are not public, so val is what is measured on.
            test, validation = validation, None
        if test is None:
            every = len(rest)
            rest, test = split_by_content(rest, self.test_fraction, "images/test")
            if not len(test) or not len(rest):
                raise DataError(
                    f"Of the {every} images of {self.data_dir} {len(test)} would be held out: each "
                    "image's own bytes decide. More images, another data.test_fraction, or the "
                    "folders train/CLASS and test/CLASS give both parts some."
                )
        if validation is None:
            rest, validation = split_by_content(rest, self.validation_fraction, "images/validation")
        return Dataset(self.data_dir.stem, rest, validation, test, labels, notes)


class CifarSource(Source):
    """CIFAR-10 or CIFAR-100 in its author's binary or Python batches."""

    source: Literal["cifar"] = "cifar"
    data_dir: Path

    def _load(self) -> AnyDataset:
        from training.data import cifar

        all_train, test, labels = cifar.load(self.data_dir)
        train, validation = split_by_content(
            all_train, self.validation_fraction, "cifar/validation"
        )
        return Dataset(f"cifar{len(labels)}", train, validation, test, labels)


class NpzSource(Source):
    """An .npz file with x_train, y_train, x_test and y_test."""

    source: Literal["npz"] = "npz"
    data_dir: Path
    labels: tuple[str, ...] = ()

    def _load(self) -> AnyDataset:
        from training.data import arrays

        all_train, test = arrays.load(self.data_dir)
        train, validation = split_by_content(all_train, self.validation_fraction, "npz/validation")
        return Dataset(self.data_dir.stem, train, validation, test, _labels(self.labels, all_train))


class TFRecordSource(Source):
    """TFRecord shards of tf.train.Example, e.g. ImageNet's."""

    source: Literal["tfrecord"] = "tfrecord"
    data_dir: Path
    train: str = "train*"
    test: str = "validation*"
    first_label: int = 0
    labels: tuple[str, ...] = ()

    def _load(self) -> AnyDataset:
        from training.data import shards

        all_train = shards.load(self.data_dir, self.train, self.first_label)
        test = shards.load(self.data_dir, self.test, self.first_label)
        train, validation = split_by_content(
            all_train, self.validation_fraction, "tfrecord/validation"
        )
        return Dataset(self.data_dir.name, train, validation, test, _labels(self.labels, all_train))


class TfdsSource(Source):
    """A data set of TensorFlow Datasets, by its name there; the package must be installed."""

    source: Literal["tfds"] = "tfds"
    name: str
    data_dir: Path | None = None
    train: str = "train"
    test: str = "test"

    def _load(self) -> AnyDataset:
        from training.data import tfds

        all_train, test, labels = tfds.load(self.name, self.data_dir, self.train, self.test)
        train, validation = split_by_content(all_train, self.validation_fraction, "tfds/validation")
        return Dataset(self.name.replace("/", "_"), train, validation, test, labels)


class XoSource(Source):
    """Drawn X and O images: `training.data.xo`."""

    source: Literal["xo"] = "xo"
    images: int = Field(default=2000, ge=20)
    side: int = Field(default=9, ge=5)
    drawing_seed: int = 1
    test_fraction: Fraction = 0.2

    def _load(self) -> AnyDataset:
        from training.data import xo

        every = xo.generate(self.images, self.side, self.drawing_seed)
        rest, test = split_by_content(every, self.test_fraction, "xo/test")
        train, validation = split_by_content(rest, self.validation_fraction, "xo/validation")
        return Dataset("xo", train, validation, test, xo.LABELS)


DataSource = Annotated[
    DigitsSource
    | MnistSource
    | IdxSource
    | ImagesSource
    | CifarSource
    | NpzSource
    | TFRecordSource
    | TfdsSource
    | XoSource,
    Field(discriminator="source"),
]
SOURCES: Mapping[str, Any] = {
    each.model_fields["source"].default: each
    for each in (
        *(DigitsSource, MnistSource, IdxSource, ImagesSource, CifarSource),
        *(NpzSource, TFRecordSource, TfdsSource, XoSource),
    )
}
WITHOUT_PATH = ("digits", "mnist", "xo")


def find(text: str) -> Source:
    """The source that a word of the command line stands for.

    Args:
        text: "digits", "mnist", "xo", or a path: class folders (also in a zip or tar), a folder
            with idx files, CIFAR batches or TFRecord shards, an .npz file.

    Raises:
        UsageError: neither a name nor a path that exists.
    """
    if text in WITHOUT_PATH:
        source: Source = SOURCES[text]()
        return source
    path = Path(text)
    if not path.exists():
        raise UsageError(unknown("source", text, WITHOUT_PATH) + " A path works too.")
    chosen: Any = _kind_of(path)
    found: Source = chosen(data_dir=path.resolve())
    return found


def unlabelled(text: str) -> dict[str, AnyPart]:
    """The images that a word of the command line stands for, by part; their classes do not matter.

    Args:
        text: As for `find`; a folder or an archive of images needs no class folders here, and all
            of it is the part "".

    Raises:
        UsageError: neither a name nor a path that exists.
        DataError: it cannot be read.
    """
    path = Path(text)
    if text not in WITHOUT_PATH and path.exists() and _kind_of(path) is ImagesSource:
        from training.data import tree

        return {"": tree.load_unlabelled(path.resolve())}
    return dict(find(text).load().parts())


def _kind_of(path: Path) -> type[Source]:
    if path.suffix == ".npz":
        return NpzSource
    if not path.is_dir():
        return ImagesSource
    names = [each.name for each in path.iterdir()]
    if any("idx3-ubyte" in name for name in names):
        return IdxSource
    if any(name.startswith(("data_batch_1", "cifar-10")) for name in names) or {
        *("train.bin", "test.bin")
    } <= set(names):
        return CifarSource
    if any("tfrecord" in name for name in names):
        return TFRecordSource
    return ImagesSource


def _labels(given: tuple[str, ...], images: AnyPart) -> tuple[str, ...]:
    return given or tuple(str(number) for number in range(int(images.class_ids.max()) + 1))


def _class_id(dataset: AnyDataset, label: str) -> int:
    if label not in dataset.labels:
        raise UsageError(unknown("class", label, dataset.labels))
    return dataset.labels.index(label)


def _only(dataset: AnyDataset, classes: tuple[str, ...]) -> AnyDataset:
    wanted = [_class_id(dataset, label) for label in classes]
    new_ids = np.full(len(dataset.labels), -1)
    new_ids[wanted] = np.arange(len(wanted))

    def narrow(part: Any) -> Any:
        kept = part.take(np.isin(part.class_ids, wanted))
        return replace(kept, class_ids=new_ids[kept.class_ids])

    parts: dict[str, Any] = {name: narrow(part) for name, part in dataset.parts().items()}
    return replace(dataset, **parts, labels=classes)


def _one_against_rest(dataset: AnyDataset, label: str) -> AnyDataset:
    class_id = _class_id(dataset, label)
    parts: dict[str, Any] = {
        name: replace(part, class_ids=(part.class_ids == class_id).astype(np.int64))
        for name, part in dataset.parts().items()
    }
    return replace(dataset, **parts, labels=(f"not {label}", label))


def _few(part: Any, per_class: int) -> Any:
    by_hash = np.argsort(np.array(part.hashes()))
    rows = [
        row
        for class_id in np.unique(part.class_ids)
        for row in by_hash[part.class_ids[by_hash] == class_id][:per_class]
    ]
    return part.take(np.sort(np.array(rows, dtype=np.int64)))
