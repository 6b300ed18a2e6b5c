"""Printing to the terminal, a pipe or a file."""

from __future__ import annotations

import sys
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.status import Status

from dropopt.formats import printable


class SafeConsole(Console):
    """A console that prints names of studies, functions and classes as they are, also ``own:five:`` and ``[red]``.

    It leaves out control characters: otherwise whoever writes to a shared storage could move the cursor of the others'
    terminals and rewrite what they show. They have no width, so tables stay aligned.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of ``renderable``; those that control the terminal are rich's own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def make_console(*, quiet: bool = False, stderr: bool = False) -> Console:
    """A console on standard output. Lines wrap in a terminal and in a notebook, and not in a pipe or a file.

    Args:
        quiet: Whether the console prints nothing.
        stderr: Whether it prints to standard error instead.
    """
    console = SafeConsole(quiet=quiet, stderr=stderr)
    if console.is_terminal and not console.is_jupyter and not console.file.isatty():
        # FORCE_COLOR asks for colours in a pipe or a file, but lines cannot be redrawn there.
        colours: Any = console.color_system  # its type is wider than that of the argument
        console = SafeConsole(quiet=quiet, stderr=stderr, force_terminal=False, color_system=colours)
    console.soft_wrap = not (console.is_terminal or console.is_jupyter)
    return console


def busy(what: str, *, quiet: bool = False) -> Status:
    """A context that shows ``what`` with a spinner on standard error while it runs, if that is a terminal.

    Args:
        what: What is done, such as ``drawing the charts``.
        quiet: Whether nothing is shown.
    """
    # In a notebook, and where FORCE_COLOR is set, rich would print each turn of the spinner.
    seen = sys.stderr is not None and sys.stderr.isatty()
    return SafeConsole(stderr=True, quiet=quiet or not seen, force_jupyter=False).status(what)


def complain(console: Console, text: str) -> None:
    """Print an error on standard error if ``console`` is quiet, so that no command fails in silence."""
    if console.quiet:
        SafeConsole(stderr=True, soft_wrap=True).print(f"dropopt: {text}", highlight=False)


def say(console: Console, text: str, style: str = "", *, indent: int = 0) -> None:
    """Print ``text`` literally: brackets are not markup, and numbers are not highlighted.

    Args:
        console: Where to print.
        text: The text.
        style: Its style.
        indent: Spaces before each further line on a terminal.
    """
    if indent and console.is_terminal and indent < console.width // 2:
        lines = textwrap.wrap(text, console.width, subsequent_indent=" " * indent, break_on_hyphens=False)
        text = "\n".join(lines)
    console.print(text, style=style, markup=False, highlight=False)


@contextmanager
def warnings_as_notes(console: Console) -> Iterator[None]:
    """A context in which Python's warnings are printed as notes, without the line of code that they come from."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: say(console, f"note: {message}", "yellow")
        yield


def say_command(console: Console, word: str, command: str) -> None:
    """Print a command behind what it does. It is not broken into lines, so that it can be copied as a whole."""
    console.print(f"  {word:<8}{command}", markup=False, highlight=False, soft_wrap=True)
