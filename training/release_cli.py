"""`convzoo gate`, `promote`, `rollback`, `versions` and `pipeline`."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.url import PathOrUrl, Url

if TYPE_CHECKING:
    from training.gate import GateReport
    from zoo.versions import Move

BASE_PATH = click.option(
    "--base-path",
    type=PathOrUrl(path_type=Path, file_okay=False),
    default="models",
    show_default=True,
    help="The folder or URL (s3://, gs://, az://) that the server watches.",
)
TF_SERVING = (
    click.option(
        "--tf-serving",
        metavar="HOST:PORT",
        help="Steer this TensorFlow Serving, too: its gRPC port. Needs --tf-serving-config.",
    ),
    click.option(
        "--tf-serving-config",
        type=click.Path(path_type=Path, dir_okay=False),
        help="TensorFlow Serving's --model_config_file; other models in it stay.",
    ),
    click.option(
        "--tf-serving-base-path",
        metavar="PATH",
        help="MODEL's folder as TensorFlow Serving sees it; what the file says, or the base path's "
        "own, when not given.",
    ),
)
LABEL = click.option("--label", default="stable", show_default=True, help="The label to move.")
JSON = click.option("--json", "as_json", is_flag=True, help="The result as one JSON document.")


def _with_tf_serving(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(TF_SERVING):
        command = option(command)
    return command


def _talk(line: str) -> None:
    click.echo(line, err=True)


@click.command()
@click.argument("candidate", type=PathOrUrl(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--against",
    default="stable",
    show_default=True,
    help="What is in production: a label, a number, or none.",
)
@click.option("--data", help="What both are measured on; the recipe's data when not given.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Where the recipe's data is.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A YAML file with the gates; a pipeline file works, too.",
)
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write JUnit XML.")
@click.option(
    "--markdown",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Append Markdown; $GITHUB_STEP_SUMMARY when that is set.",
)
@JSON
def gate(
    candidate: Path | Url,
    against: str,
    data: str | None,
    data_dir: Path | None,
    config: Path | None,
    junit: Path | None,
    markdown: Path | None,
    as_json: bool,
) -> None:
    """Judges CANDIDATE, a version's folder or URL, against the version in production.

    Exit codes: 0 pass, 4 fail, 5 inconclusive, 7 not what was published.

    \b
    convzoo gate models/lenet5_modern/2
    convzoo gate models/vgg16/4 --against 3 --data photos/ --config pipeline.yaml
    """
    from training import gate as gates
    from training.pipeline import read_gates
    from zoo.artifact import read_labels, read_manifest
    from zoo.checkout import checkout
    from zoo.versions import resolve, write_gate

    place = candidate if isinstance(candidate, Url) else candidate.resolve()
    with checkout(place.parent.parent, place.parent.name) as model:
        path = place if isinstance(place, Path) else model.need(_version_of(place))
        baseline = None
        if against != "none" and (against != "stable" or "stable" in read_labels(model.path)):
            number = resolve(model.path, against)
            if str(number) != path.name:
                baseline = model.need(number)
        source = gates.find_source(read_manifest(path), data, data_dir)
        settings = read_gates(config) if config is not None else None
        report = gates.judge(path, baseline, source, settings, _talk)
        write_gate(model.path, report.version, report.model_dump_json(indent=2))
        model.push()
    write_reports(report, junit, markdown)
    if as_json:
        click.echo(report.model_dump_json())
    else:
        show(report)
    raise_outcome(report)


def _version_of(url: Url) -> int:
    from zoo.artifact import version_number
    from zoo.errors import UsageError

    number = version_number(url.name)
    if number is None:
        raise UsageError(f"{url} is no version: <base path>/<model>/<version> would be.")
    return number


def write_reports(report: "GateReport", junit: Path | None, markdown: Path | None) -> None:
    """Writes what was asked for."""
    from training import gate as gates

    if junit is not None:
        junit.parent.mkdir(parents=True, exist_ok=True)
        junit.write_text(gates.to_junit(report), encoding="utf-8")
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    place = markdown or (Path(summary) if summary else None)
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("a", encoding="utf-8") as file:
            file.write(gates.to_markdown(report))


def show(report: "GateReport") -> None:
    """The report as a table."""
    from rich.markup import escape
    from rich.table import Table

    from zoo.console import print_table

    colours = {"pass": "green", "fail": "red", "inconclusive": "yellow"}
    against = "no earlier version" if report.against is None else f"version {report.against}"
    table = Table(
        title=escape(
            f"{report.model} version {report.version} against {against}, "
            f"{report.images:,} images of {report.data}: {report.outcome}"
        )
    )
    for column in ("gate", "", "found", "asked"):
        table.add_column(column)
    for each in report.gates:
        outcome = f"[{colours[each.outcome]}]{each.outcome}[/]"
        table.add_row(escape(each.name), outcome, escape(each.found), escape(each.asked))
    print_table(table)


def raise_outcome(report: "GateReport") -> None:
    """Ends with 4 or 5 when the gates did not pass.

    Raises:
        GateFailedError: one failed.
        InconclusiveError: none failed, but on one the data do not tell.
    """
    from training.gate import names_of
    from zoo.errors import GateFailedError, InconclusiveError

    if report.outcome == "fail":
        raise GateFailedError(
            f"Version {report.version} of {report.model!r} is refused: "
            f"{names_of(report.gates, 'fail')}."
        )
    if report.outcome == "inconclusive":
        raise InconclusiveError(
            f"{report.images:,} images do not tell whether version {report.version} of "
            f"{report.model!r} is good enough: {names_of(report.gates, 'inconclusive')}. "
            "More test images, or wider margins, would."
        )


@click.command()
@click.argument("model")
@click.argument("version")
@BASE_PATH
@LABEL
@click.option("--why", default="", help="The reason, for the history.")
@click.option("--force", is_flag=True, help="Promote a version that did not pass; needs --why.")
@_with_tf_serving
@JSON
def promote(
    model: str,
    version: str,
    base_path: Path | Url,
    label: str,
    why: str,
    force: bool,
    tf_serving: str | None,
    tf_serving_config: Path | None,
    tf_serving_base_path: str | None,
    as_json: bool,
) -> None:
    """Points a label of MODEL to VERSION: a number, another label, or latest.

    A running server follows within its polling interval. The version must verify and have passed
    its gates.

    Exit codes: 0 promoted, 2 usage or gates not passed, 6 another process or TensorFlow Serving in
    the way (run it again), 7 not what was published.

    \b
    convzoo promote lenet5_modern 2
    convzoo promote lenet5_modern canary --label stable --why "a week without complaints"
    convzoo promote lenet5_modern 2 --tf-serving host:8500 --tf-serving-config models.config
    """
    from zoo import versions
    from zoo.artifact import read_labels
    from zoo.checkout import open_model

    _require_config(tf_serving, tf_serving_config)
    with open_model(base_path, model) as opened:
        number = versions.resolve(opened.path, version)
        opened.need(number)
        move = versions.promote(opened.path, number, label=label, why=why, is_forced=force)
        opened.push()
        labels = read_labels(opened.path)
    _tell_move(model, move, as_json=as_json)
    if tf_serving_config is not None:
        _steer(base_path, model, labels, tf_serving, tf_serving_config, tf_serving_base_path)


@click.command()
@click.argument("model")
@BASE_PATH
@LABEL
@click.option("--why", default="", help="The reason, for the history.")
@_with_tf_serving
@JSON
def rollback(
    model: str,
    base_path: Path | Url,
    label: str,
    why: str,
    tf_serving: str | None,
    tf_serving_config: Path | None,
    tf_serving_base_path: str | None,
    as_json: bool,
) -> None:
    """Points a label of MODEL back to what it named before its last promotion.

    \b
    convzoo rollback lenet5_modern --why complaints
    """
    from zoo import versions
    from zoo.artifact import read_labels
    from zoo.checkout import open_model

    _require_config(tf_serving, tf_serving_config)
    with open_model(base_path, model) as opened:
        opened.need(versions.previous(opened.path, label))
        move = versions.rollback(opened.path, label=label, why=why)
        opened.push()
        labels = read_labels(opened.path)
    _tell_move(model, move, as_json=as_json)
    if tf_serving_config is not None:
        _steer(base_path, model, labels, tf_serving, tf_serving_config, tf_serving_base_path)


def _require_config(tf_serving: str | None, tf_serving_config: Path | None) -> None:
    if tf_serving is not None and tf_serving_config is None:
        raise click.UsageError(
            "--tf-serving needs --tf-serving-config: a reload replaces the server's whole "
            "configuration, and the file says what else it serves."
        )


def _steer(
    base_path: Path | Url,
    model: str,
    labels: dict[str, int],
    address: str | None,
    config: Path,
    seen_as: str | None,
) -> None:
    from training.tf_serving import knows, steer

    if seen_as is None and not knows(config, model):
        place = base_path if isinstance(base_path, Url) else base_path.resolve()
        seen_as = str(place / model)
    steer(config, model, seen_as, labels, address=address, talk=_talk)


def _tell_move(model: str, move: Any, *, as_json: bool) -> None:
    if as_json:
        click.echo(move.model_dump_json())
    elif move.before == move.version:
        click.echo(f"{model}: {move.label} names version {move.version} already")
    else:
        was = "new" if move.before is None else f"was {move.before}"
        click.echo(f"{model}: {move.label} names version {move.version} ({was})")


@click.command(name="versions")
@click.argument("model", required=False)
@BASE_PATH
@click.option(
    "--history", "is_history_wanted", is_flag=True, help="Who moved which label, and why."
)
@click.option(
    "--prune",
    type=click.IntRange(min=1),
    metavar="KEEP",
    help="Remove all but the newest KEEP versions and those that labels name or named last.",
)
@JSON
def versions_command(
    model: str | None,
    base_path: Path | Url,
    is_history_wanted: bool,
    prune: int | None,
    as_json: bool,
) -> None:
    """Lists the versions of MODEL, or of all models: accuracy, labels, gates."""
    from zoo import versions
    from zoo.checkout import list_places, open_model

    if model is None:
        if prune is not None or is_history_wanted:
            raise click.UsageError("Which MODEL?")
        rows = []
        for name in list_places(base_path):
            with open_model(base_path, name) as opened:
                rows += _rows(name, opened.path)
        _show_rows(rows, as_json=as_json)
        return
    with open_model(base_path, model) as opened:
        if prune is not None:
            removed = versions.prune(opened.path, prune)
            opened.push()
            removed += opened.remove_dead_uploads()
            click.echo(
                json.dumps({"removed": removed})
                if as_json
                else f"Removed: {', '.join(map(str, removed)) or 'none'}"
            )
        elif is_history_wanted:
            _show_history(versions.history(opened.path), as_json=as_json)
        else:
            _show_rows(_rows(model, opened.path), as_json=as_json)


def _show_history(moves: "list[Move]", *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([move.model_dump(mode="json") for move in moves]))
        return
    for move in moves:
        forced = ", forced" if move.forced else ""
        if move.forced and move.gates is not None:
            forced += f", gates {move.gates}"
        click.echo(
            f"{move.time:%Y-%m-%d %H:%M:%S} {move.label}: {move.before or '-'} -> "
            f"{move.version or '-'} by {move.who}{forced}: {move.why or 'no reason given'}"
        )


def _rows(model: str, place: Path) -> list[dict[str, Any]]:
    from zoo import versions
    from zoo.artifact import has_manifest, list_versions, read_labels, read_manifest
    from zoo.errors import ArtifactError

    labels = read_labels(place)
    rows: list[dict[str, Any]] = []
    for number, path in list_versions(place).items():
        row: dict[str, Any] = {
            "model": model,
            "version": number,
            "labels": sorted(label for label, version in labels.items() if version == number),
        }
        try:
            if has_manifest(path):
                manifest = read_manifest(path)
                accuracy = manifest.metrics.get("accuracy")
                row["accuracy"] = None if accuracy is None else accuracy.value
                row["created"] = manifest.created.isoformat(timespec="seconds")
                row["precision"] = manifest.engines[manifest.default_engine].precision
            gated = versions.read_gate(place, number)
            row["gates"] = None if gated is None else gated.outcome
        except ArtifactError as error:
            row["fault"] = str(error)
        rows.append(row)
    return rows


def _show_rows(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows))
        return
    from rich.markup import escape
    from rich.table import Table

    from zoo.console import print_table

    table = Table()
    for column in ("model", "version", "labels", "accuracy", "gates", "precision", "created"):
        table.add_column(column)
    for row in rows:
        accuracy = row.get("accuracy")
        table.add_row(
            escape(row["model"]),
            str(row["version"]),
            escape(", ".join(row["labels"])),
            "" if accuracy is None else f"{accuracy:.4f}",
            row.get("gates") or "",
            escape(row.get("precision", "")),
            escape(row.get("fault") or row.get("created", "")),
        )
    print_table(table)


@click.group()
def pipeline() -> None:
    """From data to a promoted version: check, train, publish, gate, promote."""


@pipeline.command(name="run", short_help="Run FILE; what has not changed is skipped.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("overrides", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Print what would be done, and why, and stop.")
@JSON
def run_pipeline(file: Path, overrides: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Runs FILE's pipeline; steps whose inputs have not changed are skipped.

    Exit codes: 0 promoted or nothing to do, 2 usage, 3 data invalid, 4 gate failed,
    5 inconclusive, 6 interrupted (run it again), 7 parity failed.

    \b
    convzoo pipeline run pipeline.yaml
    convzoo pipeline run pipeline.yaml recipe.epochs=5 --dry-run
    """
    from training import pipeline as pipelines

    settings = pipelines.read(file, overrides)
    if dry_run:
        plan = pipelines.plan(settings)
        if as_json:
            click.echo(json.dumps([step._asdict() for step in plan]))
        for step in plan if not as_json else ():
            click.echo(f"{step.name:<8} {'run ' if step.runs else 'skip'}  {step.why}")
        return
    result = pipelines.attempt(settings, _talk)
    if as_json:
        # Also of a candidate that did not pass: who decides about it needs its number.
        click.echo(result.model_dump_json())
    pipelines.require_passed(result)
    if not as_json:
        click.echo(result.words)
