"""A recipe: everything that decides what a training run gives, validated and frozen.

A recipe is a YAML file (`training/recipes/`, or any path), one experiment each. Values on the
command line (`optimizer.learning_rate=0.05`) take the place of the file's.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from training.data.augment import Augmentation
from training.data.sources import DataSource
from zoo.artifact import check_model_name
from zoo.errors import UsageError
from zoo.frozen import Frozen
from zoo.preprocess import InputStep, PixelStep
from zoo.spec import ImageInput
from zoo.suggest import unknown

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]


POINTLESS = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?[0-9]*\.[0-9]+[eE][0-9]+")


class ModelChoice(Frozen):
    """Which network of the zoo: its catalog name and its builder's arguments."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class Steps(Frozen):
    """How an image becomes an input: `zoo.preprocess`'s steps, in order.

    Attributes:
        upright: Turn files as their EXIF orientation says, in training and wherever the published
            version is asked.
    """

    upright: bool = True
    pixel_steps: tuple[PixelStep, ...] = ()
    input_steps: tuple[InputStep, ...] = ()


class OptimizerSettings(Frozen):
    """What all optimizers have.

    Attributes:
        bias_rate: The learning rate of biases (and of all else that is no kernel), as a multiple:
            2 in Caffe's networks [jia2014].
        bias_decay: Their weight decay, as a multiple: 0 there.
        clip_norm: Gradients are scaled so that the norm of all together is at most this.
        average: Momentum of a running average of the weights, which is then what is measured and
            kept: Polyak averaging [polyak1992], e.g. 0.999.
    """

    learning_rate: Positive
    weight_decay: Rate = 0.0
    bias_rate: Positive = 1.0
    bias_decay: Rate = 0.0
    clip_norm: Positive | None = None
    average: Annotated[float, Field(gt=0, lt=1)] | None = None


class Adam(OptimizerSettings):
    """Adam [kingma2015]; with weight decay AdamW, which keeps it out of the gradient [loshchilov2019]."""

    kind: Literal["adam"] = "adam"
    learning_rate: Positive = 1e-3


class Sgd(OptimizerSettings):
    """Stochastic gradient descent with momentum: v <- m v - rate g, w <- w + v.

    Weight decay is the papers' L2: `weight_decay` times the weight is added to the gradient, and so
    goes through the momentum.
    """

    kind: Literal["sgd"] = "sgd"
    learning_rate: Positive = 1e-2
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False


Optimizer = Annotated[Adam | Sgd, Field(discriminator="kind")]


class Constant(Frozen):
    """The optimizer's learning rate throughout."""

    kind: Literal["constant"] = "constant"


class Cosine(Frozen):
    """From the optimizer's rate to 0 along half a cosine, after a linear rise from a hundredth."""

    kind: Literal["cosine"] = "cosine"
    warmup_epochs: Rate = 0.0


class Staircase(Frozen):
    """The optimizer's rate times `factors[i]` from `epochs[i]` on (epochs count from 0)."""

    kind: Literal["staircase"] = "staircase"
    epochs: tuple[Annotated[int, Field(ge=0)], ...]
    factors: tuple[Positive, ...]

    @model_validator(mode="after")
    def _has_a_factor_for_each_epoch(self) -> Self:
        if len(self.epochs) != len(self.factors):
            raise ValueError(
                f"{len(self.epochs)} epochs need as many factors; there are {len(self.factors)}"
            )
        if list(self.epochs) != sorted(set(self.epochs)):
            raise ValueError("epochs must rise")
        return self


class Step(Frozen):
    """The rate times `factor` every so many epochs: 0.96 every 8 in GoogLeNet [szegedy2015]."""

    kind: Literal["step"] = "step"
    every_epochs: Positive
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1


class Polynomial(Frozen):
    """The rate times (1 - progress)^power: power 0.5 is Caffe's quick GoogLeNet [jia2014]."""

    kind: Literal["polynomial"] = "polynomial"
    power: Positive = 1.0


class Plateau(Frozen):
    """The rate times `factor` when the validation accuracy has not risen for `patience` epochs.

    The papers of 2012 to 2015 did this by hand, three times by 0.1 [krizhevsky2012, section 5].
    """

    kind: Literal["plateau"] = "plateau"
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience: int = Field(default=5, ge=1)
    most_drops: int = Field(default=3, ge=1)


Schedule = Annotated[
    Constant | Cosine | Staircase | Step | Polynomial | Plateau, Field(discriminator="kind")
]


class EarlyStopping(Frozen):
    """Ends a run when the validation accuracy has not risen for so many epochs."""

    patience: int = Field(default=10, ge=1)


class Checkpoints(Frozen):
    """What is kept while a run goes on.

    Attributes:
        every_s: Seconds between two checkpoints inside an epoch; one follows each epoch, too.
        keep: How many of the last ones.
        snapshots: Epochs after which the weights are kept for good, as snapshots/epoch_0001.npz:
            what `convzoo explain` shows a network's development with.
    """

    every_s: Rate = 60.0
    keep: int = Field(default=2, ge=1)
    snapshots: tuple[int, ...] = ()


class FineTuning(Frozen):
    """How a run that starts from trained weights treats them.

    Patterns are shell patterns of layer names ("conv*", "fc6"); one that matches no layer is an
    error. Layers whose weights do not fit are new and start at random.

    Attributes:
        init_from: A published version, a run, or a file of weights.
        learning_rates: Pattern to multiple of the optimizer's rate; the first that matches counts.
        reused_rate: That of reused layers that no pattern matches.
        freeze: Layers that stay as they are.
        unfreeze_every_epochs: Frozen layers come free one by one from the top, one each so many
            epochs [howard2018, section 3.3].
        l2_sp: Strength of the pull back to the initial weights, in place of weight decay on reused
            layers [li2018].
    """

    init_from: Path | None = None
    learning_rates: dict[str, Rate] = Field(default_factory=dict)
    reused_rate: Rate = 1.0
    freeze: tuple[str, ...] = ()
    unfreeze_every_epochs: int | None = Field(default=None, ge=1)
    l2_sp: Rate = 0.0


class CrossEntropy(Frozen):
    """Softmax cross-entropy of the logits."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


class MaximumAPosteriori(Frozen):
    """LeNet-5's loss: cross-entropy with one more class of constant logit -j [lecun1998, eq. 9]."""

    kind: Literal["maximum_a_posteriori"] = "maximum_a_posteriori"
    j: Positive = 1.0


Loss = Annotated[CrossEntropy | MaximumAPosteriori, Field(discriminator="kind")]


class Recipe(Frozen):
    """One experiment.

    Attributes:
        input: The network's input, when it is not its paper's.
        select: Which weights the run ends with: the last epoch's, or those of the epoch with the
            best validation accuracy.
        precision: What the arithmetic is done in; weights are kept in float32 either way.
        strategy: One device, all GPUs of this machine, or all workers that TF_CONFIG names.
        test_time: How held-out images are shown to the network; see `training.data.views`.
        publish_as: The model's name when published; the network's name when empty.
        seed: Decides the initial weights and the order of the images.
    """

    model: ModelChoice
    data: DataSource
    input: ImageInput | None = None
    preprocessing: Steps = Steps()
    augmentation: Augmentation = Augmentation()
    loss: Loss = CrossEntropy()
    optimizer: Optimizer = Adam()
    schedule: Schedule = Constant()
    early_stopping: EarlyStopping | None = None
    fine_tuning: FineTuning | None = None
    checkpoints: Checkpoints = Checkpoints()
    epochs: int = Field(ge=1)
    batch_size: int = Field(default=64, ge=1)
    select: Literal["last", "best"] = "last"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    strategy: Literal["single", "mirrored", "multi_worker"] = "single"
    test_time: Literal["centre", "ten_crop", "multi_crop", "dense"] = "centre"
    seed: int = Field(default=1, ge=0, lt=2**32)
    publish_as: str = ""

    @field_validator("publish_as")
    @classmethod
    def _can_name_a_model(cls, value: str) -> str:
        if not value:
            return value
        try:
            return check_model_name(value)
        except UsageError as error:
            raise ValueError(str(error)) from error

    @field_validator("input")
    @classmethod
    def _has_the_colours_channels(cls, value: ImageInput | None) -> ImageInput | None:
        # Here and not in ImageInput: published versions must stay readable whatever they say.
        if value is not None and value.channels != (1 if value.colour == "gray" else 3):
            raise ValueError(
                f"channels: {value.channels} does not go with colour: {value.colour}; gray has 1 "
                "channel, rgb and bgr have 3"
            )
        return value

    def sha256(self) -> str:
        """The recipe's hash: equal recipes have equal hashes, wherever their data lies."""
        return hashlib.sha256(json.dumps(self.record(), sort_keys=True).encode()).hexdigest()

    def record(self) -> dict[str, Any]:
        """The recipe as JSON data, without paths of this machine."""
        plain = self.model_dump(mode="json")
        plain["data"].pop("data_dir", None)
        if plain["fine_tuning"] is not None:
            plain["fine_tuning"].pop("init_from", None)
        # How often a run is saved does not change what it ends with.
        plain["checkpoints"] = {"snapshots": plain["checkpoints"]["snapshots"]}
        return plain


def bundled() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    folder = Path(str(files("training"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read(
    name: str,
    overrides: Iterable[str] = (),
    data_dir: Path | None = None,
    init_from: Path | None = None,
) -> Recipe:
    """Reads a bundled recipe or a YAML file, and applies what the command line says.

    Args:
        name: A bundled recipe's name, or the path of a YAML file.
        overrides: `key=value`, the key with dots, the value as YAML.
        data_dir: Where the source's files are; stands for `data.data_dir=...`.
        init_from: Weights to start from; stands for `fine_tuning.init_from=...`.

    Raises:
        UsageError: no such recipe, key or value; names what exists.
    """
    settings = _read_yaml(name)
    for key, value in _given(overrides, data_dir, init_from):
        set_key(settings, key, value)
    return validate(settings, name)


def origins(
    name: str,
    overrides: Iterable[str] = (),
    data_dir: Path | None = None,
    init_from: Path | None = None,
) -> dict[str, str]:
    """Where each value of a recipe came from, by its key with dots.

    Returns:
        "command line", the recipe's name, or "default".
    """
    from_file = set(_leaves(_read_yaml(name)))
    from_user = {key for key, _ in _given(overrides, data_dir, init_from)}
    every = _leaves(read(name, overrides, data_dir, init_from).model_dump(mode="json"))

    def origin(key: str) -> str:
        above = [key.rsplit(".", count)[0] for count in range(key.count(".") + 1)]
        if any(each in from_user for each in above):
            return "command line"
        return Path(name).name if any(each in from_file for each in above) else "default"

    return {key: origin(key) for key in every}


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values that are no groups, by their key with dots."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= _leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _given(
    overrides: Iterable[str], data_dir: Path | None, init_from: Path | None
) -> list[tuple[str, Any]]:
    """What the command line says, as keys and values."""
    found = [parse_override(override) for override in overrides]
    if data_dir is not None:
        found.append(("data.data_dir", str(data_dir.resolve())))
    if init_from is not None:
        found.append(("fine_tuning.init_from", str(init_from.resolve())))
    return found


def validate(settings: Mapping[str, Any], name: str) -> Recipe:
    """Makes a recipe of plain data.

    Raises:
        UsageError: names the first fault, and what exists when a key is unknown.
    """
    try:
        return Recipe.model_validate(_with_kinds(settings))
    except ValidationError as error:
        raise UsageError(f"Recipe {name!r}: {_explain(error)}") from error


def _with_kinds(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings whose groups say which kind they are of, where the default's kind has all their keys.

    `optimizer.learning_rate=0.01` means the same whether the recipe's file names its optimizer, or
    leaves it at the default.
    """
    found = dict(settings)
    for name, field in Recipe.model_fields.items():
        group, default = found.get(name), field.default
        if (
            isinstance(group, Mapping)
            and hasattr(default, "kind")
            and set(group) <= set(type(default).model_fields) - {"kind"}
        ):
            found[name] = {"kind": default.kind, **group}
    return found


def _read_yaml(name: str) -> dict[str, Any]:
    recipes = bundled()
    path = recipes.get(name, Path(name))
    if name not in recipes and (path.suffix not in (".yaml", ".yml") or not path.is_file()):
        raise UsageError(unknown("recipe", name, recipes) + " A path of a YAML file works too.")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"Recipe {name!r} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise UsageError(f"Recipe {name!r} is {type(settings).__name__}; expected keys and values.")
    return settings


def parse_override(override: str) -> tuple[str, Any]:
    """A key with dots and its value, from `key=value`.

    Raises:
        UsageError: it is not of that form.
    """
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UsageError(f"{override!r} is no override; write key=value, e.g. epochs=5.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"The value in {override!r} is not valid: {error}") from error
    # YAML 1.1 reads 1e-3 as text, since its numbers need a point. What is quoted is meant as text.
    if isinstance(value, str) and POINTLESS.fullmatch(text.strip()):
        value = float(value)
    return key, value


def set_key(settings: dict[str, Any], key: str, value: object) -> None:
    """Sets a value by its key with dots, in plain data.

    Raises:
        UsageError: the key goes through a value.
    """
    *outer, last = key.split(".")
    place = settings
    for part in outer:
        if place.get(part) is None:
            place[part] = {}
        place = place[part]
        if not isinstance(place, dict):
            raise UsageError(f"{key!r} goes through {part!r}, which is a value, not a group.")
    place[last] = value


def _explain(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    where = [str(part) for part in fault["loc"]]
    match fault["type"]:
        case "extra_forbidden":
            known = _keys_at(where[:-1])
            return unknown("key", where[-1], known) + (
                f" (in {'.'.join(where[:-1])})" if where[:-1] else ""
            )
        case "union_tag_invalid":
            context = fault["ctx"]
            tags = [tag.strip(" '\"") for tag in context["expected_tags"].split(",")]
            return unknown(context["discriminator"].strip("'"), str(context["tag"]), tags) + (
                f" (in {'.'.join(where)})"
            )
        case "union_tag_not_found":
            return _without_a_kind(where, fault["ctx"]["discriminator"].strip("'"), fault["input"])
        case _:
            return f"{'.'.join(where)}: {fault['msg']} (found {fault['input']!r})"


def _without_a_kind(where: list[str], tag: str, group: Any) -> str:
    """What to say of a group that is one of several kinds, and does not say which."""
    place = ".".join(where)
    members = _step_into(Recipe, where[0]) if len(where) == 1 else ()
    kinds = {each.model_fields[tag].default: set(each.model_fields) for each in members}
    given = list(group) if isinstance(group, Mapping) else []
    fits = [kind for kind, keys in kinds.items() if given and set(given) <= keys]
    if fits:
        return (
            f"{place} says no {tag}; {', '.join(given)} belongs to {', '.join(fits)}: "
            f"add e.g. {place}.{tag}={fits[0]}"
        )
    return f"{place} says no {tag}" + (f"; there are {', '.join(kinds)}" if kinds else "")


def _keys_at(where: list[str]) -> list[str]:
    """The keys that exist at a place of the recipe; a union's tag is part of the place."""
    node: Any = Recipe
    for part in where:
        options = node if isinstance(node, tuple) else (node,)
        found = [_step_into(option, part) for option in options]
        node = next((each for each in found if each is not None), None)
        if node is None:
            return []
    options = node if isinstance(node, tuple) else (node,)
    return [key for option in options for key in getattr(option, "model_fields", {})]


def _step_into(option: Any, part: str) -> Any:
    fields = getattr(option, "model_fields", {})
    for tag in ("kind", "source"):
        if tag in fields and fields[tag].default == part:
            return option  # pydantic names the chosen member of a union in the path
    if part not in fields:
        return None
    annotation = fields[part].annotation
    return getattr(annotation, "__args__", None) or annotation
