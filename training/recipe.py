"""A recipe: everything that decides what a training run gives, validated and frozen.

A recipe is a YAML file (`training/recipes/`, or any path), one experiment each. Values on the
command line (`optimizer.learning_rate=0.05`) take the place of the file's.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from training.data.augment import Augmentation
from training.data.sources import DataSource
from zoo.errors import UsageError
from zoo.frozen import Frozen
from zoo.preprocess import InputStep, PixelStep
from zoo.spec import ImageInput
from zoo.suggest import unknown

Positive = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(ge=0)]


class ModelChoice(Frozen):
    """Which network of the zoo: its catalog name and its builder's arguments."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class Steps(Frozen):
    """How an image becomes an input: `zoo.preprocess`'s steps, in order."""

    pixel_steps: tuple[PixelStep, ...] = ()
    input_steps: tuple[InputStep, ...] = ()


class Adam(Frozen):
    """Adam [kingma2015]; with weight decay it is AdamW [loshchilov2019]."""

    kind: Literal["adam"] = "adam"
    learning_rate: Positive = 1e-3
    weight_decay: Rate = 0.0


class Sgd(Frozen):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"] = "sgd"
    learning_rate: Positive = 1e-2
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: Rate = 0.0


Optimizer = Annotated[Adam | Sgd, Field(discriminator="kind")]


class Constant(Frozen):
    """The optimizer's learning rate throughout."""

    kind: Literal["constant"] = "constant"


class Cosine(Frozen):
    """From the optimizer's rate to 0 along half a cosine, after a linear rise."""

    kind: Literal["cosine"] = "cosine"
    warmup_epochs: Rate = 0.0


class Staircase(Frozen):
    """The optimizer's rate times `factors[i]` from `epochs[i]` on (epochs count from 0)."""

    kind: Literal["staircase"] = "staircase"
    epochs: tuple[int, ...]
    factors: tuple[Positive, ...]


Schedule = Annotated[Constant | Cosine | Staircase, Field(discriminator="kind")]


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
    epochs: int = Field(ge=1)
    batch_size: int = Field(default=64, ge=1)
    seed: int = Field(default=1, ge=0)
    publish_as: str = ""

    def sha256(self) -> str:
        """The recipe's hash: equal recipes have equal hashes, wherever their data lies."""
        return hashlib.sha256(json.dumps(self.record(), sort_keys=True).encode()).hexdigest()

    def record(self) -> dict[str, Any]:
        """The recipe as JSON data, without paths of this machine."""
        plain = self.model_dump(mode="json")
        plain["data"].pop("data_dir", None)
        return plain


def bundled() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    folder = Path(str(files("training"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read(name: str, overrides: Iterable[str] = (), data_dir: Path | None = None) -> Recipe:
    """Reads a bundled recipe or a YAML file, and applies what the command line says.

    Args:
        name: A bundled recipe's name, or the path of a YAML file.
        overrides: `key=value`, the key with dots, the value as YAML.
        data_dir: Where the source's files are; stands for `data.data_dir=...`.

    Raises:
        UsageError: no such recipe, key or value; names what exists.
    """
    settings = _read_yaml(name)
    for override in overrides:
        _apply(settings, override)
    if data_dir is not None:
        _set(settings, "data.data_dir", str(data_dir.resolve()))
    return validate(settings, name)


def validate(settings: Mapping[str, Any], name: str) -> Recipe:
    """Makes a recipe of plain data.

    Raises:
        UsageError: names the first fault, and what exists when a key is unknown.
    """
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        raise UsageError(f"Recipe {name!r}: {_explain(error)}") from error


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


def _apply(settings: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UsageError(f"{override!r} is no override; write key=value, e.g. epochs=5.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"The value in {override!r} is not valid: {error}") from error
    if isinstance(value, str):
        # YAML 1.1 reads 1e-3 as text, since its numbers need a point.
        with contextlib.suppress(ValueError):
            value = float(value)
    _set(settings, key, value)


def _set(settings: dict[str, Any], key: str, value: object) -> None:
    *outer, last = key.split(".")
    place = settings
    for part in outer:
        place = place.setdefault(part, {})
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
        case _:
            return f"{'.'.join(where)}: {fault['msg']} (found {fault['input']!r})"


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
