"""The sources by name: their settings, and how each becomes a `Dataset`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from training.data.dataset import Dataset, split_by_content
from zoo.frozen import Frozen

DIGITS = tuple("0123456789")

Fraction = Annotated[float, Field(gt=0, lt=0.9)]


class DigitsSource(Frozen):
    """scikit-learn's 1,797 digits; nothing is downloaded."""

    source: Literal["digits"] = "digits"
    test_fraction: Fraction = 0.2
    validation_fraction: Fraction = 0.1

    def load(self) -> Dataset:
        """Splits by content: the same digits are held out on every machine."""
        from training.data import digits

        rest, test = split_by_content(digits.load(), self.test_fraction, "digits/test")
        train, validation = split_by_content(rest, self.validation_fraction, "digits/validation")
        return Dataset("digits", train, validation, test, DIGITS)


class MnistSource(Frozen):
    """MNIST: 60,000 training and 10,000 test images.

    `data_dir` is a folder with the four idx files, gzip or not; without it they are downloaded.
    """

    source: Literal["mnist"] = "mnist"
    data_dir: Path | None = None
    validation_fraction: Fraction = 0.05

    def load(self) -> Dataset:
        """Keeps MNIST's own test part; the validation part comes out of its training part."""
        from training.data import mnist

        all_train, test = mnist.load(self.data_dir)
        train, validation = split_by_content(
            all_train, self.validation_fraction, "mnist/validation"
        )
        return Dataset("mnist", train, validation, test, DIGITS)


class IdxSource(Frozen):
    """Any idx files named as MNIST's are: train-... and t10k-..., images and labels."""

    source: Literal["idx"] = "idx"
    data_dir: Path
    labels: tuple[str, ...] = DIGITS
    validation_fraction: Fraction = 0.05

    def load(self) -> Dataset:
        """Reads both parts; the validation part comes out of the training part."""
        from training.data import idx

        train, validation = split_by_content(
            idx.load_pair(self.data_dir, "train"), self.validation_fraction, "idx/validation"
        )
        test = idx.load_pair(self.data_dir, "t10k")
        return Dataset(self.data_dir.name, train, validation, test, self.labels)


DataSource = Annotated[
    DigitsSource | MnistSource | IdxSource,
    Field(discriminator="source"),
]
SOURCES = ("digits", "mnist", "idx")
