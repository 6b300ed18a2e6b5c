"""The console: how dropopt prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.status import Status

if TYPE_CHECKING:
    pass


def make_console() -> Console:
    """Standard output: lines wrap at the width of a terminal and stay whole in a pipe or a file."""
    console = Console()
    console.soft_wrap = not console.is_terminal
    return console


def busy(what: str) -> Status:
    """A context that shows ``what`` goes on, on a terminal's standard error, and leaves nothing behind."""
    return Console(stderr=True).status(what)


def say(console: Console, text: str, style: str = "") -> None:
    """Print ``text`` as it is: brackets in it are no markup, numbers get no colours."""
    console.print(text, style=style, markup=False, highlight=False)
