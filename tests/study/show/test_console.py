"""Printing to terminals of any width."""

import io

from rich.console import Console

from dropopt.study.show.console import say, say_command
from dropopt.study.show.table import Table


def narrow(width=50):
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)


def test_lines_are_indented_and_commands_stay_whole():
    """Further lines begin behind the first word; a command can be copied as one line."""
    console = narrow()
    say(console, "  data      " + "1,797 images of handwritten digits " * 3, indent=12)
    say_command(console, "export", "dropopt export --study long-name --storage sqlite:///long/path.db -o best.yaml")
    *text, command = console.file.getvalue().splitlines()
    assert all(line.startswith(" " * 12) for line in text[1:])
    assert len(text) > 2
    assert command.endswith("-o best.yaml")


def test_numbers_in_a_narrow_table_are_not_cut_off():
    """Neither are names: they are wrapped."""
    table = Table("anchor", "trial", "error (smoothed)", "accuracy", "best trial's error", "seconds")
    table.add_row("engine's default, with a long name", "12", "0.000133", "0.9226", "is the best trial", "74.6")
    console = narrow()
    console.print(table)
    shown = console.file.getvalue()
    assert "…" not in shown
    assert "0.000133" in shown
    assert "0.9226" in shown
