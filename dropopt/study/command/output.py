"""What commands write: files, checked before the work begins, and JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def json_text(content: Any, *, indent: int | None = 1) -> str:
    """``content`` as JSON. Numbers that are not finite are null, because JSON has none.

    Example:
        >>> json_text({"loss": 0.5, "dice": float("nan")}, indent=None)
        '{"loss": 0.5, "dice": null}'
    """
    return json.dumps(_finite(content), indent=indent)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inside) for inside in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
