"""Tables on standard output."""

import pytest
from rich.table import Table

from zoo.console import print_table, result_console

NAME = "a_model_with_a_name_that_is_longer_than_a_narrow_terminal_is_wide"


def table():
    shown = Table("model", "version", "why")
    shown.add_row(NAME, "1", "a reason " * 20 + ":end:")
    return shown


def test_a_pipe_gets_every_row_on_one_line(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    print_table(table())
    (row,) = (line for line in capsys.readouterr().out.splitlines() if NAME in line)
    assert row.count("a reason") == 20
    assert ":end:" in row


@pytest.mark.parametrize("columns", [40, 80])
def test_a_narrow_terminal_cuts_nothing_off(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    print_table(table())
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    cells = "".join(line.split("│")[1].strip() for line in lines if line.startswith("│"))
    assert cells == NAME


def test_brackets_are_text_where_there_is_no_markup(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result_console(markup=False).print("[bold]cat[/bold] :smile:", highlight=False)
    assert capsys.readouterr().out == "[bold]cat[/bold] :smile:\n"
