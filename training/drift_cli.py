"""`convzoo drift`."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from training.drift import DriftReport, Seen
    from zoo.artifact import Manifest
    from zoo.drift.records import Baseline

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def _moment(_: click.Context, param: click.Parameter, text: str | None) -> datetime | None:
    """The moment meant by a span before now, or by a date and time, in UTC."""
    if text is None:
        return None
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text):
        return datetime.now(UTC) - timedelta(seconds=float(match[1]) * UNITS[match[2]])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is no span such as 30m, 24h or 7d, and no moment such as 2026-11-21T06:00.",
            param=param,
        ) from error
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


@click.command()
@click.argument("version", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("log", type=click.Path(path_type=Path), required=False)
@click.option(
    "--source",
    help="Compare these images, and no log: a folder or archive of images, or what `convzoo "
    "evaluate` takes.",
)
@click.option(
    "--part",
    type=click.Choice(["train", "validation", "test"]),
    help="Which part of --source; all of it when not given.",
)
@click.option(
    "--most-images",
    type=click.IntRange(min=1),
    default=5000,
    show_default=True,
    help="Of a larger --source so many images are drawn.",
)
@click.option(
    "--since",
    callback=_moment,
    metavar="SPAN|MOMENT",
    help="Only what was logged since then: 30m, 24h, 7d, or a date and time (UTC).",
)
@click.option(
    "--psi-warn",
    type=click.FloatRange(0, min_open=True),
    default=0.1,
    show_default=True,
    help="Population stability index of a histogram that is worth a look.",
)
@click.option(
    "--psi-alarm",
    type=click.FloatRange(0, min_open=True),
    default=0.25,
    show_default=True,
    help="And that ends with exit code 4.",
)
@click.option(
    "--mmd-warn",
    type=click.FloatRange(0, min_open=True),
    default=0.02,
    show_default=True,
    help="Squared maximum mean discrepancy of vectors that is worth a look.",
)
@click.option(
    "--mmd-alarm",
    type=click.FloatRange(0, min_open=True),
    default=0.05,
    show_default=True,
    help="And that ends with exit code 4.",
)
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.01,
    show_default=True,
    help="The chance, over all comparisons together, to call chance a change.",
)
@click.option(
    "--ignore", "ignored", multiple=True, metavar="STATISTIC", help="Leave one out, e.g. width."
)
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write one page.")
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON document.")
def drift(
    version: Path,
    log: Path | None,
    source: str | None,
    part: str | None,
    most_images: int,
    since: datetime | None,
    psi_warn: float,
    psi_alarm: float,
    mmd_warn: float,
    mmd_alarm: float,
    alpha: float,
    ignored: tuple[str, ...],
    html: Path | None,
    as_json: bool,
) -> None:
    """Compares what servers saw with what VERSION was trained on.

    LOG is the folder that `convzoo serve --drift-log` writes into; --source compares images.

    Exit codes: 0 no drift, 2 usage, 3 what cannot be read, 4 drift, 5 too little to tell.

    \b
    convzoo drift models/lenet5_modern/2 drift --since 24h --html drift.html
    convzoo drift models/lenet5_modern/2 --source new_photos.zip
    """
    from training import drift as drifts

    if (log is None) == (source is None):
        raise click.UsageError("Either LOG or --source says what is compared.")
    if source is None and part is not None:
        raise click.UsageError("--part belongs to --source.")
    if log is None and since is not None:
        raise click.UsageError("--since belongs to LOG.")
    for name, warn, alarm in (("psi", psi_warn, psi_alarm), ("mmd", mmd_warn, mmd_alarm)):
        if warn > alarm:
            raise click.UsageError(f"--{name}-warn {warn:g} is above --{name}-alarm {alarm:g}.")
    asked = drifts.Thresholds(
        psi_warn=psi_warn,
        psi_alarm=psi_alarm,
        mmd_warn=mmd_warn,
        mmd_alarm=mmd_alarm,
        alpha=alpha,
    )
    manifest, baseline, sha256 = drifts.read_version(version)
    if log is not None:
        seen = drifts.read_log(log, manifest, baseline, sha256, since)
    else:
        seen = _observed(version, manifest, baseline, str(source), part, most_images)
    report = drifts.compare(manifest, baseline, seen, asked, ignored)
    if html is not None:
        from training.drift_page import render

        before = {name: rows.array() for name, rows in baseline.embeddings.items()}
        _write(html, render(report, before, seen.embeddings))
    if as_json:
        click.echo(report.model_dump_json())
    elif report.findings:
        show(report)
    raise_outcome(report, is_since=since is not None)


def _observed(
    version: Path,
    manifest: "Manifest",
    baseline: "Baseline",
    source: str,
    part: str | None,
    most: int,
) -> "Seen":
    try:
        from training.observe import observe

        return observe(
            version,
            manifest,
            baseline,
            source,
            part=part,
            most=most,
            talk=lambda line: click.echo(line, err=True),
        )
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"To compare images, {error.name} is needed, which is not installed: "
            "pip install 'convzoo[train]'. A log can be compared without."
        ) from error


def _write(place: Path, page: str) -> None:
    from zoo.errors import UsageError

    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--html {place} cannot be written: {error.strerror}.") from error


COLOURS = {"ok": "green", "warn": "yellow", "alarm": "red", "unclear": "yellow"}


def show(report: "DriftReport") -> None:
    """The report as a table."""
    from rich.table import Table

    from training.drift import heading
    from zoo.console import print_table, result_console

    table = Table(title=heading(report))
    for column in ("statistic", "", "images", "change", "by chance", "KS", "p (Holm)"):
        is_text = column in ("statistic", "")
        table.add_column(column, justify="left" if is_text else "right", no_wrap=is_text)
    for each in report.findings:
        table.add_row(
            each.name,
            f"[{COLOURS[each.verdict]}]{each.verdict}[/]",
            f"{each.now_images:,}",
            f"{'PSI' if each.measure == 'PSI' else 'MMD²'} {each.value:.3f}",
            f"< {each.by_chance:.3f}",
            "" if each.ks is None else f"{each.ks:.3f}",
            f"{each.corrected_p:.2g}",
        )
    print_table(table)
    if report.movers and any(
        each.name == "class" and each.verdict in ("warn", "alarm") for each in report.findings
    ):
        moved = ", ".join(
            f"{each.label} {each.before:.1%} → {each.now:.1%}" for each in report.movers[:5]
        )
        result_console().print(f"Answers: {moved}", highlight=False)


def raise_outcome(report: "DriftReport", *, is_since: bool) -> None:
    """Ends with 4 or 5 when there is drift, or too little to tell.

    Args:
        report: What was found.
        is_since: Whether older windows were left out.

    Raises:
        DriftError: there is.
        InconclusiveError: the images are too few.
    """
    from training.drift import images_needed
    from zoo.errors import DriftError, InconclusiveError

    what = f"version {report.version} of {report.model!r}"
    if report.outcome == "alarm":
        names = ", ".join(
            f"{each.name} ({'PSI' if each.measure == 'PSI' else 'MMD²'} {each.value:.2f})"
            for each in report.findings
            if each.verdict == "alarm"
        )
        raise DriftError(f"What {what} is asked is not what it was trained on: {names}.")
    if report.outcome == "inconclusive":
        if not report.images:
            raise InconclusiveError(
                f"{report.source} has nothing of {what}"
                f"{' in that time' if is_since else ''}; it has {_contents(Path(report.source))}."
            )
        needed = images_needed(report)
        raise InconclusiveError(
            f"{report.images:,} images do not tell whether what {what} is asked has drifted; "
            + (
                f"about {needed:,} would."
                if needed is not None
                else "its baseline has too few images for these thresholds."
            )
        )


def _contents(log: Path) -> str:
    """Which versions a log has windows of, and the newest one's time."""
    from zoo.drift.records import window_files

    newest = {path.parent: path.name[:16] for path in window_files(log)}
    listed = [
        f"{folder.parent.name} version {folder.name} (last {last})"
        for folder, last in list(newest.items())[:10]
    ]
    return ", ".join(listed) or "no windows at all"
