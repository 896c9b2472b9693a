"""`convzoo train`, `evaluate`, `features`, `data check` and `publish`."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from training.interrupt import interruptible
from zoo.precision import NEEDS, PRECISIONS, Precision
from zoo.url import PathOrUrl, Url

if TYPE_CHECKING:
    from training.data.check import DataReport
    from training.loop import Progress
    from training.recipe import Recipe
    from training.run import Evaluation, Run


class WithOverrides(click.Command):
    """A command that says how a recipe's value is set when it is written as an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            key = error.option_name.lstrip("-")
            words = f"{error.message} A recipe's values have no dashes: {key}=VALUE."
            raise click.NoSuchOption(error.option_name, words, error.possibilities, ctx) from error


@click.command(cls=WithOverrides)
@click.argument("recipe", required=False)
@click.argument("overrides", nargs=-1)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Where the data set is; without it MNIST is downloaded once.",
)
@click.option(
    "--init-from",
    type=click.Path(path_type=Path),
    help="Start from the weights of a published version, a run, or a file of weights.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="The run's folder; runs/RECIPE when not given. A stopped run goes on.",
)
@click.option("--list", "list_", is_flag=True, help="List the recipes and stop.")
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Go on from the checkpoint of a run of the same recipe that was stopped, or begin again.",
)
@click.option(
    "--print-config",
    is_flag=True,
    help="Print every value of the recipe and where it came from, and stop.",
)
@click.option("--schema", is_flag=True, help="Print the JSON Schema of recipes and stop.")
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON document.")
@interruptible()
def train(
    recipe: str | None,
    overrides: tuple[str, ...],
    data_dir: Path | None,
    init_from: Path | None,
    out: Path | None,
    list_: bool,
    resume: bool,
    print_config: bool,
    schema: bool,
    as_json: bool,
) -> None:
    """Trains RECIPE, a bundled name or a YAML file; OVERRIDES are key=value.

    Exit codes: 0 done, 2 a wrong recipe or option, 3 data that cannot be used, 6 stopped (the same
    command goes on).

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
    chosen = recipes.read(recipe, overrides, data_dir, init_from)
    if print_config:
        _print_config(chosen, recipes.origins(recipe, overrides, data_dir, init_from), as_json)
        return

    from training.run import Run
    from training.train import train as train_recipe

    run = Run(out or Path("runs") / Path(recipe).stem)
    with _Bar() as bar:
        evaluation = train_recipe(chosen, run, bar.update, bar.talk, resume=resume)
    if evaluation is not None:
        _tell(run.path, evaluation, as_json=as_json)


@click.command()
@click.argument("path", type=PathOrUrl(path_type=Path))
@click.argument("source", required=False)
@click.option(
    "--part",
    type=click.Choice(["test", "validation", "train"]),
    default="test",
    show_default=True,
    help="Which part of SOURCE.",
)
@click.option(
    "--views",
    type=click.Choice(["centre", "ten_crop", "multi_crop", "dense"]),
    default="centre",
    show_default=True,
    help="How each image is shown to the network.",
)
@click.option("--no-robustness", is_flag=True, help="Leave out the changed images.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write evaluation.json, pictures and report.html into this folder.",
)
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON document.")
def evaluate(
    path: Path | Url,
    source: str | None,
    part: str,
    views: str,
    no_robustness: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measures a published version or a run on SOURCE; a run alone shows what it measured.

    SOURCE is digits, mnist, xo, or a path: class folders (also in a zip or tar), idx files, CIFAR
    batches, TFRecord shards, an .npz file.

    \b
    convzoo evaluate runs/digits_lenet5_modern
    convzoo evaluate models/lenet5_modern/1 mnist --out report
    """
    from training.run import Run
    from zoo.artifact import has_manifest

    if source is None:
        if isinstance(path, Url) or has_manifest(path):
            raise click.UsageError("On what? A version is measured on a SOURCE, e.g. mnist.")
        found = Run(path)
        found.require_complete()
        _tell(path, found.evaluation(), as_json=as_json)
        return
    from training.measure import measure, part_in_words
    from zoo.checkout import on_disk

    with on_disk(path) as folder:
        evaluation = measure(
            folder,
            source,
            part=part,
            kind=views,
            is_robustness_wanted=not no_robustness,
            out=out,
            talk=lambda line: click.echo(line, err=True),
        )
    _tell(path, evaluation, as_json=as_json, title=f"On {part_in_words(part)} of {source}")
    if out is not None:
        click.echo(f"Report: {out / 'report.html'}", err=True)


@click.command()
@click.argument("path", type=PathOrUrl(path_type=Path))
@click.argument("source")
@click.option("--layer", help="A layer's name; the one before the last dense layer when not given.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the features as an .npz file.",
)
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON document.")
def features(
    path: Path | Url, source: str, layer: str | None, out: Path | None, as_json: bool
) -> None:
    """What a trained network sees in SOURCE, and how far simple classifiers get with it.

    Fits logistic regression, a linear support vector machine and nearest neighbours on a layer's
    outputs for the training part, and measures them on the test part.

    \b
    convzoo features runs/mnist_lenet5_modern digits
    convzoo features models/vgg16/1 photos/ --layer fc6 --out features.npz
    """
    from training.features import classify_features
    from zoo.checkout import on_disk

    with on_disk(path) as folder:
        found = classify_features(
            folder, source, layer, out, talk=lambda line: click.echo(line, err=True)
        )
    if as_json:
        click.echo(found.model_dump_json())
        return
    from rich.table import Table

    from zoo.console import print_table

    table = Table(
        title=f"On {found.test_images:,} test images, from {found.layer} "
        f"({found.dimensions:,} values, {found.train_images:,} training images)"
    )
    for column in ("classifier", "accuracy", "95 % interval"):
        table.add_column(column, justify="left" if column == "classifier" else "right")
    for name, metric in found.classifiers.items():
        table.add_row(name, f"{metric.value:.4f}", f"{metric.low:.4f} to {metric.high:.4f}")
    print_table(table)


@click.group()
def data() -> None:
    """Looks at data before it is trained on."""


@data.command(name="check", short_help="Count, measure and compare what is in SOURCE.")
@click.argument("source")
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON document.")
def check_data(source: str, as_json: bool) -> None:
    """Counts, sizes, corrupt images, duplicates, leakage between the parts of SOURCE.

    SOURCE is as for `convzoo evaluate`, or a recipe's name or file. Ends with exit code 3 when
    something must be put right first.

    \b
    convzoo data check photos.zip
    convzoo data check mnist_lenet5_modern
    """
    from training import recipe as recipes
    from training.data import check, sources, store
    from zoo.errors import DataError

    is_recipe = source in recipes.bundled() or source.endswith((".yaml", ".yml"))
    chosen = recipes.read(source).data if is_recipe else sources.find(source)
    dataset = chosen.load()
    report = check.check(
        dataset.name,
        dataset.labels,
        store.look(dataset),
        on_corrupt=chosen.on_corrupt,
        notes=dataset.notes,
    )
    if as_json:
        click.echo(report.model_dump_json())
    else:
        _tell_data(report)
    if report.problems:
        raise DataError(" ".join(report.problems))


def _tell_data(report: "DataReport") -> None:
    from rich.table import Table

    from zoo.console import print_table, result_console

    # Names are the user's own: "[bold]" is a class, and no markup.
    console = result_console(markup=False)
    table = Table(title=report.name)
    table.add_column("class")
    for part in report.parts:
        table.add_column(part, justify="right")
    for label in report.labels:
        table.add_row(label, *(f"{each.classes[label]:,}" for each in report.parts.values()))
    table.add_section()
    table.add_row("all", *(f"{each.images:,}" for each in report.parts.values()))
    table.add_row("corrupt", *(f"{len(each.corrupt):,}" for each in report.parts.values()))
    table.add_row("duplicates", *(f"{each.duplicate_images:,}" for each in report.parts.values()))
    table.add_row("mean", *(f"{each.mean:.1f}" for each in report.parts.values()))
    table.add_row("deviation", *(f"{each.std:.1f}" for each in report.parts.values()))
    print_table(table, markup=False)
    for name, each in report.parts.items():
        sizes = ", ".join(f"{size} ({count:,})" for size, count in list(each.sizes.items())[:4])
        more = ", ..." if len(each.sizes) > 4 else ""
        console.print(f"{name}: height x width x channels {sizes}{more}", highlight=False)
    near = report.near_duplicate_images
    console.print(
        f"Test images that are also trained on: {report.leaked_images}; that look the same as a "
        f"training image: {'not looked for' if near is None else near}",
        highlight=False,
    )
    for line in report.warnings:
        console.print(f"Warning: {line}", style="yellow", highlight=False)
    for each in report.parts.values():
        for name, why in list(each.corrupt.items())[:20]:
            console.print(f"Corrupt: {name}: {why}", style="red", highlight=False)


@click.command()
@click.argument("run", metavar="RUN|NETWORK")
@click.option(
    "--weights",
    metavar="PUBLISHER|FILE",
    help="Publish NETWORK with these: keras, torchvision, timm or caffe, or a file.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --weights: the class names, one a line, or JSON as imagenet_class_index.json.",
)
@click.option(
    "--images",
    metavar="SOURCE",
    help="With --weights: images for golden records, drift's baseline and fewer bits.",
)
@click.option(
    "--base-path",
    type=PathOrUrl(path_type=Path, file_okay=False),
    required=True,
    help="The folder or URL (s3://, gs://, az://) the server watches; made when missing.",
)
@click.option("--model", "name", help="The model's name; the recipe's or NETWORK when not given.")
@click.option("--version", type=click.IntRange(min=1), help="The next free number when not given.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    show_default=True,
    help="What OpenVINO computes in; bf16 and fp16 where the processor has them.",
)
@click.option(
    "--most-drop",
    type=click.FloatRange(0, 1),
    default=0.005,
    show_default=True,
    help="The accuracy that fewer bits may cost on the validation part, a fraction.",
)
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON document.")
def publish(
    run: str,
    weights: str | None,
    labels: Path | None,
    images: str | None,
    base_path: Path | Url,
    name: str | None,
    version: int | None,
    precision: Precision,
    most_drop: float,
    as_json: bool,
) -> None:
    """Writes RUN, or NETWORK with others' weights, as BASE_PATH/MODEL/VERSION.

    A version is a SavedModel with all that a server needs.

    Exit codes: 0 published, 2 usage, 3 data or files, 4 fewer bits cost too much, 6 another process
    in the way (run it again), 7 an engine does not give Keras's answers.

    \b
    convzoo publish runs/digits --base-path models
    convzoo publish runs/images --base-path s3://bucket/models --precision int8
    convzoo publish vgg16 --weights keras --labels imagenet_class_index.json --base-path models
    convzoo publish alexnet --weights my.safetensors --images photos --base-path models
    """
    from training.run import Run

    def talk(line: str) -> None:
        click.echo(line, err=True)

    found = Run(Path(run))
    if weights is None:
        _require_run(found, labels, images)
    if precision in NEEDS:
        # Before ten seconds of TensorFlow.
        from training.openvino import require

        require(precision)
    material = None
    if weights is not None:
        from training.public import prepare

        material = prepare(
            run,
            weights,
            labels=labels,
            images=images,
            precision=precision,
            most_drop=most_drop,
            talk=talk,
        )
    from zoo.quiet import import_tensorflow

    import_tensorflow()
    from training import publish as publishing

    where: Any = {"name": name, "version": version, "precision": precision, "most_drop": most_drop}
    if material is None:
        manifest, place = publishing.publish(found, base_path, **where, talk=talk)
    else:
        manifest, place = publishing.publish_material(material, base_path, **where, talk=talk)
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


def _require_run(run: "Run", labels: Path | None, images: str | None) -> None:
    """Raises `UsageError` when there is no run to publish; says how a network would be."""
    from zoo.catalog import CATALOG
    from zoo.errors import UsageError

    if not run.path.is_dir() and str(run.path) in CATALOG:
        raise UsageError(
            f"There is no run at {run.path}. The network of that name is published with weights: "
            f"`convzoo publish {run.path} --weights keras`, or torchvision, timm, caffe, or a file."
        )
    run.require_complete()
    for option, given in (("--labels", labels), ("--images", images)):
        if given is not None:
            raise UsageError(f"{option} goes with --weights: a run has its own.")


def _tell(
    path: Path | Url,
    evaluation: "Evaluation",
    *,
    as_json: bool,
    title: str = "On the held-out part",
) -> None:
    if as_json:
        plain = evaluation.model_dump(mode="json")
        click.echo(json.dumps({"run": str(path), **plain}))
        return
    from rich.table import Table

    from zoo.console import print_table

    table = Table(title=f"{title} ({path})")
    for column in ("metric", "value", "95 % interval", "images"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name, metric in evaluation.metrics.items():
        interval = (
            f"{metric.low:.4f} to {metric.high:.4f}"
            if metric.low is not None and metric.high is not None
            else ""
        )
        table.add_row(name, f"{metric.value:.4f}", interval, f"{metric.examples:,}")
    print_table(table, markup=False)


def _print_config(recipe: "Recipe", origins: dict[str, str], as_json: bool) -> None:
    """Every value with its origin: the file, the command line, or the default."""
    if as_json:
        click.echo(json.dumps({"recipe": recipe.model_dump(mode="json"), "origins": origins}))
        return
    import yaml

    lines = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False).splitlines()
    path: list[str] = []
    for line in lines:
        stripped = line.lstrip(" ")
        depth = (len(line) - len(stripped)) // 2
        key = stripped.partition(":")[0]
        path = [*path[:depth], key]
        origin = origins.get(".".join(path))
        click.echo(f"{line:<60} # {origin}" if origin and ":" in stripped else line)


# Seconds between two lines of progress where there is no terminal.
LINE_EVERY_S = 30.0


class _Bar:
    """A progress bar on standard error; lines at intervals where that is no terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        self._told = time.monotonic()
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
        self._console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)

    def update(self, now: "Progress") -> None:
        """Moves the bar; at the end of an epoch says what it gave."""
        measured = f"loss {now.loss:.4f}  accuracy {now.accuracy:.2%}"
        speed = f"  {now.images_per_s:,.0f} images/s  waiting {now.waiting:.0%}"
        is_end = now.images >= now.images_per_epoch and now.validation_accuracy is not None
        if now.validation_accuracy is not None:
            measured += f"  validation {now.validation_accuracy:.2%}"
        if not self._console.is_terminal and (
            is_end
            or (now.images < now.images_per_epoch and time.monotonic() - self._told > LINE_EVERY_S)
        ):
            self._told = time.monotonic()
            share = "" if is_end else f" ({now.images / now.images_per_epoch:.0%})"
            self.talk(f"epoch {now.epoch}/{now.epochs}{share}  {measured}{speed}")
        self._bar.update(
            self._task,
            description=f"epoch {now.epoch}/{now.epochs}",
            completed=(now.epoch - 1) * now.images_per_epoch + now.images,
            total=now.epochs * now.images_per_epoch,
            measured=measured + speed,
            visible=True,
        )
