"""One wording for every name that does not exist."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(kind: str, asked: str, known: Iterable[str], *, most: int = 30) -> str:
    """Words the error for a name that is not there.

    Args:
        kind: What the name stands for, e.g. "model".
        asked: The name that was asked for.
        known: The names that would have worked.
        most: How many of them to list.

    Returns:
        e.g. "No model 'lenet'. Did you mean 'lenet5'? There are: lenet5, vgg16."
    """
    names = sorted(known)
    text = f"No {kind} {asked!r}."
    close = get_close_matches(asked, names, n=3, cutoff=0.6)
    if close:
        text += f" Did you mean {' or '.join(repr(name) for name in close)}?"
    if not names:
        return f"{text} There are none."
    listed = ", ".join(names[:most]) + (", ..." if len(names) > most else "")
    return f"{text} There are: {listed}."
