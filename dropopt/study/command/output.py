"""Files that commands write, checked before the work begins."""

from __future__ import annotations

from pathlib import Path

from dropopt.config import ConfigError


def check_writable(path: Path) -> None:
    """Raise :class:`ConfigError` if ``path`` cannot be written, before minutes of work are lost."""
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(
            f"{path} cannot be written: {'it is a folder' if path.is_dir() else 'its folder does not exist'}"
        )
