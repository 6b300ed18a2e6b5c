"""Parts of error messages about networks."""

from __future__ import annotations

import difflib


def close_matches(name: str, known: list[str]) -> str:
    """``; did you mean ...?`` with up to three similar names, or an empty string."""
    near = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def first_line(error: Exception) -> str:
    """The first line of an error's message, with its type where the message alone would not explain it."""
    text = (str(error) or type(error).__name__).splitlines()[0]
    return f"{type(error).__name__}: {text}" if isinstance(error, LookupError | AttributeError | NameError) else text
