"""The house keeps its shape: imports run one way, and the door opens fast."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dropopt"
#: A wing may import from itself and from those before it; `cli` is the last.
WINGS = ["floor", "engine", "training", "study", "cli"]
WITHIN_ENGINE = {
    "places": set(),
    "noise": set(),
    "patterns": {"noise"},
    "spatial": {"noise", "patterns"},
    "allocation": set(),
    "blend": set(),
    "importance": set(),
    "site": {"patterns", "spatial", "importance"},
}


def wing(module: str) -> int:
    part = module.split(".")[1] if "." in module else "floor"
    return WINGS.index(part) if part in WINGS else 0


def imports(path: Path) -> set[str]:
    """Modules that a file imports, at its top or anywhere inside."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "dropopt"}
    return found


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    """{equations, config} -> engine -> training -> study -> cli; only the study knows Optuna."""
    if path == PACKAGE / "__init__.py":
        return  # the front door names every wing, lazily
    own = wing(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for module in imports(path):
        if module.split(".")[0] == "dropopt":
            assert wing(module) <= own, f"{path.name} imports {module}"
        if module.split(".")[0] == "optuna":
            assert WINGS[own] == "study", f"{path.name} imports optuna"


@pytest.mark.parametrize("name", WITHIN_ENGINE)
def test_within_the_engine_mechanism_and_formula_stay_apart(name):
    """What attaches knows no formula, and what draws knows no site."""
    inside = {m.split(".")[2] for m in imports(PACKAGE / "engine" / f"{name}.py") if m.startswith("dropopt.engine.")}
    assert inside <= WITHIN_ENGINE[name]
    if name == "places":
        assert not any("equations" in module for module in imports(PACKAGE / "engine" / "places.py"))


def test_importing_dropopt_is_light():
    """Neither torch nor optuna loads until a name that needs it is used."""
    code = "import sys, dropopt; print([m for m in ('torch', 'optuna', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_resolves():
    """What __all__ promises is there."""
    import dropopt

    assert all(getattr(dropopt, name) is not None for name in dropopt.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dropopt.nothing  # noqa: B018
