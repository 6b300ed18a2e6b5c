"""Studies and search spaces by name or path: one's own files, and those that come with dropopt."""

from __future__ import annotations

from pathlib import Path

import dropopt
from dropopt.config import ConfigError, suggestion


def folder(kind: str) -> Path:
    """Where the shipped ``studies`` or ``search_spaces`` lie.

    An installed wheel holds them inside the package, a source tree beside it.
    """
    package = Path(dropopt.__file__).parent
    inside = package / kind
    return inside if inside.is_dir() else package.parent / kind


def names(kind: str) -> list[str]:
    """The names of the shipped ``studies`` or ``search_spaces``."""
    suffix = _suffix(kind)
    return sorted(path.stem for path in folder(kind).glob(f"*{suffix}") if not path.stem.startswith("_"))


def find(kind: str, name: str, beside: Path | None = None) -> Path:
    """The file that ``name`` means: a path (from here, or beside ``beside``), else a shipped name."""
    suffix = _suffix(kind)
    given = Path(name).expanduser()
    candidates = [given] if beside is None or given.is_absolute() else [given, beside / given]
    for path in candidates:
        if path.suffix in (suffix, ".yml" if suffix == ".yaml" else suffix) and path.is_file():
            return path
    shipped = names(kind)
    if name in shipped:
        return folder(kind) / f"{name}{suffix}"
    thing = "study" if kind == "studies" else "search space"
    if given.suffix or len(given.parts) > 1:
        what = "is a folder" if given.is_dir() else "does not exist" if not given.exists() else "is not one"
        raise ConfigError(f"{thing} {name} {what}; give a {suffix} file or one of: {', '.join(shipped)}")
    raise ConfigError(f"no {thing} {name!r}; {suggestion(name, shipped)} (or the path of a {suffix} file)")


def _suffix(kind: str) -> str:
    return ".py" if kind == "studies" else ".yaml"
