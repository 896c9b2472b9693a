"""`convzoo demo`: the main job from end to end, as a user would do it by hand.

It runs the project's own commands in processes of their own (train, publish, serve), asks the
server through the typed client, and stops it again. What it shows is what those commands do;
nothing here knows how they do it.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from serving.client.results import Classification

LEAST_ACCURACY = 0.97
READY_WITHIN_S = 20.0
STOP_WITHIN_S = 20.0


class DemoError(Exception):
    """A step of the demo did not hold; the text names it."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said of one held-out image over both protocols."""

    file: str
    true_label: str
    rest: "Classification"
    grpc: "Classification"


@click.command()
@click.option(
    "--recipe", default="digits_lenet5_modern", show_default=True, help="See convzoo train --list."
)
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/demo"),
    show_default=True,
    help="Where the run and the models go; a fresh subfolder is made each time.",
)
@click.option("--rest-port", default=8501, show_default=True, help="Another one when taken.")
@click.option("--grpc-port", default=8500, show_default=True, help="Another one when taken.")
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON document.")
def demo(recipe: str, folder: Path, rest_port: int, grpc_port: int, *, as_json: bool) -> None:
    """Trains LeNet-5 on real digits, publishes it, serves it and asks it."""
    from rich.console import Console

    talk = Console(stderr=True)
    started = time.monotonic()
    place = _fresh_folder(folder)
    run, base_path = place / "run", place / "models"

    _step(talk, 1, f"Train {recipe}: scikit-learn's 1,797 handwritten digits, no download")
    trained = _convzoo("train", recipe, "--out", str(run))
    accuracy = float(trained["metrics"]["accuracy"]["value"])
    talk.print(f"  held-out accuracy {accuracy:.2%}")
    if accuracy < LEAST_ACCURACY:
        raise DemoError(f"Held-out accuracy is {accuracy:.2%}; expected {LEAST_ACCURACY:.0%}.")

    _step(talk, 2, f"Publish it under {base_path}")
    published = _convzoo("publish", str(run), "--base-path", str(base_path))
    model, version = str(published["model"]), int(published["version"])
    talk.print(f"  {model} version {version} at {published['path']}")

    _step(talk, 3, "Serve it")
    with _server(base_path, rest_port, grpc_port) as server:
        talk.print(
            f"  REST {server.rest_url}, gRPC {server.grpc_url}, ready after {server.ready_s:.2f} s"
        )
        _step(talk, 4, "Ask it, over REST and over gRPC, with images it has not seen")
        answers = _ask(server, model, sorted((run / "holdout").glob("*.png"))[:12])
        exit_code = server.stop()
    if exit_code != 0:
        raise DemoError(f"The server was asked to stop and exited with {exit_code}, not 0.")

    pictures = [str(path) for path in sorted(run.glob("*.png"))]
    if not pictures:
        raise DemoError(f"Training left no pictures in {run}.")
    seconds = time.monotonic() - started
    if as_json:
        click.echo(
            json.dumps(
                {
                    "model": model,
                    "version": version,
                    "accuracy": accuracy,
                    "ready_s": round(server.ready_s, 3),
                    "seconds": round(seconds, 1),
                    "answers": [
                        {
                            "file": each.file,
                            "true_label": each.true_label,
                            "label": each.rest.label,
                            "probability": each.rest.probability,
                        }
                        for each in answers
                    ],
                    "pictures": pictures,
                }
            )
        )
        return
    _show(answers)
    talk.print("Pictures:")
    for picture in pictures:
        talk.print(f"  {picture}", soft_wrap=True)
    talk.print(
        f"[bold green]Every step held[/] in {seconds:.0f} s. The same by hand: "
        f"convzoo serve --base-path {base_path}",
        soft_wrap=True,
    )


def _fresh_folder(folder: Path) -> Path:
    """A new numbered subfolder, so that no earlier demo is overwritten or believed."""
    number = 1
    while True:
        place = folder / str(number)
        try:
            place.mkdir(parents=True)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise DemoError(f"Cannot write into {folder}: {error.strerror}.") from error
        else:
            return place


def _step(talk: "Console", number: int, title: str) -> None:
    talk.print(f"[bold]{number}. {title}[/]", soft_wrap=True)


def _command(*args: str) -> list[str]:
    return [sys.executable, "-m", "zoo.command", *args]


def _convzoo(*args: str) -> dict[str, Any]:
    """Runs a convzoo command with `--json`; its progress goes to our standard error."""
    done = subprocess.run(  # noqa: S603 - our own command with arguments of our own
        _command(*args, "--json"), stdout=subprocess.PIPE, check=False
    )
    if done.returncode != 0:
        raise DemoError(f"`convzoo {' '.join(args)}` ended with exit code {done.returncode}.")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _free_port(wanted: int) -> int:
    """`wanted` when nobody listens there, else 0: let the system choose."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return 0
        return wanted


class _Server:
    """A `convzoo serve` process and where it listens."""

    def __init__(self, process: "subprocess.Popen[bytes]", ready: dict[str, Any], s: float) -> None:
        self._process = process
        self.rest_url = f"http://127.0.0.1:{ready['rest_port']}"
        self.grpc_url = f"grpc://127.0.0.1:{ready['grpc_port']}"
        self.ready_s = s

    def stop(self) -> int:
        """Sends SIGTERM, waits for the drain, returns the exit code."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired as error:
            raise DemoError(f"The server did not stop within {STOP_WITHIN_S:.0f} s.") from error


@contextmanager
def _server(base_path: Path, rest_port: int, grpc_port: int) -> "Iterator[_Server]":
    ready_file = base_path.parent / "server.json"
    started = time.monotonic()
    process = subprocess.Popen(  # noqa: S603 - our own command with arguments of our own
        _command(
            *("serve", "--base-path", str(base_path), "--ready-file", str(ready_file)),
            *("--rest-port", str(_free_port(rest_port)), "--grpc-port", str(_free_port(grpc_port))),
        ),
        env=os.environ | {"CONVZOO_LOG_LEVEL": os.environ.get("CONVZOO_LOG_LEVEL", "warning")},
    )
    try:
        while not ready_file.exists():
            if process.poll() is not None:
                raise DemoError(f"The server ended at once with exit code {process.returncode}.")
            if time.monotonic() - started > READY_WITHIN_S:
                raise DemoError(f"The server was not ready within {READY_WITHIN_S:.0f} s.")
            time.sleep(0.02)
        ready_s = time.monotonic() - started
        yield _Server(process, json.loads(ready_file.read_bytes()), ready_s)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _ask(server: _Server, model: str, images: list[Path]) -> list[Answer]:
    """Classifies each image over both protocols; the answers must be the same."""
    from serving.client import Client

    if not images:
        raise DemoError("The run kept no held-out images to ask about.")
    answers = []
    with Client(server.rest_url) as rest, Client(server.grpc_url) as grpc:
        for image in images:
            over_rest = rest.classify(model, image, top_k=3)
            over_grpc = grpc.classify(model, image, top_k=3)
            if over_rest.labels != over_grpc.labels:
                raise DemoError(
                    f"{image.name}: REST says {over_rest.labels}, gRPC {over_grpc.labels}."
                )
            true_label = image.stem.rsplit("_", 1)[-1]
            answers.append(Answer(image.name, true_label, over_rest, over_grpc))
    wrong = sum(answer.rest.label != answer.true_label for answer in answers)
    # One held-out digit in thirty may be misread; a third of them cannot be chance.
    if wrong * 3 > len(answers):
        raise DemoError(f"{wrong} of {len(answers)} answers are wrong.")
    return answers


def _show(answers: list[Answer]) -> None:
    from rich.table import Table

    from zoo.console import print_table

    table = Table("image", "true", "REST", "gRPC", "score", "then", title="Held-out digits")
    for answer in answers:
        is_right = answer.rest.label == answer.true_label
        colour = "green" if is_right else "red"
        table.add_row(
            answer.file,
            answer.true_label,
            f"[{colour}]{answer.rest.label}[/]",
            f"[{colour}]{answer.grpc.label}[/]",
            f"{answer.rest.probability:.3f}",
            ", ".join(f"{each.label} {each.probability:.3f}" for each in answer.rest.scores[1:]),
        )
    print_table(table)
