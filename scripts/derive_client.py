"""Derives `Client` from `AsyncClient`: `python scripts/derive_client.py`; --check compares only."""

import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "serving" / "client"
WRITTEN, DERIVED = FOLDER / "async_client.py", FOLDER / "client.py"

# What the form for tasks says, and the form for threads in its place; in this order.
CHANGES = (
    (
        r'\A"""The client for asyncio;.*?"""',
        '"""The client for threads, derived from `async_client.py` by `scripts/derive_client.py`."""',
    ),
    (r"from any number of tasks of one event loop", "from any number of threads"),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAsync(Client|Transport|Iterator)\b", r"\1"),
    (r"\bopen_async_transport\b", "open_transport"),
    (r"\b(send_hedged|stream)_async\b", r"\1"),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"\basyncio\.sleep\b", "time.sleep"),
    (r"\bimport asyncio\b", "import time"),
)


def derived() -> str:
    """The text of `client.py`."""
    text = WRITTEN.read_text()
    for pattern, replacement in CHANGES:
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    for step in (["check", "--quiet", "--fix", "--select", "I"], ["format", "--quiet"]):
        command = [sys.executable, "-m", "ruff", *step, "--stdin-filename", str(DERIVED), "-"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)  # noqa: S603 - our own words
        text = done.stdout
    return text


if __name__ == "__main__":
    text = derived()
    if "--check" not in sys.argv[1:]:
        DERIVED.write_text(text)
    elif DERIVED.read_text() != text:
        sys.exit(f"{DERIVED.name} is not what {WRITTEN.name} makes of it: run {sys.argv[0]}.")
