"""What is said of a network before it is built: its input, its paper, its published figures."""

from typing import Literal

from pydantic import Field

from zoo.frozen import Frozen

ColourOrder = Literal["gray", "rgb", "bgr"]


class ImageInput(Frozen):
    """The float tensor [N, height, width, channels] that a network takes.

    `value_range` is what the paper's preprocessing gives, e.g. (-0.1, 1.175) for LeNet-5; it is
    a statement about the data, not a clamp.
    """

    height: int = Field(ge=1)
    width: int = Field(ge=1)
    channels: int = Field(ge=1)
    colour: ColourOrder = "rgb"
    value_range: tuple[float, float] = (0.0, 255.0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels), the shape Keras calls `input_shape`."""
        return (self.height, self.width, self.channels)


class PublishedError(Frozen):
    """An error the paper (or the named source) published.

    Percentages, e.g. top1=40.7 and top5=18.2 for AlexNet on ILSVRC-2012 validation.
    """

    data: str
    top1: float | None = None
    top5: float | None = None
    source: str


class ModelSpec(Frozen):
    """One row of the catalog.

    Attributes:
        name: The catalog name, e.g. "vgg16".
        title: What the literature calls it, e.g. "VGG-16 (configuration D)".
        year: Year of the paper.
        paper: Key into `docs/references.bib`.
        builder: Where the model function is, "module:function"; imported by `create` only.
        options: Fixed keyword arguments of the builder for this name.
        input: The paper's input.
        num_classes: The paper's number of classes.
        parameters: Trainable parameters at those defaults.
        macs: Multiply-accumulates of one image at those defaults (convolutions and dense layers).
        errors: Published errors.
        note: Anything a reader must know, e.g. that it is an adaptation.
    """

    name: str
    title: str
    year: int
    paper: str
    builder: str
    options: dict[str, object] = Field(default_factory=dict)
    input: ImageInput
    num_classes: int
    parameters: int
    macs: int
    errors: tuple[PublishedError, ...] = ()
    note: str = ""
