"""Finding studies, search spaces and portfolios: the user's own files by path, and those that are shipped by name."""

from __future__ import annotations

import os
from pathlib import Path

from dropopt.config import ConfigError
from dropopt.explain import suggestion
from dropopt.known import NETWORKS, elsewhere
from dropopt.owncode import shipped_folder

#: What the files of each kind are called.
_THINGS = {"studies": "study", "search_spaces": "search space", "portfolios": "portfolio"}


def names(kind: str) -> list[str]:
    """Return the names of the shipped ``studies``, ``search_spaces`` or ``portfolios``, sorted."""
    suffix = _suffix(kind)
    return sorted(path.stem for path in _folder(kind).glob(f"*{suffix}") if not path.stem.startswith("_"))


def find(kind: str, name: str, beside: Path | None = None) -> Path:
    """Return the path of a study, a search space or a portfolio.

    Args:
        kind: ``studies``, ``search_spaces`` or ``portfolios``.
        name: A path, or the name of a shipped file.
        beside: A folder that relative paths are tried in after the current one.

    Raises:
        ConfigError: There is no such file.
    """
    suffix = _suffix(kind)
    given = Path(name).expanduser()
    candidates = [given] if beside is None or given.is_absolute() else [given, beside / given]
    for path in candidates:
        if path.suffix in (suffix, ".yml" if suffix == ".yaml" else suffix) and path.is_file():
            return path
    shipped = names(kind)
    if name in shipped:
        return _folder(kind) / f"{name}{suffix}"
    thing = _THINGS[kind]
    if given.suffix or len(given.parts) > 1:
        wrong_kind = "is a folder" if given.is_dir() else f"is not a {suffix} file"
        what = wrong_kind if given.exists() else "does not exist"
        raise ConfigError(f"{thing} {name} {what}; give a {suffix} file or one of: {', '.join(shipped)}")
    if kind == "studies":
        if os.path.isfile(script := f"{given}{suffix}"):  # no error of a name that no file can have
            raise ConfigError(f"no study {name!r} comes with dropopt; to run your script, give {script}")
        networks = [name] if name in NETWORKS else elsewhere(name, shipped)
        if networks and networks[0].rpartition(":")[2] == name.casefold():
            raise ConfigError(
                f"{name!r} is a network, not a study; to search with it: dropopt run digits --model {networks[0]}, or "
                f"dropopt run folder --data folder:PATH --model {networks[0]} for your own images"
            )
    raise ConfigError(f"no {thing} {name!r}; {suggestion(name, shipped)} (or the path of a {suffix} file)")


def _folder(kind: str) -> Path:
    return shipped_folder("search_spaces") / kind if kind == "portfolios" else shipped_folder(kind)


def _suffix(kind: str) -> str:
    return ".py" if kind == "studies" else ".yaml"
