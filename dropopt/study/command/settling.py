"""Allowing the import of functions that a stored study names, as ``dropopt train`` does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def settler(code: Sequence[Path], *, trust: bool, quiet: bool = False) -> Callable[[str, tuple[str, ...], Any], None]:
    """Return a function that settles from which files the functions of a study are imported, and prints them.

    Args:
        code: The scripts and folders that the user has named.
        trust: Whether to import without a question.
        quiet: Whether to print nothing.
    """
    import typer

    from dropopt.trust import settle

    def allow(study: str, names: tuple[str, ...], recorded: Any) -> None:
        ask = typer.confirm if sys.stdin.isatty() else None
        for line in settle(names, recorded, given=f"study {study!r}", code=code, trust=trust, ask=ask):
            if not quiet:
                print(line, file=sys.stderr)

    return allow
