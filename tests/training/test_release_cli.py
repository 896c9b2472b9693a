"""What the commands of a release write and print; nothing is judged here."""

from training.gate import GateReport, GateResult
from training.release_cli import write_reports


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
