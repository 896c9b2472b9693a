"""The `convzoo` command: a group whose subcommands come from the packages.

Subcommands stand in the entry-point group `convzoo.commands` and are imported only when chosen,
so that `--help` stays fast and a client installation never sees training.

Every subcommand keeps three rules: standard output carries the result and nothing else, standard
error carries the talk, and `--json` turns the result into one JSON document.
"""

import errno
import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from io import TextIOWrapper
from typing import Any

import click

from zoo.suggest import unknown

GROUP = "convzoo.commands"

# What is imported, and the extra that brings it.
EXTRAS = {
    "fsspec": "remote",
    "h5py": "train",
    "hpack": "serve",
    "keras": "train",
    "matplotlib": "train",
    "ncnn": "serve",
    "nncf": "train",
    "openvino": "train",
    "orjson": "serve",
    "PIL": "train",
    "prometheus_client": "serve",
    "safetensors": "train",
    "scipy": "train",
    "simdjson": "serve",
    "simplejpeg": "train",
    "sklearn": "train",
    "tensorflow": "train",
    "tensorflow_serving": "train",
    "uvloop": "serve",
    "yaml": "train",
}
# Of what two extras bring, a server takes the lighter one.
SERVED = ("h5py", "openvino", "PIL", "simplejpeg", "yaml")


def missing(command: str, error: ModuleNotFoundError) -> str | None:
    """What to install for `convzoo COMMAND`; None when the module belongs to no extra."""
    name = (error.name or "").split(".")[0]
    extra = "serve" if command == "serve" and name in SERVED else EXTRAS.get(name)
    if extra is None:
        return None
    return (
        f"`convzoo {command}` needs {name}, which is not installed. "
        f"Install it with: pip install 'convzoo[{extra}]'"
    )


class CommandTable(click.Group):
    """A click group over an entry-point group.

    One line of help stands beside each name without importing the command: it is the entry
    point's extra text in `SHORT_HELP`.
    """

    def _entry_points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=GROUP)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names in the order of the work: know, train, publish, serve, ask."""
        order = list(SHORT_HELP)
        known = self._entry_points()
        return sorted(known, key=lambda name: (order.index(name) if name in order else 99, name))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command behind `cmd_name`, or returns None when there is none."""
        point = self._entry_points().get(cmd_name)
        if point is None:
            return None
        try:
            command: Any = point.load()
        except ModuleNotFoundError as error:
            words = missing(cmd_name, error)
            if words is None:
                raise
            raise click.ClickException(words) from error
        if not isinstance(command, click.Command):
            raise TypeError(f"Entry point {point.value!r} is not a click command: {command!r}")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolves like click, but an unknown command says what exists."""
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            raise click.UsageError(unknown("command", args[0], self.list_commands(ctx))) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the table of commands without importing one of them."""
        rows = [(name, SHORT_HELP.get(name, "")) for name in self.list_commands(ctx)]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


SHORT_HELP = {
    "demo": "Train, publish, serve and ask, on real digits.",
    "list": "All networks: year, paper, input, parameters, MACs.",
    "show": "One network, layer by layer.",
    "weights": "Public weights: list them, or fetch one.",
    "data": "Look at a data set before it is used.",
    "train": "Train a recipe.",
    "evaluate": "Measure a run or a version on a data set.",
    "features": "Write a layer's features and fit classifiers on them.",
    "publish": "Write a run as a published version.",
    "versions": "The versions of a model, with their labels.",
    "gate": "Judge a candidate against the version in production.",
    "promote": "Move a label to a version.",
    "rollback": "Move a label back to where it was.",
    "pipeline": "From data to a promoted version, step by step.",
    "mlflow": "Runs, versions and labels in MLflow.",
    "drift": "Compare what the server saw with what training saw.",
    "serve": "Answer for published versions over REST and gRPC.",
    "predict": "Ask a server to classify images.",
    "explain": "Look inside a network.",
    "doctor": "Say what is installed and what would work here.",
}


@click.group(cls=CommandTable, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="convzoo")
def convzoo() -> None:
    """The classical convolutional networks: faithful, trained, published, served, explained."""


# What a disk or its permissions refuse. Some libraries keep the words and lose the number.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO)


def disk_fault(error: OSError) -> str | None:
    """The file and the reason, in one line; None when no file and no disk is to blame."""
    if error.errno is None:
        reasons = (os.strerror(each) for each in (errno.ENOSPC, errno.EDQUOT, errno.EROFS))
        return next((f"{reason}." for reason in reasons if reason in str(error)), None)
    if error.filename is None:
        return f"{os.strerror(error.errno)}." if error.errno in DISK else None
    # What is copied has two names: it is the second that finds no room.
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    name = error.filename2 if is_full and error.filename2 is not None else error.filename
    # A descriptor has no name to tell.
    place = "a file" if isinstance(name, int) else os.fsdecode(name)
    return f"{place}: {error.strerror or os.strerror(error.errno)}."


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line; the entry point of the `convzoo` script.

    An exception with an `exit_code` is an answer to the user: one line on standard error and
    that code. So are a file or a disk that cannot be used, and a package of an extra that is not
    installed, which many commands import only where they need it. Anything else is a defect and
    keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        # What the locale has no character for is written as its number.
        if isinstance(stream, TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(errors="backslashreplace")
    given = list(args) if args is not None else sys.argv[1:]
    try:
        convzoo.main(args=given, prog_name="convzoo")
    except Exception as error:
        exit_code, words = getattr(error, "exit_code", None), str(error)
        if isinstance(error, ModuleNotFoundError) and (lacking := missing(given[0], error)):
            exit_code, words = 1, lacking
        if exit_code is None and isinstance(error, OSError) and (fault := disk_fault(error)):
            exit_code, words = 3, fault
        if not isinstance(exit_code, int):
            raise
        print(f"error: {words}", file=sys.stderr)
        sys.exit(exit_code)


if __name__ == "__main__":
    main()
