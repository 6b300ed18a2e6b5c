"""Which file a ``module:function`` of a stored configuration may be imported from.

A configuration file or a storage may come from someone else, and importing a module runs it. The names in it are
therefore imported only from

1. a file or a folder that the user names on the command line (``--code``);
2. the file that the study used, if its source is the same and this user has run it as a study before (or if it is part
   of dropopt);
3. that file, or a module of the current folder, after the user has agreed (or has given ``--trust``). If the study's
   source is recorded, it must be the same.

The files that a user has run are recorded in ``~/.local/state/dropopt/own-code`` (or below ``XDG_STATE_HOME``).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dropopt.config import ConfigError
from dropopt.owncode import file_of, is_own, module_of, shipped_folder, use_file


@dataclass(frozen=True)
class Source:
    """A file of the user's code.

    Attributes:
        file: Its absolute path.
        sha256: The hash of its content.
    """

    file: Path
    sha256: str

    def plain(self) -> dict[str, str]:
        """The fields as text, for a storage or a file."""
        return {"file": str(self.file), "sha256": self.sha256}


#: Asks the user whether to import a file; the argument is the question.
Ask = Callable[[str], bool]


def sources(names: Iterable[str]) -> dict[str, Source]:
    """Return the source of each module that the settings ``names`` refer to, except modules that are not found."""
    found = {}
    for module in own_modules(names):
        file = file_of(module)
        digest = _digest(file) if file is not None else None
        if file is not None and digest is not None:
            found[module] = Source(file.resolve(), digest)
    return found


def own_modules(names: Iterable[str]) -> list[str]:
    """The modules in those of ``names`` that have the form ``module:function``, sorted."""
    return sorted({module_of(name) for name in names if is_own(name)})


def remember(found: Iterable[Source]) -> None:
    """Record that this user has run these files. Does nothing if the record cannot be written."""
    path = _notes()
    with contextlib.suppress(OSError):
        lines = [line for line in map(_line, found) if line not in _noted()]
        if lines:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with path.open("a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)


def settle(
    names: Iterable[str],
    recorded: Any,
    *,
    given: str,
    code: Sequence[Path] = (),
    trust: bool = False,
    ask: Ask | None = None,
) -> list[str]:
    """Decide from which files the modules of stored settings are imported, and register these files for later imports.

    Args:
        names: The settings; those that are not ``module:function`` are ignored.
        recorded: The sources that the file or the study records: a mapping of modules to ``file`` and ``sha256``.
        given: The configuration file or the study, for messages.
        code: Scripts and folders that the user has named.
        trust: Whether to import without a question.
        ask: Asks the user; None if the session is not interactive.

    Returns:
        One line for each module: where it is imported from.

    Raises:
        ConfigError: A module may not be imported, or was not found.
    """
    modules = own_modules(names)
    lines = []
    for module in modules:
        known = _recorded(recorded, module)
        if code:
            file = _named(module, code, alone=len(modules) == 1)
            differs = known is not None and _digest(file) != known.sha256
            note = "; it differs from the study's source" if differs else ""
        else:
            file = _agreed(module, known, given, trust, ask)
            note = ""
        use_file(module, file)
        lines.append(f"code of {module}: {file}{note}")
    return lines


def known_file(module: str, recorded: Any) -> Path | None:
    """The file that a study imported ``module`` from, if this user has run the same source, or it is part of dropopt.

    Args:
        module: The module.
        recorded: The sources of the study, by module; see :func:`settle`.
    """
    known = _recorded(recorded, module)
    if known is None or not known.file.is_absolute() or _digest(known.file) != known.sha256:
        return None
    return known.file if known.file.parent == shipped_folder("studies") or _line(known) in _noted() else None


def _named(module: str, code: Sequence[Path], *, alone: bool) -> Path:
    """Return the file of ``module`` among the scripts and folders that the user has named."""
    for path in code:
        if path.is_dir():
            for file in _files_in(path, module):
                return file
        elif not path.is_file():
            raise ConfigError(f"--code {path} does not exist; give a script or a folder")
        elif path.suffix != ".py":
            raise ConfigError(f"--code {path} is not a Python script (.py) or a folder")
        elif path.stem == module.rpartition(".")[2] or path.stem == module or (alone and len(code) == 1):
            return path.resolve()
    places = " or ".join(str(path) for path in code)
    raise ConfigError(f"there is no module {module!r} in --code {places}")


def _agreed(module: str, known: Source | None, given: str, trust: bool, ask: Ask | None) -> Path:
    """The file of ``module`` that may be imported although the user has not named it."""
    candidates = list(_candidates(module, known))
    matching = [file for file in candidates if known is None or _digest(file) == known.sha256]
    if not matching:
        was = f", which the study imported from {known.file}" if known is not None else ""
        now = " that file has changed" if known is not None and known.file.is_file() else " it was not found"
        other = f" ({candidates[0]} has another source)" if candidates and known and candidates[0] != known.file else ""
        raise ConfigError(f"{given} names the module {module!r}{was};{now}{other}; give its script with --code PATH")
    file = matching[0]
    if known is not None and (
        file.parent == shipped_folder("studies") or _line(Source(file, known.sha256)) in _noted()
    ):
        return file
    if trust or (ask is not None and ask(f"{given} names the module {module!r}. Import it from {file}?")):
        return file
    raise ConfigError(
        f"{given} names the module {module!r}, which would be imported from {file}; "
        f"to allow it, give --code {file}, or --trust"
    )


def _candidates(module: str, known: Source | None) -> Iterator[Path]:
    """Yield the files that ``module`` may refer to: the study's, the one in the current folder, a shipped study."""
    if known is not None and known.file.is_absolute() and known.file.is_file():
        yield known.file
    shipped = shipped_folder("studies")
    for folder in (shipped, Path.cwd()) if known is not None else (Path.cwd(), shipped):
        yield from _files_in(folder, module)


def _files_in(folder: Path, module: str) -> Iterator[Path]:
    """The file of ``module`` in ``folder``, never outside of it."""
    if os.sep in module or (os.altsep and os.altsep in module) or "\0" in module or not module.strip("."):
        return
    parts = module.split(".")
    inner = folder.joinpath(*parts) if all(part.isidentifier() for part in parts) else folder / module
    for file in (folder / f"{module}.py", inner.parent / f"{inner.name}.py", inner / "__init__.py"):
        if file.is_file():
            yield file.resolve()
            return


def _recorded(recorded: Any, module: str) -> Source | None:
    """Return the recorded source of ``module``; None if there is no valid record."""
    entry = recorded.get(module) if isinstance(recorded, Mapping) else None
    if not isinstance(entry, Mapping):
        return None
    file, sha256 = entry.get("file"), entry.get("sha256")
    if not isinstance(file, str) or not isinstance(sha256, str) or "\0" in file:
        return None
    return Source(Path(file), sha256)


def _digest(file: Path) -> str | None:
    """The hash of a file's content; None if it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None


def _notes() -> Path:
    """Return the file that records what this user has run."""
    state = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state")
    return Path(state).expanduser() / "dropopt" / "own-code"


def _noted() -> set[str]:
    try:
        return set(_notes().read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError, RuntimeError):
        return set()


def _line(source: Source) -> str:
    return f"{source.sha256}  {source.file}"
