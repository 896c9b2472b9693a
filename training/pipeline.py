"""From data to a promoted version, step by step; what has not changed is not done again.

    check -> train -> publish -> gate -> promote

Each step's key is a hash of all that decides its result: the code, the settings, the data, and the
key of the step before. A step whose key is in `state.json` is skipped. Every step leaves either its
whole result or none, so a pipeline that was killed anywhere goes on when it is run again.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import AfterValidator, Field, ValidationError

import training
import zoo
from training import recipe as recipes
from training.gate import GateReport, Gates
from training.recipe import Recipe
from training.run import Run
from zoo.artifact import (
    KERAS_MODEL,
    file_sha256,
    first_fault,
    has_manifest,
    list_versions,
    read_labels,
    read_manifest,
    write_atomically,
)
from zoo.checkout import Checkout, checkout
from zoo.errors import ArtifactError, GateFailedError, InconclusiveError, UsageError
from zoo.frozen import Frozen
from zoo.precision import NEEDS, Precision
from zoo.url import Place, Url
from zoo.versions import check_label, check_version, lock, promote, prune, write_gate

STEPS = ("check", "train", "publish", "gate", "promote")


class PublishSettings(Frozen):
    """What is published: see `convzoo publish`."""

    precision: Precision = "fp32"
    most_drop: float = Field(default=0.005, ge=0, le=1)


def _as_label(text: str) -> str:
    try:
        return check_label(text)
    except UsageError as error:
        # What pydantic tells with the field's name.
        raise ValueError(str(error)) from error


class PromoteSettings(Frozen):
    """Which label follows, and how many old versions stay.

    Attributes:
        label: None publishes and judges, and leaves the labels to people.
        keep: How many of the newest versions stay; None keeps all.
    """

    label: Annotated[str, AfterValidator(_as_label)] | None = "stable"
    keep: int | None = Field(default=None, ge=1)


class Pipeline(Frozen):
    """A pipeline file.

    Attributes:
        recipe: A bundled recipe's name or a YAML file, beside the pipeline file.
        overrides: Values in place of the recipe's, by key with dots.
        data_dir: Where the data is.
        base_path: The folder or URL the server watches.
        work_dir: Where runs and the pipeline's state are kept.
        model: The model's name; the recipe's when None.
        against: The label that candidates are compared with.
    """

    recipe: str
    overrides: dict[str, Any] = Field(default_factory=dict)
    data_dir: Path | None = None
    base_path: Place = Path("models")
    work_dir: Path = Path("pipeline")
    model: str | None = None
    against: str = "stable"
    publish: PublishSettings = PublishSettings()
    gates: Gates = Gates()
    promote: PromoteSettings = PromoteSettings()


class Step(NamedTuple):
    """One step of a plan."""

    name: str
    runs: bool
    why: str


class Result(Frozen):
    """What a pipeline came to."""

    model: str
    version: int
    promoted: bool
    ran: tuple[str, ...]
    words: str


def read(file: Path, overrides: Iterable[str] = ()) -> Pipeline:
    """Reads a pipeline file; relative paths in it are relative to it.

    Args:
        file: YAML.
        overrides: `key=value` for the pipeline, or `recipe.key=value` for its recipe.

    Raises:
        UsageError: names the first fault.
    """
    settings = _read_yaml(file)
    recipe_overrides = dict(settings.get("overrides") or {})
    for override in overrides:
        key, value = recipes.parse_override(override)
        if key.startswith("recipe."):
            recipe_overrides[key.removeprefix("recipe.")] = value
        else:
            recipes.set_key(settings, key, value)
    settings["overrides"] = recipe_overrides
    try:
        found = Pipeline.model_validate(settings)
    except ValidationError as error:
        raise UsageError(f"{file}: {first_fault(error)}") from error
    folder = file.resolve().parent
    moved: dict[str, Path | str] = {
        name: folder / place
        for name in ("data_dir", "base_path", "work_dir")
        if isinstance(place := getattr(found, name), Path)
    }
    if found.recipe not in recipes.bundled():
        moved["recipe"] = str(folder / found.recipe)
    return found.model_copy(update=moved)


def read_gates(file: Path) -> Gates:
    """The gates of a pipeline file, or of a file with gates alone.

    Raises:
        UsageError: names the first fault.
    """
    settings = _read_yaml(file)
    try:
        return Gates.model_validate(settings.get("gates", {}) if "recipe" in settings else settings)
    except ValidationError as error:
        raise UsageError(f"{file}: {first_fault(error)}") from error


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{file} is {type(settings).__name__}; expected keys and values.")
    return settings


class _Work:
    """One pipeline at work: its recipe, its keys, what it has done before."""

    def __init__(self, settings: Pipeline, recipe: Recipe, opened: Checkout) -> None:
        self.settings = settings
        self.recipe = recipe
        self.opened = opened
        self.model = opened.path.name
        self.model_path = opened.path
        self.data_sha256 = _data_sha256(self.recipe)
        self._state_file = settings.work_dir / "state.json"
        self.state = self._read_state()
        self.keys = self._keys()

    @property
    def run(self) -> Run:
        """The run that this recipe, data and code give."""
        return Run(self.settings.work_dir / "runs" / self.keys["train"][:16])

    def _keys(self) -> dict[str, str]:
        settings = self.settings
        decides: Mapping[str, Any] = {
            "check": [self.data_sha256, self.recipe.record()["data"]],
            "train": [_code_sha256(), self.recipe.sha256(), _init_sha256(self.recipe)],
            "publish": [self.model, settings.publish.model_dump(mode="json")],
            "gate": [settings.gates.model_dump(mode="json"), settings.against],
            "promote": [settings.promote.model_dump(mode="json")],
        }
        keys: dict[str, str] = {}
        before = ""
        for step in STEPS:
            text = json.dumps([before, decides[step]], sort_keys=True, default=str)
            before = keys[step] = hashlib.sha256(text.encode()).hexdigest()
        return keys

    def is_done(self, step: str) -> bool:
        """Whether this very step was done before, and its result is still there."""
        if self.state.get(step, {}).get("key") != self.keys[step]:
            return False
        match step:
            case "train":
                return self.run.is_complete
            case "publish" | "gate":
                return self.state[step].get("version") in list_versions(self.model_path)
            case "promote":
                return self._is_promoted()
        return True

    def _is_promoted(self) -> bool:
        label = self.settings.promote.label
        version = self.state["promote"].get("version")
        return label is None or read_labels(self.model_path).get(label) == version

    def note(self, step: str, **facts: Any) -> None:
        """Remembers that a step was done."""
        self.state[step] = {"key": self.keys[step], **facts}
        self._state_file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._state_file, json.dumps(self.state, indent=2).encode() + b"\n")

    def _read_state(self) -> dict[str, Any]:
        try:
            state = json.loads(self._state_file.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise ArtifactError(
                f"{self._state_file} is not valid: {error}; remove it to begin again."
            ) from error
        return state if isinstance(state, dict) else {}


@contextlib.contextmanager
def _work(settings: Pipeline) -> Iterator[_Work]:
    recipe = _recipe(settings)
    model = settings.model or recipe.publish_as or recipe.model.name
    with checkout(settings.base_path, model) as opened:
        yield _Work(settings, recipe, opened)


def plan(settings: Pipeline) -> list[Step]:
    """What would be done, and why; nothing is changed."""
    with _work(settings) as work:
        return _plan(work)


def _plan(work: _Work) -> list[Step]:
    steps, is_changed = [], False
    for name in STEPS:
        done = not is_changed and work.is_done(name)
        is_changed = is_changed or not done
        known = work.state.get(name, {}).get("key")
        why = (
            "nothing has changed"
            if done
            else "it was not done yet"
            if known is None
            else "its code, settings or data have changed"
            if known != work.keys[name]
            else "its result is no longer there"
            if not is_changed
            else "a step before it runs"
        )
        steps.append(Step(name, not done, why))
    return steps


def run(settings: Pipeline, talk: Callable[[str], None] = lambda _: None) -> Result:
    """Does what is left to do.

    Raises:
        BusyError: another pipeline works on the same model.
        DataError: the data check found what must be put right.
        GateFailedError: the candidate is worse; the labels stay.
        InconclusiveError: the data do not tell; the labels stay.
        ParityError: the candidate is not what was published.
        InterruptedRunError: stopped; the same call goes on.
        UsageError: this processor does not have the precision to publish in.
        RemoteError: the object store does not answer; the same call goes on.
    """
    if settings.publish.precision in NEEDS:
        # Hours of training come before the step that needs it.
        from training.openvino import require

        require(settings.publish.precision)
    with _work(settings) as work:
        # An object store has no locks: there, one machine's pipelines keep apart, and two
        # machines' are told of each other when a label moves.
        place = (
            settings.work_dir / work.model
            if isinstance(settings.base_path, Url)
            else work.model_path
        )
        with lock(place, ".pipeline.lock", is_waiting=False):
            return _run(work, talk)


def _run(work: _Work, talk: Callable[[str], None]) -> Result:
    settings = work.settings
    ran: list[str] = []
    for name, step in (("check", _check), ("train", _train), ("publish", _publish)):
        if work.is_done(name):
            talk(f"{name}: nothing has changed")
            continue
        talk(f"{name}: {work.model}")
        step(work, talk)
        ran.append(name)
    version = int(work.state["publish"]["version"])
    if not work.is_done("gate"):
        talk(f"gate: version {version}")
        _gate(work, version, talk)
        ran.append("gate")
    else:
        talk("gate: nothing has changed")
    # What was published may have been damaged since.
    work.opened.need(version)
    check_version(work.model_path / str(version))
    _require_passed(work, version)
    label = settings.promote.label
    if label is not None and not work.is_done("promote"):
        talk(f"promote: {label} names version {version}")
        promote(work.model_path, version, label=label, why=f"pipeline {work.keys['gate'][:12]}")
        work.opened.push()
        ran.append("promote")
        if settings.promote.keep is not None:
            removed = prune(work.model_path, settings.promote.keep)
            work.opened.push()
            talk(f"promote: removed {', '.join(map(str, removed)) or 'none'}")
    work.note("promote", version=version)
    return Result(
        model=work.model,
        version=version,
        promoted="promote" in ran,
        ran=tuple(ran),
        words=f"{work.model}: {label} names version {version}"
        if "promote" in ran
        else f"{work.model}: nothing to do, version {version} is in place"
        if not ran
        else f"{work.model}: version {version} is published and passed its gates",
    )


def _check(work: _Work, talk: Callable[[str], None]) -> None:
    from training.data import check, store
    from zoo.errors import DataError

    dataset = work.recipe.data.load()
    report = check.check(
        dataset.name,
        dataset.labels,
        store.look(dataset),
        on_corrupt=work.recipe.data.on_corrupt,
    )
    for warning in report.warnings:
        talk(f"check: {warning}")
    if report.problems:
        raise DataError(" ".join(report.problems))
    work.note("check", data=report.name)


def _train(work: _Work, talk: Callable[[str], None]) -> None:
    from training.train import train

    if not work.run.is_complete:
        last = [0]

        def on_progress(now: Any) -> None:
            if now.validation_accuracy is not None and now.epoch != last[0]:
                last[0] = now.epoch
                talk(
                    f"train: epoch {now.epoch}/{now.epochs}, loss {now.loss:.4f}, validation "
                    f"{now.validation_accuracy:.2%}"
                )

        train(work.recipe, work.run, on_progress, lambda line: talk(f"train: {line}"))
    work.note("train", run=work.run.path.name)


def _publish(work: _Work, talk: Callable[[str], None]) -> None:
    settings = work.settings.publish
    version = _published(work)
    if version is None:
        from zoo.quiet import import_tensorflow

        import_tensorflow()
        from training.publish import publish

        manifest, _ = publish(
            work.run,
            work.opened.base_path,
            name=work.model,
            precision=settings.precision,
            most_drop=settings.most_drop,
            talk=lambda line: talk(f"publish: {line}"),
        )
        path = work.model_path / str(manifest.version)
        version = int(work.opened.publish(path, is_fixed=False).name)
    work.note("publish", version=version)


def _published(work: _Work) -> int | None:
    """The version of this very run, when a pipeline was killed right after it was published."""
    wanted = file_sha256(work.run.model)
    for number, path in reversed(list_versions(work.model_path).items()):
        if not has_manifest(path):
            continue
        manifest = read_manifest(path)
        precision = manifest.engines[manifest.default_engine].precision
        record = manifest.files.get(KERAS_MODEL)
        if record and record.sha256 == wanted and precision == work.settings.publish.precision:
            return number
    return None


def _gate(work: _Work, version: int, talk: Callable[[str], None]) -> None:
    from training.gate import judge

    number = read_labels(work.model_path).get(work.settings.against)
    baseline = None
    if number is not None and number != version and number in list_versions(work.model_path):
        baseline = work.opened.need(number)
    report = judge(
        work.opened.need(version),
        baseline,
        work.recipe.data,
        work.settings.gates,
        lambda line: talk(f"gate: {line}"),
    )
    text = report.model_dump_json(indent=2)
    write_gate(work.model_path, version, text)
    work.opened.push()
    write_atomically(work.settings.work_dir / "gate.json", text.encode() + b"\n")
    work.note("gate", version=version, outcome=report.outcome)
    _write_summaries(work, report)


def _write_summaries(work: _Work, report: GateReport) -> None:
    from training.gate import to_junit, to_markdown

    write_atomically(work.settings.work_dir / "gate.xml", to_junit(report).encode())
    write_atomically(work.settings.work_dir / "gate.md", to_markdown(report).encode())
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(to_markdown(report))


def _require_passed(work: _Work, version: int) -> None:
    outcome = work.state["gate"]["outcome"]
    report = work.settings.work_dir / "gate.md"
    if outcome == "fail":
        raise GateFailedError(
            f"Version {version} of {work.model!r} is refused by its gates; see {report}."
        )
    if outcome == "inconclusive":
        raise InconclusiveError(
            f"The data do not tell whether version {version} of {work.model!r} is good enough; "
            f"see {report}."
        )


def _recipe(settings: Pipeline) -> Recipe:
    given = [
        f"{key}={yaml.safe_dump(value, default_flow_style=True).removesuffix('...')}".strip()
        for key, value in settings.overrides.items()
    ]
    return recipes.read(settings.recipe, given, settings.data_dir)


def _data_sha256(recipe: Recipe) -> str:
    """The hash of all images, labels and parts, as the source gives them."""
    dataset = recipe.data.load()
    digest = hashlib.sha256("\n".join(dataset.labels).encode())
    for name, part in dataset.parts().items():
        digest.update(f"\n{name}\n".encode())
        digest.update("\n".join(part.hashes()).encode())
        digest.update(part.class_ids.tobytes())
    return digest.hexdigest()


def _init_sha256(recipe: Recipe) -> str:
    from training.fine_tune import sha256_of

    return sha256_of(recipe.fine_tuning)


def _code_sha256() -> str:
    """The hash of the source that trains and publishes: a change of it may change the result."""
    digest = hashlib.sha256()
    for package in (training, zoo):
        folder = Path(str(package.__file__)).parent
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder.parent).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
