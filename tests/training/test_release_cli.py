"""What the commands of a release write and print; nothing is judged here."""

from training.gate import GateReport, GateResult
from training.release_cli import _show_rows, show, write_reports


def report(model="m", data="digits", name="accuracy"):
    gate = GateResult(name=name, outcome="pass", found="99 %", asked="at least 95 %")
    return GateReport(
        model=model,
        version=1,
        against=None,
        data=data,
        images=10,
        outcome="pass",
        manifest_sha256="",
        gates=(gate,),
        seconds=1,
    )


def test_reports_make_the_folders_they_lie_in(tmp_path):
    junit, markdown = tmp_path / "a" / "x.xml", tmp_path / "b" / "x.md"
    write_reports(report(), junit, markdown)
    assert 'name="accuracy"' in junit.read_text()
    assert "accuracy" in markdown.read_text()


def test_names_with_brackets_are_printed_as_they_are(capsys):
    show(report(data="photos[red].zip", name="recall of [bold]"))
    # A title is broken where its table ends.
    told = " ".join(capsys.readouterr().out.split())
    assert "10 images of photos[red].zip: pass" in told
    assert "recall of [bold]" in told
    row = {"model": "m", "version": 1, "labels": ["a"], "fault": "[/x] cannot be read"}
    _show_rows([row], as_json=False)
    assert "[/x]" in capsys.readouterr().out
