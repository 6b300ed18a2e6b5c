"""The documentation: public names have docstrings with examples, and links, paths and commands in *.md files exist."""

from __future__ import annotations

import functools
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

import dropopt
import dropopt.study
from dropopt import cli, equations, training
from dropopt.study.define import shipped

ROOT = Path(__file__).parent.parent
FOLDERS = (".github", "dropopt", "search_spaces", "studies", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])

PUBLIC = {
    **{f"dropopt.{name}": getattr(dropopt, name) for name in dropopt.__all__},
    **{f"dropopt.study.{name}": getattr(dropopt.study, name) for name in dropopt.study.__all__},
    "dropopt.training.fit": training.fit,
    **{
        f"dropopt.equations.{name}": value
        for name, value in vars(equations).items()
        if inspect.isfunction(value) and value.__module__ == equations.__name__ and not name.startswith("_")
    },
}

#: Markdown links and the sources of images.
LINK = re.compile(r'\]\(([^)\s]+)\)|src="([^"]+)"')
#: A path of the repository in a code span, such as `tests/conftest.py`; patterns and calls are not paths.
PATH = re.compile(rf"`((?:{'|'.join(map(re.escape, FOLDERS))})/[\w./-]*)`")
#: A code block: its language and its text.
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPACES = ROOT / "search_spaces" / "README.md"


def page(path: Path) -> str:
    """Return the name of a page."""
    return path.relative_to(ROOT).as_posix()


def test_public_names_have_examples_and_arguments():
    """A public class or function has a summary, an example and a description of its arguments."""
    assert {name: lacks for name, value in PUBLIC.items() if (lacks := missing_parts(value))} == {}


def missing_parts(value: Any) -> list[str]:
    """What a docstring lacks. A configuration model may describe its arguments in its fields instead."""
    text = inspect.cleandoc(value.__doc__ or "")
    described = re.search(r"^(Args|Attributes):$", text, re.MULTILINE) is not None
    if isinstance(value, type) and issubclass(value, BaseModel):
        described |= all(field.description for field in value.model_fields.values())
    if isinstance(value, type) and issubclass(value, Exception):
        described = True
    parts = {
        "a first line that is a sentence": text.partition("\n")[0].endswith("."),
        "an example": ">>> " in text,
        "an Args: section": described or not inspect.signature(value).parameters,
    }
    return [part for part, found in parts.items() if not found]


def test_links_lead_somewhere():
    """Relative links name a file and, after ``#``, one of its headings."""
    links = [(path, one or other) for path in PAGES for one, other in LINK.findall(path.read_text())]
    assert [f"{page(path)}: {link}" for path, link in links if "://" not in link and not leads(path, link)] == []


def leads(path: Path, link: str) -> bool:
    """Whether a relative link of a page names a file and a heading that exist."""
    file, _, heading = link.partition("#")
    target = path.parent / file if file else path
    return target.exists() and (not heading or heading in headings(target))


def test_paths_exist():
    """A path in a code span names a file or a folder of the repository."""
    named = [(path, name) for path in PAGES for name in PATH.findall(path.read_text())]
    assert [f"{page(path)}: {name}" for path, name in named if not (ROOT / name).exists()] == []


def headings(path: Path) -> set[str]:
    """The anchors that a forge gives to the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", re.sub(FENCE, "", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


def command_lines() -> list[tuple[str, str]]:
    """Every command in the pages, with its page: the lines of code blocks, and code spans that start like one."""
    found = []
    for path in PAGES:
        text = path.read_text()
        lines = [line for language, block in FENCE.findall(text) if language == "sh" for line in block.splitlines()]
        lines += re.findall(r"`([^`\n]+)`", re.sub(FENCE, "", text))
        for line in lines:
            for part in re.split(r"&&|\s#\s", line):
                words = part.split()
                if words[:1] in (["dropopt"], [".venv/bin/dropopt"], ["python"]) and len(words) > 1:
                    found.append((page(path), part.strip()))
    return found


def test_commands_exist():
    """Commands and options in the documentation are those of the command line."""
    lines = command_lines()
    assert len(lines) > 100
    assert [f"{where}: {line}" for where, line in lines if not can_be_typed(line)] == []


def can_be_typed(line: str) -> bool:
    """Whether the command of a line exists and has its options; other programs' options are not known."""
    program, *words = shlex.split(line)
    options = {word.partition("=")[0] for word in words if re.fullmatch(r"--?[a-z][\w-]*(=.*)?", word)}
    if program != "python":
        known = dropopt_options(None if words[0].startswith("-") else words[0])
    elif words[0] == "-m" and words[1].startswith("tests.benchmarks"):
        file = ROOT / f"{words[1].replace('.', '/')}.py"
        known = set(re.findall(r'"(--[\w-]+)"', file.read_text())) if file.is_file() else None
    elif words[0].startswith("studies/"):
        known = dropopt_options("run") if (ROOT / words[0]).is_file() or "NAME" in words[0] else None
    else:
        return True
    return known is not None and options <= {"-m", "--help", *known}


@functools.cache
def dropopt_options(name: str | None) -> set[str] | None:
    """The options of ``dropopt NAME``, or of ``dropopt`` alone; None if there is no such command."""
    group = typer.main.get_command(cli.app)
    command = group.commands.get(name) if name else group
    return command and {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize("kind", ["studies", "search_spaces"])
def test_every_shipped_file_is_described(kind):
    """The README of the folder names each study or space."""
    text = (ROOT / kind / "README.md").read_text()
    assert [name for name in shipped.names(kind) if f"`{name}`" not in text] == []


@pytest.mark.parametrize(
    "block", [block for language, block in FENCE.findall(SPACES.read_text()) if language == "yaml"]
)
def test_example_spaces_are_legal(tmp_path, block):
    """The examples of search spaces can be used as they are."""
    path = tmp_path / "space.yaml"
    path.write_text(block)
    assert dropopt.study.Space.load(path).parameters


def test_numbers_of_parameters():
    """The README of the spaces gives the right number of parameters for each."""
    text = SPACES.read_text()
    for name in shipped.names("search_spaces"):
        count = re.search(rf"^\| `{name}`.*\| (\d+) \|$", text, re.MULTILINE)
        assert count is not None
        assert int(count[1]) == len(dropopt.study.Space.load(name).parameters)
