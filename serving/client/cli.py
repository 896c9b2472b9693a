"""`convzoo predict`: asks a server what images show."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from serving.client.results import Classification

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@click.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True)
@click.option(
    "--url",
    default="http://127.0.0.1:8501",
    show_default=True,
    envvar="CONVZOO_URL",
    help="http://, https://, grpc:// or grpcs://.",
)
@click.option("--top-k", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--version", type=click.IntRange(min=1), help="The newest when not given.")
@click.option("--label", help="A version label, e.g. stable.")
@click.option("--timeout-s", type=click.FloatRange(min=0, min_open=True), default=60.0)
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON document.")
def predict(
    model: str,
    images: tuple[str, ...],
    url: str,
    top_k: int,
    version: int | None,
    label: str | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    r"""Asks MODEL what IMAGES show: files, folders of them, or - for standard input.

    \b
    convzoo predict lenet5 digit.png
    convzoo predict lenet5 scans/ --url grpc://localhost:8500 --json
    """
    from serving.client.client import Client

    named = dict(_read(images))
    with Client(url, timeout_s=timeout_s) as client:
        found = [
            client.classify(model, content, top_k=top_k, version=version, label=label)
            for content in named.values()
        ]
    answers = dict(zip(named, found, strict=True))
    if as_json:
        documents = [{"image": name, **answer.to_dict()} for name, answer in answers.items()]
        click.echo(json.dumps(documents))
    else:
        _show(answers)


def _read(images: tuple[str, ...]) -> list[tuple[str, bytes | Path]]:
    found: list[tuple[str, bytes | Path]] = []
    for image in images:
        path = Path(image)
        if image == "-":
            found.append(("-", sys.stdin.buffer.read()))
        elif path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES)
            if not inside:
                raise click.UsageError(f"There is no image in {path}: {', '.join(SUFFIXES)}.")
            found += [(str(each), each) for each in inside]
        else:
            found.append((image, path))
    return found


def _show(answers: "dict[str, Classification]") -> None:
    from rich.console import Console
    from rich.table import Table

    from serving.client.results import bar

    first = next(iter(answers.values()))
    table = Table(title=first.name)
    for column in ("image", "label", "probability", ""):
        table.add_column(column, justify="right" if column == "probability" else "left")
    for name, answer in answers.items():
        for place, score in enumerate(answer.scores):
            table.add_row(
                name if place == 0 else "",
                score.name,
                f"{score.probability:.4f}",
                bar(score.probability),
                end_section=place == len(answer.scores) - 1,
            )
    Console().print(table)
