"""`convzoo train`, `evaluate` and `publish`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from training.loop import Progress
    from training.run import Evaluation


@click.command()
@click.argument("recipe", required=False)
@click.argument("overrides", nargs=-1)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the data set's files are; without it MNIST is downloaded once.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="The run's folder; runs/RECIPE when not given. A stopped run goes on.",
)
@click.option("--list", "list_", is_flag=True, help="List the recipes and stop.")
@click.option("--print-config", is_flag=True, help="Print the recipe with all its values and stop.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of recipes and stop.")
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON document.")
def train(
    recipe: str | None,
    overrides: tuple[str, ...],
    data_dir: Path | None,
    out: Path | None,
    list_: bool,
    print_config: bool,
    schema: bool,
    as_json: bool,
) -> None:
    r"""Trains RECIPE, a bundled name or a YAML file; OVERRIDES are key=value.

    \b
    convzoo train digits_lenet5_modern
    convzoo train mnist_lenet5_modern --data-dir mnist optimizer.learning_rate=0.001 epochs=5
    """
    from training import recipe as recipes

    if schema:
        click.echo(json.dumps(recipes.Recipe.model_json_schema(), indent=2))
        return
    if list_:
        names = list(recipes.bundled())
        click.echo(json.dumps(names) if as_json else "\n".join(names))
        return
    if recipe is None:
        raise click.UsageError(f"Which recipe? There are: {', '.join(recipes.bundled())}.")
    chosen = recipes.read(recipe, overrides, data_dir)
    if print_config:
        click.echo(chosen.model_dump_json(indent=2))
        return

    from training.run import Run
    from training.train import train as train_recipe

    run = Run(out or Path("runs") / Path(recipe).stem)
    with _Bar() as bar:
        evaluation = train_recipe(chosen, run, bar.update, bar.talk)
    _tell(run.path, evaluation, as_json=as_json)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON document.")
def evaluate(run: Path, as_json: bool) -> None:
    """Shows what RUN measured on its held-out part."""
    from training.run import Run

    found = Run(run)
    found.require_complete()
    _tell(run, found.evaluation(), as_json=as_json)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--base-path",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="The folder the server watches; made when missing.",
)
@click.option("--model", "name", help="The model's name; the recipe's when not given.")
@click.option("--version", type=click.IntRange(min=1), help="The next free number when not given.")
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON document.")
def publish(
    run: Path, base_path: Path, name: str | None, version: int | None, as_json: bool
) -> None:
    """Writes RUN as BASE_PATH/MODEL/VERSION: a SavedModel with all a server needs."""
    from training.run import Run

    found = Run(run)
    found.require_complete()
    from zoo.quiet import import_tensorflow

    import_tensorflow()
    from training.publish import publish as publish_run

    manifest, place = publish_run(
        found, base_path, name=name, version=version, talk=lambda line: click.echo(line, err=True)
    )
    if as_json:
        engines = {
            engine: {"file": record.file, "measured": record.measured}
            for engine, record in manifest.engines.items()
        }
        click.echo(
            json.dumps(
                {
                    "model": manifest.model,
                    "version": manifest.version,
                    "path": str(place),
                    "engines": engines,
                }
            )
        )
    else:
        click.echo(str(place))


def _tell(path: Path, evaluation: "Evaluation", *, as_json: bool) -> None:
    if as_json:
        plain = evaluation.model_dump(mode="json")
        click.echo(json.dumps({"run": str(path), **plain}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"On the held-out part ({path})")
    for column in ("metric", "value", "95 % interval", "images"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name, metric in evaluation.metrics.items():
        interval = (
            f"{metric.low:.4f} to {metric.high:.4f}"
            if metric.low is not None and metric.high is not None
            else ""
        )
        table.add_row(name, f"{metric.value:.4f}", interval, f"{metric.examples:,}")
    Console().print(table)


class _Bar:
    """A progress bar on standard error; one line an epoch where that is no terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[measured]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=None, measured="", visible=False)

    def __enter__(self) -> "_Bar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def talk(self, line: str) -> None:
        """One line above the bar."""
        self._console.print(f"  {line}", highlight=False, soft_wrap=True)

    def update(self, now: "Progress") -> None:
        """Moves the bar; at the end of an epoch says what it gave."""
        measured = f"loss {now.loss:.4f}  accuracy {now.accuracy:.2%}"
        if now.validation_accuracy is not None:
            measured += f"  validation {now.validation_accuracy:.2%}"
            if not self._console.is_terminal:
                self.talk(f"epoch {now.epoch}/{now.epochs}  {measured}")
        self._bar.update(
            self._task,
            description=f"epoch {now.epoch}/{now.epochs}",
            completed=(now.epoch - 1) * now.images_per_epoch + now.images,
            total=now.epochs * now.images_per_epoch,
            measured=measured,
            visible=True,
        )
