"""A comparison with the training data as one HTML page that needs no other file and no network."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

import numpy as np

from training.drift import WORDS, DriftReport, Finding, heading
from training.html import document
from zoo.drift.measures import Floats

STYLE = """
.chip { padding: .1rem .5rem; border-radius: .7rem; font-size: .85em; color: #fff }
.ok { background: #3a7d44 } .warn, .unclear, .inconclusive { background: #96690a }
.alarm { background: #b3261e }
.wide { overflow-x: auto }
figure { display: inline-block; margin: 0 1.5rem 1.5rem 0; vertical-align: top }
figcaption { max-width: 28rem; min-height: 3em }
svg { font: 10px system-ui, sans-serif; fill: currentColor; max-width: 100%; height: auto }
.before { fill: #8a949e } .now { fill: #3b76af }
svg .dot { fill-opacity: .55 }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 1em }
.key.before { background: #8a949e } .key.now { background: #3b76af }
"""
WIDTH, HEIGHT, FOOT = 430, 150, 42
MOST_DOTS = 300


def render(report: DriftReport, before: Mapping[str, Floats], now: Mapping[str, Floats]) -> str:
    """The page.

    Args:
        report: What was found.
        before: The baseline's vectors, by name.
        now: Those of what came.
    """
    title = heading(report)
    parts = [
        f"<h1>{escape(report.model)} version {report.version} {_chip(report.outcome)}</h1>",
        f"<p>{escape(title.rpartition(':')[0])}. {_verdict(report)}</p>",
        _table(report),
        '<h2>Shares</h2><p><span class="key before"></span>training data'
        '<span class="key now"></span>what came. The bins hold about a tenth of the training data each; '
        "the two outermost ones lie beyond all of it.</p>",
    ]
    parts += [_figure(each, _bars(each)) for each in report.findings if each.measure == "PSI"]
    vectors = [each for each in report.findings if each.measure == "MMD2"]
    if vectors:
        parts.append(
            "<h2>Vectors</h2><p>Each dot is an image, shown along the two directions in which the "
            "training data differ most.</p>"
        )
        parts += [_figure(each, _dots(before[each.name], now[each.name])) for each in vectors]
    parts.append(_movers(report))
    asked = report.thresholds
    parts.append(
        f"<p>Drift is a PSI of {asked.psi_alarm:g} or an MMD² of {asked.mmd_alarm:g} that chance "
        f"does not explain (corrected p below {asked.alpha:g}); worth a look are {asked.psi_warn:g} "
        f"and {asked.mmd_warn:g}. It is unclear where chance alone may reach the alarm"
        + (f". Left out: {escape(', '.join(report.ignored))}" if report.ignored else "")
        + ".</p>"
    )
    return document(title, parts, STYLE)


def _verdict(report: DriftReport) -> str:
    return {
        "ok": "What came looks like the training data.",
        "warn": "Something has changed, by less than the alarm.",
        "alarm": "What came is not what the version was trained on.",
        "inconclusive": "The images are too few to tell.",
    }[report.outcome]


def _chip(word: str) -> str:
    return f'<span class="chip {word}">{word}</span>'


def _table(report: DriftReport) -> str:
    rows = "".join(
        f"<tr><td>{escape(each.name)}</td><td>{_chip(each.verdict)}</td>"
        f"<td>{each.before_images:,}</td><td>{each.now_images:,}</td>"
        f"<td>{_change(each)}</td><td>&lt; {each.by_chance:.3f}</td>"
        f"<td>{'' if each.ks is None else f'{each.ks:.3f}'}</td><td>{each.corrected_p:.2g}</td></tr>"
        for each in report.findings
    )
    return (
        '<div class="wide"><table><tr><th></th><th></th><th>training images</th>'
        "<th>images that came</th><th>change</th><th>by chance</th><th>KS</th><th>p (Holm)</th></tr>"
        f"{rows}</table></div>"
    )


def _change(found: Finding) -> str:
    return f"{'PSI' if found.measure == 'PSI' else 'MMD²'} {found.value:.3f}"


def _figure(found: Finding, picture: str) -> str:
    base, _, channel = found.name.partition("_")
    words = WORDS.get(base, "") + (f", {channel}" if channel else "")
    return (
        f"<figure><figcaption><b>{escape(found.name)}</b> {_chip(found.verdict)} "
        f"{_change(found)}<br>{escape(words)}</figcaption>{picture}</figure>"
    )


def _bars(found: Finding) -> str:
    """Shares of both, bin by bin."""
    names = found.groups or _spans(found.edges)
    most = max(*found.before, *found.now, 1e-9)
    step = WIDTH / len(names)
    bar = step * 0.42
    shapes = []
    for place, (name, before, now) in enumerate(zip(names, found.before, found.now, strict=True)):
        left = place * step
        for kind, share, at in (("before", before, left), ("now", now, left + bar)):
            height = (HEIGHT - 4) * share / most
            shapes.append(
                f'<rect class="{kind}" x="{at:.1f}" y="{HEIGHT - height:.1f}" width="{bar:.1f}" '
                f'height="{height:.1f}"><title>{escape(name)}: {share:.1%}</title></rect>'
            )
    return _svg(
        "".join(shapes) + _names(found, names, step),
        f"{found.name}: shares of the training data and of what came, bin by bin",
    )


def _names(found: Finding, names: Sequence[str], step: float) -> str:
    """What stands below the bars: classes below them, edges between them."""
    line = f'<path d="M0 {HEIGHT}H{WIDTH}" stroke="currentColor"/>'
    if found.groups:
        texts = [((place + 0.42) * step, name) for place, name in enumerate(names)]
    else:
        texts = []
        for place, edge in enumerate(found.edges):
            text = f"{edge:.3g}"
            if texts and texts[-1][1] == text:
                # Both sides of a bin for one value: its name stands below the bin.
                texts[-1] = ((place + 0.42) * step, text)
            else:
                texts.append(((place + 0.92) * step, text))
    is_tight = any(len(text) * 6 > step for _, text in texts)
    return line + "".join(
        f'<text transform="translate({at:.1f} {HEIGHT + 12}) '
        + ('rotate(-50)" text-anchor="end">' if is_tight else '" text-anchor="middle">')
        + f"{escape(text if len(text) < 9 else text[:8] + '…')}</text>"
        for at, text in texts
    )


def _spans(edges: tuple[float, ...]) -> tuple[str, ...]:
    inner = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)]
    return (f"below {edges[0]:.4g}", *inner, f"above {edges[-1]:.4g}")


def _dots(before_nd: Floats, now_md: Floats) -> str:
    """Both samples along the baseline's two main directions."""
    middle = before_nd.mean(0)
    axes = np.linalg.svd(before_nd - middle, full_matrices=False)[2][:2].T
    flat = {"before": (before_nd - middle) @ axes, "now": (now_md - middle) @ axes}
    both = np.concatenate(list(flat.values()))
    low, high = both.min(0), both.max(0)
    spread = np.where(high > low, high - low, 1)
    shapes = []
    for kind, points in flat.items():
        for point in points[:MOST_DOTS]:
            x, y = (
                (*((point - low) / spread), 0.5) if len(point) == 1 else (point - low) / spread
            )[:2]
            shapes.append(
                f'<circle class="dot {kind}" r="2.5" cx="{4 + x * (WIDTH - 8):.1f}" '
                f'cy="{4 + (1 - y) * (HEIGHT + FOOT - 8):.1f}"/>'
            )
    return _svg("".join(shapes), "vectors of the training data and of what came")


def _svg(inside: str, words: str) -> str:
    return (
        f'<svg role="img" aria-label="{escape(words)}" viewBox="-14 0 {WIDTH + 20} {HEIGHT + FOOT}" '
        f'width="{WIDTH + 20}" height="{HEIGHT + FOOT}">{inside}</svg>'
    )


def _movers(report: DriftReport) -> str:
    if not report.movers:
        return ""
    rows = "".join(
        f"<tr><td>{escape(each.label)}</td><td>{each.before:.1%}</td><td>{each.now:.1%}</td>"
        f"<td>{each.now - each.before:+.1%}</td></tr>"
        for each in report.movers
    )
    return (
        "<h2>Answers whose share changed most</h2><table><tr><th>class</th><th>training</th>"
        f"<th>what came</th><th>change</th></tr>{rows}</table>"
    )
