"""Parts of error messages about networks."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def close_matches(name: str, known: list[str]) -> str:
    """``; did you mean ...?`` with up to three similar names, or an empty string."""
    near = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def elsewhere(name: str, here: Sequence[str]) -> list[str]:
    """The networks of torchvision and timm that ``name``, without the library's name, may mean.

    Args:
        name: The name that was given.
        here: Names that need no library; if one of them is closer to ``name``, the result is empty.

    Returns:
        ``torchvision:NAME`` and ``timm:NAME`` where they have that name; else the closest name, if there is one.
    """
    folded = name.casefold()
    libraries = {"torchvision": _torchvision(), "timm": _timm()}
    if exact := [f"{library}:{folded}" for library, names in libraries.items() if folded in names]:
        return exact
    names = {one: f"{library}:{one}" for library in reversed(libraries) for one in libraries[library]}
    near = difflib.get_close_matches(folded, [*here, *names], n=1)
    return [names[near[0]]] if near and near[0] not in here else []


def first_line(error: Exception) -> str:
    """The first line of an error's message, with its type where the message alone would not explain it."""
    text = (str(error) or type(error).__name__).splitlines()[0]
    return f"{type(error).__name__}: {text}" if isinstance(error, LookupError | AttributeError | NameError) else text


def _torchvision() -> set[str]:
    from torchvision import models

    return set(models.list_models(module=models))


def _timm() -> set[str]:
    try:
        import timm
    except ImportError:
        return set()
    return set(timm.list_models())
