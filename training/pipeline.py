"""From data to a promoted version, step by step; what has not changed is not done again.

    check -> train -> publish -> gate -> promote

Each step's key is a hash of all that decides its result: the code, the settings, the data, and the
key of the step before. A step whose key is in `state.json` is skipped, when its result is still
there and, for the gates, what they compared with is still in production. Every step leaves either
its whole result or none, so a pipeline that was killed anywhere goes on when it is run again.

What people moved stays: a version that a label was taken away from is not promoted again.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

import training
import zoo
from training import recipe as recipes
from training.gate import GateReport, Gates
from training.recipe import Recipe
from training.run import Run
from training.statistics import Outcome
from zoo.artifact import (
    KERAS_MODEL,
    MANIFEST,
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
from zoo.suggest import unknown
from zoo.url import Place, Url
from zoo.versions import (
    Move,
    check_label,
    check_version,
    history,
    lock,
    promote,
    prune,
    write_gate,
)

STEPS = ("check", "train", "publish", "gate", "promote")

# The reason that the history gives for a pipeline's own promotion.
OWN_MOVE = re.compile("pipeline [0-9a-f]{12}")


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


class Done(Frozen):
    """What `state.json` keeps of a step.

    Attributes:
        data: The data's name.
        run: The run's folder.
        version: What was published, judged or promoted.
        manifest_sha256: Tells a version that was judged from a later one of its number.
        against: The manifest's hash, likewise, of what it was compared with, by its number.
    """

    key: str
    data: str = ""
    run: str = ""
    version: int | None = None
    manifest_sha256: str = ""
    against: dict[int, str] = Field(default_factory=dict)
    outcome: Outcome | None = None


class Step(NamedTuple):
    """One step of a plan."""

    name: str
    runs: bool
    why: str


STATE = TypeAdapter(dict[str, Done])


class Result(Frozen):
    """What a pipeline came to.

    Attributes:
        outcome: The gates' verdict; only "pass" promotes.
        in_place: The label to move, or the one that candidates are compared with when the labels
            are left to people, names the version.
        accepted: It does because somebody decided so against this very verdict.
    """

    model: str
    version: int
    outcome: Outcome
    promoted: bool
    in_place: bool
    accepted: bool
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
    given = settings.get("overrides") or {}
    if not isinstance(given, dict):
        raise UsageError(
            f"{file}: overrides is {type(given).__name__}; expected keys and values, e.g. "
            "{epochs: 5}."
        )
    settings["overrides"] = given
    for override in overrides:
        key, value = recipes.parse_override(override)
        if key.startswith("recipe."):
            # The last that is said counts.
            name = key.removeprefix("recipe.")
            given.pop(name, None)
            given[name] = value
        else:
            recipes.set_key(settings, key, value)
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

    def reason(self, step: str) -> str:
        """Why a step has to be done; empty when it was done before and its result is still there.

        Raises:
            UsageError: the version to compare with is not there.
        """
        done = self.state.get(step)
        if done is None:
            return "it was not done yet"
        if done.key != self.keys[step]:
            return "its code, settings or data have changed"
        match step:
            case "train":
                is_there = self.run.is_complete
            case "publish":
                is_there = done.version in list_versions(self.model_path)
            case "gate":
                sha256 = self.sha256(done.version)
                is_there = done.outcome is not None and done.manifest_sha256 == sha256 != ""
            case "promote":
                label = self.settings.promote.label
                is_there = label is None or self._names(label) == done.version
            case _:
                is_there = True
        if not is_there:
            return "its result is no longer there"
        if step == "gate" and self._is_compared_with_another(done):
            return "what it is compared with has changed"
        return ""

    def _is_compared_with_another(self, judged: Done) -> bool:
        baseline = self.baseline()
        # Once promoted, a version is its own baseline; the verdict that led there stays.
        return baseline != judged.version and self.compared_with(baseline) != judged.against

    def compared_with(self, baseline: int | None) -> dict[int, str]:
        """What is kept of the version to compare with."""
        return {} if baseline is None else {baseline: self.sha256(baseline)}

    def sha256(self, version: int | None) -> str:
        """The hash of a version's manifest; empty when there is none."""
        manifest = self.model_path / str(version) / MANIFEST
        return file_sha256(manifest) if manifest.is_file() else ""

    def baseline(self) -> int | None:
        """The version that candidates are compared with; None when there is none yet.

        Raises:
            UsageError: the label names a version that is not there.
        """
        against, there = self.settings.against, list_versions(self.model_path)
        number = self._names(against)
        if number is not None and number not in there:
            raise UsageError(
                f"{against!r} of {self.model!r} names version {number}, which is not there; there "
                f"are {', '.join(map(str, there)) or 'none'}. Bring it back, or point the label "
                "elsewhere with `convzoo rollback` or `convzoo promote`."
            )
        return number

    def taken_away(self) -> Move | None:
        """The move by which somebody took the label away from what was published last.

        The pipeline's own promotions do not count, nor what was promoted again since.
        """
        label, version = self.settings.promote.label, self.state["publish"].version
        if label is None or self._names(label) == version:
            return None
        moves = [move for move in history(self.model_path) if move.label == label]
        last = next((move for move in reversed(moves) if move.before == version), None)
        if last is None or (not last.rolled_back and OWN_MOVE.fullmatch(last.why)):
            return None
        return last

    def is_in_place(self, version: int) -> bool:
        """Whether production names the version."""
        return self._names(self._production) == version

    def accepted(self, version: int, outcome: Outcome) -> Move | None:
        """The move by which somebody put a version in place against what the gates say of it."""
        moves = [move for move in history(self.model_path) if move.label == self._production]
        if not moves or not self.is_in_place(version):
            return None
        last = moves[-1]
        is_theirs = last.forced and (last.version, last.gates) == (version, outcome)
        return last if is_theirs else None

    @property
    def _production(self) -> str:
        return self.settings.promote.label or self.settings.against

    def _names(self, label: str) -> int | None:
        return read_labels(self.model_path).get(label)

    def note(self, step: str, **facts: Any) -> None:
        """Remembers that a step was done."""
        self.state[step] = Done(key=self.keys[step], **facts)
        self._state_file.parent.mkdir(parents=True, exist_ok=True)
        text = STATE.dump_json(self.state, indent=2, exclude_defaults=True)
        write_atomically(self._state_file, text + b"\n")

    def _read_state(self) -> dict[str, Done]:
        try:
            return STATE.validate_json(self._state_file.read_bytes())
        except FileNotFoundError:
            return {}
        except ValidationError as error:
            raise ArtifactError(
                f"{self._state_file} is not valid: {first_fault(error)}; remove it to begin again."
            ) from error


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
    work.baseline()
    steps: list[Step] = []
    for name in STEPS:
        why = work.reason(name)
        if not why and any(step.runs for step in steps):
            why = "a step before it runs"
        is_published = not any(step.runs for step in steps if step.name != "gate")
        if name == "promote" and is_published and (move := work.taken_away()):
            steps.append(Step(name, runs=False, why=_words_of(move)))
        else:
            steps.append(Step(name, runs=bool(why), why=why or "nothing has changed"))
    return steps


def _words_of(move: Move) -> str:
    return (
        f"{move.label} was moved from version {move.before} to {move.version} by {move.who}: "
        f"{move.why or 'no reason given'}"
    )


def run(settings: Pipeline, talk: Callable[[str], None] = lambda _: None) -> Result:
    """Does what is left to do, and insists on its candidate.

    Raises:
        GateFailedError: the candidate is worse; the labels stay.
        InconclusiveError: the data do not tell; the labels stay.
        ConvzooError: as `attempt` does.
    """
    result = attempt(settings, talk)
    require_passed(result)
    return result


def require_passed(result: Result) -> None:
    """Raises for a candidate that neither passed its gates nor was accepted by somebody.

    Raises:
        GateFailedError: it is worse.
        InconclusiveError: the data do not tell.
    """
    if result.accepted:
        return
    if result.outcome == "fail":
        raise GateFailedError(result.words)
    if result.outcome == "inconclusive":
        raise InconclusiveError(result.words)


def attempt(settings: Pipeline, talk: Callable[[str], None] = lambda _: None) -> Result:
    """Does what is left to do; a candidate that did not pass is a result, too.

    Raises:
        BusyError: another pipeline works on the same model.
        DataError: the data check found what must be put right.
        GateFailedError: fewer bits cost too much, so nothing was published.
        ParityError: the candidate is not what was published.
        InterruptedRunError: stopped; the same call goes on.
        UsageError: this processor does not have the precision to publish in, or the version to
            compare with is not there.
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
    # Nobody should wait for a training to hear of it, and a number that went is given once more.
    work.baseline()
    ran: list[str] = []
    for name, step in (("check", _check), ("train", _train), ("publish", _publish)):
        if not work.reason(name):
            talk(f"{name}: nothing has changed")
            continue
        talk(f"{name}: {work.model}")
        step(work, talk)
        ran.append(name)
    version = work.state["publish"].version
    assert version is not None  # noqa: S101 - a step that is done has noted it
    if why := work.reason("gate"):
        talk(f"gate: version {version}, {why}")
        _gate(work, version, talk)
        ran.append("gate")
    else:
        talk("gate: nothing has changed")
    # What was published may have been damaged since.
    work.opened.need(version)
    check_version(work.model_path / str(version))
    outcome = work.state["gate"].outcome
    assert outcome is not None  # noqa: S101 - likewise
    if outcome == "pass":
        taken_away = _promote(work, version, ran, talk)
        words = _words(work, version, ran, taken_away)
    elif accepted := work.accepted(version, outcome):
        words = f"{work.model}: nothing to do; {_words_of(accepted)}"
    else:
        words = _words_of_refusal(work, version, outcome)
    return Result(
        model=work.model,
        version=version,
        outcome=outcome,
        promoted="promote" in ran,
        in_place=work.is_in_place(version),
        accepted=work.accepted(version, outcome) is not None,
        ran=tuple(ran),
        words=words,
    )


def _promote(work: _Work, version: int, ran: list[str], talk: Callable[[str], None]) -> Move | None:
    """Moves the label, unless somebody took it away from this version; returns their move."""
    settings = work.settings
    label = settings.promote.label
    taken_away = work.taken_away()
    if taken_away is not None:
        talk(f"promote: {_words_of(taken_away)}")
    elif label is not None and work.reason("promote"):
        talk(f"promote: {label} names version {version}")
        promote(work.model_path, version, label=label, why=f"pipeline {work.keys['gate'][:12]}")
        work.opened.push()
        ran.append("promote")
        if settings.promote.keep is not None:
            removed = prune(work.model_path, settings.promote.keep)
            work.opened.push()
            talk(f"promote: removed {', '.join(map(str, removed)) or 'none'}")
    work.note("promote", version=version)
    return taken_away


def _words(work: _Work, version: int, ran: Sequence[str], taken_away: Move | None) -> str:
    if taken_away is not None:
        done = "nothing to do" if not ran else f"version {version} passed its gates"
        return (
            f"{work.model}: {done}, but {_words_of(taken_away)}. `convzoo promote {work.model} "
            f"{version} --label {taken_away.label}` undoes that."
        )
    if "promote" in ran:
        return f"{work.model}: {work.settings.promote.label} names version {version}"
    if not ran:
        return f"{work.model}: nothing to do, version {version} is in place"
    return f"{work.model}: version {version} is published and passed its gates"


def _words_of_refusal(work: _Work, version: int, outcome: Outcome) -> str:
    report = work.settings.work_dir / "gate.md"
    if outcome == "fail":
        return f"Version {version} of {work.model!r} is refused by its gates; see {report}."
    return (
        f"The data do not tell whether version {version} of {work.model!r} is good enough; see "
        f"{report}. More test images would tell; `convzoo promote {work.model} {version} --force "
        "--why ...` decides without them."
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
        notes=dataset.notes,
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

    number = work.baseline()
    if number == version:
        number = None
    report = judge(
        work.opened.need(version),
        None if number is None else work.opened.need(number),
        work.recipe.data,
        work.settings.gates,
        lambda line: talk(f"gate: {line}"),
    )
    text = report.model_dump_json(indent=2)
    write_gate(work.model_path, version, text)
    work.opened.push()
    write_atomically(work.settings.work_dir / "gate.json", text.encode() + b"\n")
    work.note(
        "gate",
        version=version,
        manifest_sha256=report.manifest_sha256,
        against=work.compared_with(number),
        outcome=report.outcome,
    )
    _write_summaries(work, report)


def _write_summaries(work: _Work, report: GateReport) -> None:
    from training.gate import to_junit, to_markdown

    write_atomically(work.settings.work_dir / "gate.xml", to_junit(report).encode())
    write_atomically(work.settings.work_dir / "gate.md", to_markdown(report).encode())
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(to_markdown(report))


def _recipe(settings: Pipeline) -> Recipe:
    known = recipes.bundled()
    place = known.get(settings.recipe, Path(settings.recipe))
    if not place.is_file():
        raise UsageError(
            unknown("recipe", settings.recipe, known) + " A path of a YAML file works too."
        )
    plain = _read_yaml(place)
    for key, value in settings.overrides.items():
        _override(plain, key, value)
    if settings.data_dir is not None:
        recipes.set_key(plain, "data.data_dir", str(settings.data_dir.resolve()))
    return recipes.validate(plain, settings.recipe)


def _override(recipe: dict[str, Any], key: str, value: object) -> None:
    """Sets a value, or each value of a group; a group of another kind takes the place of the old.

    Args:
        recipe: Plain data.
        key: With dots.
        value: As YAML gave it: a text that looks like a number stays text.
    """
    if isinstance(value, dict) and value:
        there: Any = recipe
        for part in key.split("."):
            there = there.get(part) if isinstance(there, dict) else None
        # What tells groups of different keys apart.
        tags = {tag: value[tag] for tag in ("kind", "source") if tag in value}
        if isinstance(there, dict) and tags.items() <= there.items():
            for name, each in value.items():
                _override(recipe, f"{key}.{name}", each)
            return
    recipes.set_key(recipe, key, value)


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
