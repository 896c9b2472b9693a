"""Runs and published versions in MLflow: logged once, registered, labels as aliases and back.

What is logged is what convzoo writes anyway: files, figures and hashes, not one of MLflow's model
flavours. A run is found again by the hash of its network, a version by that of its manifest, so
that nothing is logged twice; MLflow counts versions by itself, and a tag has our number.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.run import Epoch, Run
from zoo.artifact import (
    KERAS_MODEL,
    MANIFEST,
    MODEL_CARD,
    REPORT,
    Metric,
    file_sha256,
    has_manifest,
    list_versions,
    read_labels,
    read_manifest,
)
from zoo.checkout import Checkout
from zoo.errors import ConvzooError, UsageError
from zoo.versions import promote, read_gate

# Where a version's files lie among its run's artifacts.
FILES = "version"

# MLflow's own limits.
MOST_PARAMS, MOST_METRICS, PARAM_CHARACTERS, DESCRIPTION_CHARACTERS = 100, 1000, 6000, 5000


class MlflowError(ConvzooError):
    """MLflow does not answer, or refuses."""

    exit_code = 6


@dataclass(frozen=True, slots=True)
class Logged:
    """What a run is to MLflow, from its folder or from a version made of it.

    Attributes:
        identity: The hash of the trained network.
        name: The run's name there.
        params: The recipe, flat.
        metrics: What was measured on the held-out part.
        epochs: What was measured while it trained.
        tags: Hashes and revisions.
        files: Small files worth looking at.
    """

    identity: str
    name: str
    params: Mapping[str, str]
    metrics: Mapping[str, Metric]
    epochs: tuple[Epoch, ...]
    tags: Mapping[str, str]
    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Registered:
    """A version in MLflow's registry.

    Attributes:
        run_id: The run it came from.
        name: The registered model.
        version: MLflow's number.
        is_new: It was registered now.
    """

    run_id: str
    name: str
    version: int
    is_new: bool


@dataclass(frozen=True, slots=True)
class Change:
    """A label or alias that was set, or could not be.

    Attributes:
        label: Its name on both sides.
        version: Our number.
        mlflow_version: MLflow's number; None where there is none.
        outcome: "set", "same", or why it was left.
    """

    label: str
    version: int | None
    mlflow_version: int | None
    outcome: str


class Tracking:
    """A tracking server, or a database file, with its registry.

    Args:
        uri: e.g. http://host:5000 or sqlite:///mlflow.db.

    Raises:
        UsageError: MLflow is not installed.
    """

    def __init__(self, uri: str) -> None:
        # Who asks for a log has not asked to be counted, nor to wait for minutes.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        # It would print the URI with its password, where the result belongs.
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
        try:
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise UsageError(
                "MLflow is not installed. Install it with: pip install 'convzoo[mlflow]'"
            ) from error
        self._place = re.sub(r"//[^/@]*@", "//", uri)
        with self._telling():
            self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)

    def log(self, logged: Logged, experiment: str) -> tuple[str, bool]:
        """Logs a run, unless the experiment has it.

        Returns:
            MLflow's run id, and whether it is new.
        """
        from mlflow import entities

        with self._telling():
            experiment_id = self._experiment(experiment)
            earlier = self._client.search_runs(
                [experiment_id],
                f"tags.`convzoo.network_sha256` = '{logged.identity}' "
                "and attributes.status = 'FINISHED'",
                max_results=1,
            )
            if earlier:
                return str(earlier[0].info.run_id), False
            tags = {**logged.tags, "convzoo.network_sha256": logged.identity}
            run_id = self._client.create_run(
                experiment_id, run_name=logged.name, tags=tags
            ).info.run_id
            try:
                params = [entities.Param(key, value) for key, value in logged.params.items()]
                for start in range(0, len(params), MOST_PARAMS):
                    self._client.log_batch(run_id, params=params[start : start + MOST_PARAMS])
                metrics = [entities.Metric(*each) for each in _metrics(logged)]
                for start in range(0, len(metrics), MOST_METRICS):
                    self._client.log_batch(run_id, metrics=metrics[start : start + MOST_METRICS])
                for path in logged.files:
                    self._client.log_artifact(run_id, str(path))
            except BaseException:
                self._client.set_terminated(run_id, "FAILED")
                raise
            self._client.set_terminated(run_id, "FINISHED")
        return str(run_id), True

    def register(
        self, version_path: Path, experiment: str, *, name: str | None, source: str | None = None
    ) -> Registered:
        """Registers a published version, with its files and its run, unless it is there.

        Args:
            version_path: `<base path>/<model>/<version>`.
            experiment: Where its run is logged.
            name: The registered model; the model's own name when None.
            source: Where the files are, when they stay there; they are uploaded when None.
        """
        manifest = read_manifest(version_path)
        digest = file_sha256(version_path / MANIFEST)
        name = name or manifest.model
        run_id, _ = self.log(from_version(version_path), experiment)
        with self._telling():
            self._create_model(name, manifest.architecture.name)
            for number, tags in self._versions(name).items():
                if tags.get("convzoo.manifest_sha256") == digest:
                    return Registered(run_id, name, number, is_new=False)
            if source is None:
                artifacts = f"{FILES}-{manifest.version}"
                self._client.log_artifacts(run_id, str(version_path), artifacts)
                source = f"runs:/{run_id}/{artifacts}"
            gated = read_gate(version_path.parent, manifest.version)
            tags = {
                "convzoo.version": str(manifest.version),
                "convzoo.manifest_sha256": digest,
                "convzoo.recipe_sha256": manifest.recipe_sha256,
                "convzoo.data_sha256": manifest.data_sha256,
                "convzoo.code_revision": manifest.code_revision,
                "convzoo.precision": manifest.engines[manifest.default_engine].precision,
                "convzoo.gates": "not judged" if gated is None else gated.outcome,
            }
            made = self._client.create_model_version(
                name,
                source,
                run_id,
                tags=tags,
                description=_card(version_path),
                await_creation_for=0,
            )
        return Registered(run_id, name, int(made.version), is_new=True)

    def push_labels(self, model: Checkout, name: str) -> list[Change]:
        """Sets MLflow's aliases to what our labels name."""
        labels = read_labels(model.path)
        known = self._known(model, name)
        aliases = self._aliases(name)
        changes = []
        for label, version in sorted(labels.items()):
            number = known.get(version)
            if number is None:
                outcome = f"version {version} is not registered; `convzoo mlflow log` does it"
            elif aliases.get(label) == number:
                outcome = "same"
            else:
                with self._telling():
                    self._client.set_registered_model_alias(name, label, str(number))
                outcome = "set"
            changes.append(Change(label, version, number, outcome))
        return changes

    def pull_aliases(
        self, model: Checkout, name: str, *, why: str, is_forced: bool = False
    ) -> list[Change]:
        """Moves our labels to what MLflow's aliases name; each move is a promotion, with its gates.

        Raises:
            UsageError, ParityError: as `zoo.versions.promote` does.
            BusyError: somebody else moved a label meanwhile.
        """
        labels = read_labels(model.path)
        ours = {number: version for version, number in self._known(model, name).items()}
        changes = []
        for alias, number in sorted(self._aliases(name).items()):
            version = ours.get(number)
            if version is None:
                outcome = "it is no version of this base path"
            elif labels.get(alias) == version:
                outcome = "same"
            else:
                model.need(version)
                reason = why or f"alias of {name} in MLflow"
                promote(model.path, version, label=alias, why=reason, is_forced=is_forced)
                model.push()
                outcome = "set"
            changes.append(Change(alias, version, number, outcome))
        return changes

    def _known(self, model: Checkout, name: str) -> dict[int, int]:
        """Our version -> MLflow's, where both hold the same manifest."""
        digests = {
            file_sha256(path / MANIFEST): number
            for number, path in list_versions(model.path).items()
            if has_manifest(path)
        }
        with self._telling():
            return {
                digests[digest]: number
                for number, tags in self._versions(name).items()
                if (digest := tags.get("convzoo.manifest_sha256")) in digests
            }

    def _versions(self, name: str) -> dict[int, dict[str, str]]:
        found: dict[int, dict[str, str]] = {}
        token = None
        while True:
            page = self._client.search_model_versions(f"name = '{name}'", page_token=token)
            found |= {int(each.version): dict(each.tags) for each in page}
            token = page.token
            if not token:
                return found

    def _aliases(self, name: str) -> dict[str, int]:
        with self._telling():
            aliases = self._client.get_registered_model(name).aliases
        return {alias: int(version) for alias, version in aliases.items()}

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))

    def _create_model(self, name: str, architecture: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name, tags={"convzoo.architecture": architecture})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    @contextmanager
    def _telling(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError) as error:
            words = re.sub(r"//[^/@\s]*@", "//", " ".join(str(error).split()))[:500]
            raise MlflowError(f"MLflow at {self._place} cannot be used: {words}") from error


def from_run(run: Run) -> Logged:
    """A complete run, as MLflow gets it.

    Raises:
        UsageError: it is not complete.
    """
    run.require_complete()
    record = run.record()
    names = ("recipe.json", "data.json", "evaluation.json", "metrics.jsonl", "preprocessing.json")
    files = [run.path / name for name in names if (run.path / name).is_file()]
    return Logged(
        identity=file_sha256(run.model),
        name=run.path.resolve().name,
        params=flat(record.recipe),
        metrics=run.evaluation().metrics,
        epochs=tuple(run.epochs()),
        tags=_tags(
            record.recipe_sha256, record.data_sha256, record.code_revision, record.libraries
        ),
        files=(*files, *sorted(run.path.glob("*.png"))),
    )


def from_version(version_path: Path) -> Logged:
    """The run behind a published version, as far as the version knows it."""
    manifest = read_manifest(version_path)
    report = version_path / REPORT
    lines = report / "metrics.jsonl"
    epochs = lines.read_text().splitlines() if lines.is_file() else []
    return Logged(
        identity=manifest.files[KERAS_MODEL].sha256
        if KERAS_MODEL in manifest.files
        else file_sha256(version_path / MANIFEST),
        name=f"{manifest.model} {manifest.version}",
        params=flat(manifest.recipe),
        metrics=manifest.metrics,
        epochs=tuple(Epoch.model_validate_json(line) for line in epochs),
        tags=_tags(
            manifest.recipe_sha256,
            manifest.data_sha256,
            manifest.code_revision,
            manifest.libraries,
        ),
        files=tuple(sorted(path for path in report.glob("*") if path.is_file())),
    )


def flat(recipe: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """A recipe's values by key with dots; lists and empty parts as JSON."""
    found: dict[str, str] = {}
    for key, value in recipe.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{before}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            found[f"{before}{key}"] = text[:PARAM_CHARACTERS]
    return found


def _tags(recipe: str, data: str, revision: str, libraries: Mapping[str, str]) -> dict[str, str]:
    return {
        "convzoo.recipe_sha256": recipe,
        "convzoo.data_sha256": data,
        "convzoo.code_revision": revision,
        # What MLflow's own page shows a run's commit from.
        "mlflow.source.git.commit": revision,
        "convzoo.libraries": json.dumps(dict(libraries)),
    }


def _metrics(logged: Logged) -> Iterator[tuple[str, float, int, int]]:
    """(key, value, timestamp in ms, step): the held-out part at the last step, then the epochs."""
    from datetime import UTC, datetime

    now = int(datetime.now(UTC).timestamp() * 1000)
    last = logged.epochs[-1].epoch if logged.epochs else 0
    for name, metric in logged.metrics.items():
        yield name, metric.value, now, last
        for bound in ("low", "high"):
            value = getattr(metric, bound)
            if value is not None:
                yield f"{name}_{bound}", value, now, last
    for epoch in logged.epochs:
        for name, value in epoch.model_dump(exclude={"epoch"}, exclude_none=True).items():
            if isinstance(value, int | float):
                yield f"epoch.{name}", float(value), now, epoch.epoch


def _card(version_path: Path) -> str:
    """The model card without its front matter, as much of it as MLflow takes."""
    try:
        text = (version_path / MODEL_CARD).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    return re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL).strip()[:DESCRIPTION_CHARACTERS]
