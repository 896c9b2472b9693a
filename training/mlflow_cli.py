"""`convzoo mlflow`: runs and versions in MLflow's tracking and registry."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from zoo.url import PathOrUrl, Url

TRACKING = click.option(
    "--tracking-uri",
    envvar="MLFLOW_TRACKING_URI",
    required=True,
    show_envvar=True,
    help="e.g. http://host:5000 or sqlite:///mlflow.db.",
)
NAME = click.option("--name", help="The registered model; the model's own name when not given.")
JSON = click.option("--json", "as_json", is_flag=True, help="The result as one JSON document.")


@click.group()
def mlflow() -> None:
    """Runs, versions and labels in MLflow."""


@mlflow.command(short_help="Log a run, or register a version.")
@click.argument("place", metavar="RUN|VERSION", type=PathOrUrl(path_type=Path))
@TRACKING
@click.option("--experiment", default="convzoo", show_default=True, help="Made when missing.")
@NAME
@click.option(
    "--files/--no-files",
    "has_files",
    default=True,
    show_default=True,
    help="Upload a version's files, or point to them: a VERSION by URL may stay where it is.",
)
@JSON
def log(
    place: Path | Url,
    tracking_uri: str,
    experiment: str,
    name: str | None,
    has_files: bool,
    as_json: bool,
) -> None:
    """Logs RUN; a published VERSION is registered too, with its card, figures and hashes."""
    from training.mlflow import Tracking, from_run
    from training.run import Run
    from zoo.artifact import has_manifest
    from zoo.checkout import on_disk

    if not has_files and isinstance(place, Path):
        raise click.UsageError(
            "MLflow points to URLs, not to folders on a disk: leave --no-files away, or publish to "
            "an object store."
        )
    with on_disk(place) as path:
        if not has_manifest(path):
            run = from_run(Run(path))
            run_id, is_new = Tracking(tracking_uri).log(run, experiment)
            told = {"run_id": run_id, "is_new": is_new}
            words = f"run {run_id} {'logged' if is_new else 'was logged before'}"
        else:
            source = None if has_files else str(place)
            tracking = Tracking(tracking_uri)
            found = tracking.register(path, experiment, name=name, source=source)
            told = asdict(found)
            how = "registered" if found.is_new else "was registered before"
            words = f"{found.name} version {found.version} {how} (run {found.run_id})"
    click.echo(json.dumps(told) if as_json else words)


@mlflow.command(short_help="Labels to aliases, or back.")
@click.argument("model")
@click.option(
    "--base-path",
    type=PathOrUrl(path_type=Path, file_okay=False),
    default="models",
    show_default=True,
    help="The folder or URL (s3://, gs://, az://) that the server watches.",
)
@TRACKING
@NAME
@click.option("--pull", is_flag=True, help="The other way: move labels to what aliases name.")
@click.option("--why", default="", help="With --pull: the reason, for the history.")
@click.option(
    "--force", is_flag=True, help="With --pull: also to versions that did not pass; needs --why."
)
@JSON
def sync(
    model: str,
    base_path: Path | Url,
    tracking_uri: str,
    name: str | None,
    pull: bool,
    why: str,
    force: bool,
    as_json: bool,
) -> None:
    """Sets MLflow's aliases to what the labels of MODEL name, or the labels to the aliases."""
    from training.mlflow import Tracking
    from zoo.checkout import open_model

    if force and not pull:
        raise click.UsageError("--force goes with --pull: aliases have no gates.")
    tracking = Tracking(tracking_uri)
    with open_model(base_path, model) as opened:
        if pull:
            changes = tracking.pull_aliases(opened, name or model, why=why, is_forced=force)
        else:
            changes = tracking.push_labels(opened, name or model)
    if as_json:
        click.echo(json.dumps([asdict(each) for each in changes]))
        return
    for each in changes:
        sides = f"version {each.version}, in MLflow {each.mlflow_version}"
        click.echo(f"{model}: {each.label}: {each.outcome} ({sides})")
    if not changes:
        click.echo(f"{model}: there is no {'alias' if pull else 'label'}")
