"""The frame of every HTML page that is written here: it needs no other file and no network."""

from collections.abc import Iterable
from html import escape

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
  color: #1b1b1b; background: #fff }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left }
img { max-width: 100% }
.bar { display: inline-block; height: .7em; background: #3b76af }
@media (prefers-color-scheme: dark) {
  body { color: #e6e6e6; background: #181818 } th, td { border-color: #444 }
  img { background: #fff } }
"""


def document(title: str, parts: Iterable[str], style: str = "") -> str:
    """A whole page.

    Args:
        title: The page's, as text.
        parts: Its body, as HTML.
        style: More CSS.
    """
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head><body>"
        + "".join(parts)
        + "</body></html>\n"
    )
