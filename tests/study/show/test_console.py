"""Printing to terminals of any width."""

import io

import pytest
from rich.console import Console
from rich.text import Text

from dropopt.study.show.console import SafeConsole, complain, make_console, say, say_command
from dropopt.study.show.display import Display
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


def test_lines_wrap_in_a_notebook(monkeypatch):
    """It does not break lines itself, so the end of a verdict was out of sight."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert make_console().soft_wrap is False
    monkeypatch.setattr("rich.console._is_jupyter", lambda: False)
    assert make_console().soft_wrap is True  # standard output of a test is no terminal


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


def test_a_table_that_is_too_narrow_for_words_is_a_list():
    """Each cell follows the heading of its column, and its words are not cut; text may look like markup."""
    table = Table("study", "trials", "best\nvalue", "", "last activity", title="studies")
    table.add_row("digits[1]", "1 interrupted", Text("-"), "best", "2026-11-28 05:54")
    table.add_row("x", "2 complete", Text("0.9"), "", "2026-11-28 05:55")
    console = narrow(35)
    console.print(table, markup=False)
    first = ["study: digits[1]", "trials: 1 interrupted", "best value: -", "best", "last activity: 2026-11-28 05:54"]
    second = ["study: x", "trials: 2 complete", "best value: 0.9", "", "last activity: 2026-11-28 05:55"]
    assert [line.rstrip() for line in console.file.getvalue().splitlines()] == ["studies", *first, "", *second, ""]
    wider = narrow(45)
    wider.print(table, markup=False)
    assert "study: " not in wider.file.getvalue()


def test_texts_do_not_control_the_terminal():
    """Names from a shared storage could clear the screen otherwise; tables stay aligned and styles work."""
    evil = "a\x1b[2J\x9b1A\rb\x07"
    table = Table("study")
    table.add_row(evil)
    console = SafeConsole(file=io.StringIO(), width=50, force_terminal=True)
    say(console, evil, "bold")
    console.print(table)
    shown = console.file.getvalue()
    assert shown.startswith("\x1b[1ma[2J1Ab\x1b[0m\n")
    assert not any(control in shown for control in ("\x1b[2J", "\x9b", "\r", "\x07"))
    assert len({len(Text.from_ansi(line)) for line in shown.splitlines()[1:]}) == 1


def test_colours_in_a_pipe_redraw_nothing(monkeypatch, capsys):
    """FORCE_COLOR asks for colours alone: each redraw would be printed, and lines would be broken at 80 columns."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    console = make_console()
    with Display(console) as display:
        display.draw(Text("drawn"))
        assert not display.is_live
    say(console, "word " * 50, "yellow")
    written = capsys.readouterr().out
    assert "drawn" not in written
    assert "\x1b[33mword" in written
    assert len(written.splitlines()) == 1


@pytest.mark.parametrize("forced", ["", "1"])
def test_names_are_printed_as_they_are(forced, monkeypatch, capsys):
    """rich reads ``:five:`` as an emoji and ``[red]`` as a colour, also in a table and its title."""
    monkeypatch.setenv("FORCE_COLOR", forced)
    name = "own:five: [red]a"
    console = make_console()
    say(console, name)
    table = Table(name, title=name)
    table.add_row(name)
    console.print(table)
    complain(make_console(quiet=True), name)
    written = capsys.readouterr()
    assert written.out.count(name) == 4
    assert written.err == f"dropopt: {name}\n"
