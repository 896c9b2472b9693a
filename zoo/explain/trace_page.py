"""The trace of a small network as one HTML page that needs nothing else, not even a network."""

import html
import json
from importlib.resources import files
from typing import Any

from zoo.explain.methods import Explanation, Subject
from zoo.explain.trace_picture import sentence

# The page runs its own script and styles, and loads nothing from anywhere.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --faint: #59636e; --line: #ced4da; --accent: #0550ae; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --paper: #14181d; --faint: #9aa5b1; --line: #3d444d; --accent: #58a6ff; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 70rem; margin: 0 auto; padding: 1rem; }
button { font: inherit; padding: .3rem .8rem; min-height: 2.2rem; border: 1px solid var(--line); border-radius: .4rem; background: transparent; color: inherit; cursor: pointer; }
button:disabled { opacity: .5; cursor: default; }
button.primary { background: var(--accent); color: var(--paper); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.faint { color: var(--faint); }
li { margin: .2rem 0; font-variant-numeric: tabular-nums; }
"""

BOOT = """
const told = JSON.parse(document.getElementById("trace").textContent);
const language = navigator.language.startsWith("zh") ? "zh" : "en";
new TraceView(document.getElementById("view"), told, TRACE_WORDS[language]);
"""


def trace_page(found: Explanation, subject: Subject) -> str:
    """A page with the animation, and every step's strongest unit in words.

    Args:
        found: What the method "trace" gave.
        subject: What it was asked of.
    """
    folder = files("zoo.explain") / "page"
    script = (folder / "trace.js").read_text(encoding="utf-8")
    style = (folder / "trace.css").read_text(encoding="utf-8")
    facts = found.facts
    best = max(range(len(facts["probabilities"])), key=facts["probabilities"].__getitem__)
    verdict = f"{subject.label(best)}, probability {facts['probabilities'][best]:.4f}"
    listed = "\n".join(
        f"<li><b>{html.escape(step['layer'])}</b>: "
        f"{html.escape(sentence(step, subject.labels))}</li>"
        for step in facts["steps"]
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Step by step: {html.escape(verdict)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
<main>
<h1>Step by step: {html.escape(verdict)}</h1>
<div id="view"></div>
<h2>The strongest unit of each step</h2>
<ol>
{listed}
</ol>
</main>
<script type="application/json" id="trace">{_embedded(_told(found))}</script>
<script type="module">
{script}
{BOOT}</script>
</body>
</html>
"""


def _told(found: Explanation) -> dict[str, Any]:
    return {
        **found.facts,
        "arrays": {
            name: {
                "shape": list(array.shape),
                # Six digits are more than anybody reads, and half the page.
                "data": [float(f"{value:.6g}") for value in array.ravel().tolist()],
            }
            for name, array in found.arrays.items()
        },
    }


def _embedded(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
