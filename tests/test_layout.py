"""The layout of the package: which room may import which, no import cycles, and light top-level imports.

A room is a folder of modules with one subject, such as ``study/run``.
"""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dropopt"

#: What each room may import besides itself. A module belongs to the innermost room that contains it. "root" stands for
#: the modules directly in dropopt/, which all rooms share.
MAY_IMPORT = {
    "root": set(),
    "engine/masks": {"root"},
    "engine/places": {"root"},
    "engine/importance": {"root", "engine/places"},
    "engine": {"root", "engine/masks", "engine/places", "engine/importance"},
    "training/data": {"root"},
    "training/networks": {"root"},
    "training": {"root", "engine", "training/data", "training/networks"},
    "standalone": {"root", "engine", "training", "training/data", "training/networks"},
    "integrations": {"root", "engine", "engine/places/place.py", "training", "study/store"},
    "study/define": {"root"},
    "study/store": {"root", "study/define"},
    "study/blend": {"root"},
    "study/effects": {"root", "study/blend", "study/store/keys.py"},
    "study/search": {"root", "study/define", "study/store", "study/blend"},
    "study/run": {"root", "study/define", "study/store"},
    "study/confirm": {"root", "study/define", "study/store", "study/blend"},
    "study/after": {"root", "standalone", "training", "study/define", "study/store", "study/blend", "study/run"},
    "study/show": {
        *("root", "training", "standalone/model.py"),
        *("study/define", "study/store", "study/blend", "study/effects", "study/search", "study/after"),
        "study/run/messages.py",
        "study/confirm",
    },
    "study/report": {"root", "study/store", "study/blend", "study/search", "study/show"},
    "study/session": {
        *("root", "study/define", "study/store", "study/search", "study/run", "study/confirm", "study/show"),
    },
    "study/command": {
        *("root", "standalone", "study/report", "study/confirm", "study/session"),
        *("study/define", "study/store", "study/blend", "study/effects", "study/search", "study/run", "study/after"),
        "study/show",
    },
    "cli": {"root", "study/command"},
}

#: Packages that only some rooms may import.
ONLY_IN = {
    "optuna": ("study/", "integrations"),
    "optuna_dashboard": "study/show",
    "torch": ("engine", "training", "standalone", "study/run", "study/after", "integrations", "root"),
}

#: Modules that load others when one of their names is first used.
FRONT_DOORS = {"dropopt", "dropopt.study"}

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def room(module: str) -> str:
    """The room of a module: ``study/run`` of ``dropopt.study.run.worker``."""
    if module in ("dropopt.cli", "dropopt.__main__"):
        return "cli"
    parts = MODULES[module].relative_to(PACKAGE).parent.parts
    while parts and "/".join(parts) not in MAY_IMPORT:
        parts = parts[:-1]
    return "/".join(parts) or "root"


@functools.cache
def imports(module: str) -> set[str]:
    """The modules that a module imports: at the top, inside functions and under ``TYPE_CHECKING``.

    ``from dropopt.engine import masks`` imports the module ``dropopt.engine.masks``; ``from dropopt.engine import
    attach`` imports the module ``dropopt.engine``.
    """
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: use an absolute import, not from {'.' * node.level}{node.module or ''}"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else str(node.module))
    return found


def test_every_room_is_in_the_table():
    """Every folder has a line in ``MAY_IMPORT``."""
    folders = {"/".join(path.relative_to(PACKAGE).parent.parts) for path in MODULES.values()} - {"", "study"}
    assert {
        folder for folder in folders if not any(f"{folder}/".startswith(f"{name}/") for name in MAY_IMPORT)
    } == set()


def may_import(module: str, other: str) -> bool:
    """Whether ``MAY_IMPORT`` and ``ONLY_IN`` allow an import."""
    own, top = room(module), other.split(".")[0]
    if top in ONLY_IN:
        return own.startswith(ONLY_IN[top])
    if top != "dropopt" or other in FRONT_DOORS:
        return True
    file = MODULES[other].relative_to(PACKAGE).as_posix()
    return not {room(other), file}.isdisjoint(MAY_IMPORT[own] | {own})


def test_imports_run_one_way():
    """A module imports only its own room and the rooms that ``MAY_IMPORT`` allows."""
    found = [(module, other) for module in MODULES if module not in FRONT_DOORS for other in sorted(imports(module))]
    assert len(found) > 1000
    assert [f"{module} imports {other}" for module, other in found if not may_import(module, other)] == []


def test_there_are_no_import_cycles():
    """No modules import each other in a cycle, even inside functions or under ``TYPE_CHECKING``."""
    left = {name: imports(name) & MODULES.keys() - {name} - FRONT_DOORS for name in MODULES if name not in FRONT_DOORS}
    while ready := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in ready:
            del left[name]
    cycles = {name: sorted(needs & left.keys()) for name, needs in left.items()}
    assert not cycles, f"import cycles: {cycles}"


def test_attaching_knows_no_formula():
    """The modules that find places import no equation."""
    assert not any("equations" in name for m in MODULES if room(m) == "engine/places" for name in imports(m))


#: Imported one after the other, in a process for each line: a module, and packages that are not loaded after it.
LIGHT = [
    {
        "dropopt": ["torch", "optuna", "pydantic"],
        "dropopt.cli, dropopt.study, dropopt.study.command.run, dropopt.study.run.trainer": [
            *("torch", "optuna", "sklearn", "plotly"),
        ],
        "dropopt.study.session.session": ["torch", "scipy.stats", "sklearn", "pandas", "plotly", "sqlalchemy"],
    },
    {"dropopt.engine, dropopt.training": ["torchvision", "torch._dynamo", "zennit", "scipy", "sklearn"]},
]


@pytest.mark.parametrize("modules", LIGHT, ids=list)
def test_imports_are_light(modules):
    """What takes long to import is imported where it is used, so that commands and child processes start quickly."""
    lines = [f"import {module}; print([m for m in {heavy} if m in sys.modules])" for module, heavy in modules.items()]
    code = "import sys\n" + "\n".join(lines)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]"] * len(modules)


def test_every_public_name_resolves():
    """Every name in ``__all__`` can be imported, and other names raise AttributeError."""
    import dropopt
    import dropopt.study

    for package in (dropopt, dropopt.study):
        assert all(getattr(package, name) is not None for name in package.__all__)
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            package.nothing  # noqa: B018


def test_every_package_is_installed():
    """Every folder of modules is listed in pyproject.toml; otherwise it would be missing from a wheel."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert {*folders, "dropopt.studies", "dropopt.search_spaces"} == set(known)
