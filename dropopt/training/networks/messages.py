"""Parts of error messages about networks."""

from __future__ import annotations


def first_line(error: Exception) -> str:
    """The first line of an error's message, with its type where the message alone would not explain it."""
    text = (str(error) or type(error).__name__).splitlines()[0]
    return f"{type(error).__name__}: {text}" if isinstance(error, LookupError | AttributeError | NameError) else text
