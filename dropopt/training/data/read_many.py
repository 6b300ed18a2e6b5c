"""Reading many files, some of which cannot be read: they are reported together, or left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from dropopt.config import ConfigError
from dropopt.numbers import listed

#: Files with errors that a message names besides the first; the rest are counted.
NAMED = 3

T = TypeVar("T")


def attempt(read: Callable[[Path], T]) -> Callable[[Path], T | ConfigError]:
    """``read``, with its error as the result."""

    def attempted(path: Path) -> T | ConfigError:
        try:
            return read(path)
        except ConfigError as error:
            return error

    return attempted


def readable(
    paths: Iterable[Path],
    results: Iterable[T | ConfigError],
    advice: str = "",
    on_unreadable: Callable[[Path, ConfigError], None] | None = None,
) -> Iterator[tuple[Path, T]]:
    """Yield each path with what was read.

    Args:
        paths: The files.
        results: What :func:`attempt` returned for each.
        advice: What to do about files with errors.
        on_unreadable: Called with each file that could not be read, and its error. By default there is one error about
            all of them.

    Raises:
        ConfigError: At the end, if files could not be read: the first error, and the names of the other files.
    """
    failed: list[tuple[Path, ConfigError]] = []
    for path, result in zip(paths, results, strict=True):
        if not isinstance(result, ConfigError):
            yield path, result
        elif on_unreadable is not None:
            on_unreadable(path, result)
        else:
            failed.append((path, result))
    if not failed:
        return
    more = f"; nor can {listed((path for path, _ in failed[1:]), NAMED)}" if len(failed) > 1 else ""
    raise ConfigError(f"{failed[0][1]}{more}{advice}")
