"""Results on standard output that lose nothing, however wide they are."""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# Characters; a table is only as wide as its cells.
UNBOUNDED = 100_000


def result_console(*, markup: bool = True) -> "Console":
    """A console as wide as the terminal; in a pipe nothing is folded, so that it can be searched.

    Args:
        markup: Whether `[bold]` is rich's markup or part of the text.
    """
    from rich.console import Console

    is_bounded = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if is_bounded else UNBOUNDED, markup=markup, emoji=False)


def print_table(table: "Table", *, markup: bool = True) -> None:
    """Prints `table`; a cell that is too long goes on in the next line and is not cut off.

    Args:
        table: What to print; its columns are set to fold.
        markup: As for `result_console`.
    """
    for column in table.columns:
        column.overflow = "fold"
    result_console(markup=markup).print(table)
