"""The documentation: public names have docstrings with examples, and links, paths and commands in *.md files exist."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
from pathlib import Path

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
    """Return the name of a page in the ids of tests."""
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_have_examples_and_arguments(name):
    """A public class or function has a summary, an example and a description of its arguments.

    A configuration model may describe its arguments in its fields instead.
    """
    value = PUBLIC[name]
    text = inspect.cleandoc(value.__doc__ or "")
    assert text.partition("\n")[0].endswith("."), "the first line is a sentence"
    assert ">>> " in text, "an example is missing"
    if isinstance(value, type) and issubclass(value, Exception):
        return
    described = re.search(r"^(Args|Attributes):$", text, re.MULTILINE) is not None
    if isinstance(value, type) and issubclass(value, BaseModel):
        described |= all(field.description for field in value.model_fields.values())
    assert described or not inspect.signature(value).parameters, "an Args: section is missing"


@pytest.mark.parametrize("path", PAGES, ids=page)
def test_links_lead_somewhere(path):
    """Relative links name a file and, after ``#``, one of its headings."""
    for link in (one or other for one, other in LINK.findall(path.read_text())):
        if "://" in link:
            continue
        file, _, heading = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), f"{page(path)} links to {link}"
        if heading:
            assert heading in headings(target), f"{page(path)} links to {link}"


@pytest.mark.parametrize("path", PAGES, ids=page)
def test_paths_exist(path):
    """A path in a code span names a file or a folder of the repository."""
    missing = [name for name in PATH.findall(path.read_text()) if not (ROOT / name).exists()]
    assert not missing, f"{page(path)} names {missing}"


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


@pytest.mark.parametrize(("where", "line"), command_lines())
def test_commands_exist(where, line):
    """Commands and options in the documentation are those of the command line."""
    program, *words = shlex.split(line)
    options = {word.partition("=")[0] for word in words if re.fullmatch(r"--?[a-z][\w-]*(=.*)?", word)}
    if program == "dropopt" and words[0].startswith("-"):
        group = typer.main.get_command(cli.app)
        assert words[0] in {option for parameter in group.params for option in parameter.opts} | {"--help"}
        return
    if program != "python":
        command, known = words[0], dropopt_options(words[0])
    elif words[0] == "-m" and words[1].startswith("tests.benchmarks"):
        command = words[1]
        known = set(re.findall(r'"(--[\w-]+)"', benchmark(command).read_text()))
    elif words[0].startswith("studies/"):
        command = words[0]
        assert (ROOT / command).is_file() or "NAME" in command, f"{where}: {line}"
        known = dropopt_options("run")
    else:
        return
    unknown = options - {"-m", "--help"} - known
    assert not unknown, f"{where}: {command} has no option {', '.join(sorted(unknown))}"


def dropopt_options(name: str) -> set[str]:
    """The options of ``dropopt NAME``."""
    group = typer.main.get_command(cli.app)
    assert name in group.commands, f"there is no command dropopt {name}"
    return {option for parameter in group.commands[name].params for option in parameter.opts}


def benchmark(module: str) -> Path:
    """The file of a benchmark."""
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"there is no module {module}"
    assert spec.origin is not None
    return Path(spec.origin)


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
