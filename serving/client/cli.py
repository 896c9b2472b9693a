"""`convzoo predict`: asks a server what images show."""

import glob
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from serving.client.results import Classification

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


HELP = """Asks MODEL what IMAGES show: files, patterns, folders, or - for one on standard input.

An image that cannot be read is told on standard error and takes no other with it.

\b
convzoo predict lenet5 digit.png
convzoo predict lenet5 scans/ --url grpc://localhost:8500 --json
convzoo predict lenet5 'scans/**/*.png' --top-k 1
curl -s https://host/digit.png | convzoo predict lenet5 -

\b
Exit codes:
   2  the command cannot work as it stands    13  no such model, version or label
   3  an image, or another part of the input  14  the server or the model is not ready
  10  no connection, or it broke              15  the server does not know you, or you may not
  11  the time was over                       16  this server cannot classify images
  12  the server is overloaded                17  the server failed
"""


@click.command(help=HELP)
@click.argument("model")
@click.argument("images", nargs=-1, required=True)
@click.option(
    "--url",
    default="http://127.0.0.1:8501",
    show_default=True,
    envvar="CONVZOO_URL",
    show_envvar=True,
    help="http://, https://, grpc:// or grpcs://.",
)
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="How many labels of each image, best first.",
)
@click.option("--version", type=click.IntRange(min=1), help="The newest when not given.")
@click.option("--label", help="A version label, e.g. stable.")
@click.option(
    "--timeout-s",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="For each request, retries included.",
)
@click.option(
    "--wait-s",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="How long to wait for a server, and for MODEL in it, that is still starting.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Requests under way at the same time.",
)
@click.option("--token", envvar="CONVZOO_TOKEN", show_envvar=True, help="A bearer token.")
@click.option("--api-key", envvar="CONVZOO_API_KEY", show_envvar=True, help="An API key.")
@click.option("--ca", type=click.Path(path_type=Path), help="PEM file of the authority to believe.")
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON document.")
def predict(
    model: str,
    images: tuple[str, ...],
    url: str,
    top_k: int,
    version: int | None,
    label: str | None,
    timeout_s: float,
    wait_s: float,
    concurrency: int,
    token: str | None,
    api_key: str | None,
    ca: Path | None,
    as_json: bool,
) -> None:
    """As `HELP` says."""
    from serving.client.client import Client
    from serving.client.errors import ClientError, InvalidInputError
    from serving.client.settings import Tls

    if version is not None and label is not None:
        raise click.UsageError("--version and --label exclude each other: give one of them.")
    named = dict(_read(images))
    answers: dict[str, Classification] = {}
    failure: ClientError | None = None
    with Client(url, timeout_s=timeout_s, token=token, api_key=api_key, tls=Tls(ca=ca)) as client:
        if wait_s:
            try:
                client.wait_until_ready(model, timeout_s=wait_s)
            except ClientError as error:
                click.echo(f"error: {error}", err=True)
                sys.exit(error.exit_code)
        outcomes = client.classify_many(
            model,
            named.values(),
            top_k=top_k,
            concurrency=concurrency,
            version=version,
            label=label,
            progress=len(named) > 1 and sys.stderr.isatty(),
        )
        for name, outcome in zip(named, outcomes, strict=False):
            if outcome.error is None:
                answers[name] = outcome.unwrap()
                continue
            if not isinstance(outcome.error, InvalidInputError):
                # A server that is gone is gone for the rest as well.
                failure = outcome.error
                click.echo(f"error: {failure}", err=True)
                break
            click.echo(f"error: {name}: {outcome.error}", err=True)
            failure = failure or outcome.error
    if as_json and (answers or failure is None):
        documents = [{"image": name, **answer.to_dict()} for name, answer in answers.items()]
        click.echo(json.dumps(documents))
    elif answers:
        _show(answers)
    if failure is not None:
        sys.exit(failure.exit_code)


def _read(images: tuple[str, ...]) -> Iterator[tuple[str, "bytes | str | Path"]]:
    from serving.client.images import is_url

    for image in images:
        path = Path(image)
        if image == "-":
            yield "-", sys.stdin.buffer.read()
        elif is_url(image):
            yield image, image  # as it is, for the error to name it
        elif _is(path.is_dir):
            inside = sorted(each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES)
            files = [each for each in inside if not _is(each.is_dir)]
            if not files:
                raise click.UsageError(f"There is no image in {path}: {', '.join(SUFFIXES)}.")
            yield from ((str(each), each) for each in files)
        elif glob.has_magic(image) and not _is(path.exists):
            found = sorted(glob.glob(image, recursive=True))  # noqa: PTH207 - ** as users know it
            named = [each for each in found if not _is(Path(each).is_dir)]
            if not named:
                raise click.UsageError(f"No file matches {image!r}.")
            yield from ((each, Path(each)) for each in named)
        else:
            yield image, path


def _is(question: Callable[[], bool]) -> bool:
    """What a path says of itself; no where its name is too long or its folder is closed.

    Whoever reads the file is told why.
    """
    try:
        return question()
    except OSError:
        return False


def _show(answers: "dict[str, Classification]") -> None:
    from rich.console import Console
    from rich.table import Table

    from serving.client.results import bar

    first = next(iter(answers.values()))
    table = Table(title=first.name)
    for column in ("image", "label", "probability", ""):
        side: Literal["left", "right"] = "right" if column == "probability" else "left"
        table.add_column(column, justify=side, overflow="fold")
    for name, answer in answers.items():
        for place, score in enumerate(answer.scores):
            table.add_row(
                name if place == 0 else "",
                score.name,
                f"{score.probability:.4f}",
                bar(score.probability),
                end_section=place == len(answer.scores) - 1,
            )
    # Names of files and labels are not ours: what looks like markup in them is part of the name.
    # In a pipe the table is as wide as its cells: what is folded or cut off nobody can search.
    is_bounded = sys.stdout.isatty() or "COLUMNS" in os.environ
    width = None if is_bounded else 100_000
    Console(width=width, markup=False, emoji=False).print(table)
