"""Files that commands write, checked before the work begins."""

from __future__ import annotations

import os
from pathlib import Path

from dropopt.config import ConfigError


def check_writable(path: Path) -> None:
    """Raise :class:`ConfigError` if ``path`` cannot be written, before minutes of work are lost."""
    why = ""
    if path.is_dir():
        why = "it is a folder"
    elif not path.parent.is_dir():
        why = "its folder does not exist"
    elif not os.access(path.parent, os.W_OK):
        why = "its folder is read-only"
    if why:
        raise ConfigError(f"{path} cannot be written: {why}")
