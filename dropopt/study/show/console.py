"""Printing to the terminal, a pipe or a file."""

from __future__ import annotations

from rich.console import Console
from rich.status import Status


def make_console(*, quiet: bool = False, stderr: bool = False) -> Console:
    """A console on standard output. Lines wrap at the width of a terminal and are not broken in a pipe or a file.

    Args:
        quiet: Whether the console prints nothing.
        stderr: Whether it prints to standard error instead.
    """
    console = Console(quiet=quiet, stderr=stderr)
    console.soft_wrap = not console.is_terminal
    return console


def busy(what: str) -> Status:
    """A context that shows ``what`` with a spinner on standard error while it runs, if that is a terminal."""
    return Console(stderr=True).status(what)


def say(console: Console, text: str, style: str = "") -> None:
    """Print ``text`` literally: brackets are not markup, and numbers are not highlighted."""
    console.print(text, style=style, markup=False, highlight=False)
