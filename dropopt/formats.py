"""YAML, JSON and TOML: finding the format of a file, reading it and writing it.

TOML has no null. In a TOML file the text ``!null`` stands for it, and any text that consists of exclamation marks and
``null`` is written with one more mark.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dropopt.config import ConfigError
from dropopt.yamlfile import MAX_BYTES, Item, dump, parse

#: File formats by suffix.
FORMATS = {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".toml": "toml"}

#: The text that stands for null in TOML, and the pattern of the texts that could be taken for it.
_NULL = "!null"
_LIKE_NULL = re.compile(r"!+null")
#: Control characters except tabs and line breaks; 27 begins the commands to a terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Return ``text`` without the control characters that a terminal would obey; tabs and line breaks are kept.

    >>> printable("digits\\x1b[2J")
    'digits[2J'
    """
    return _CONTROL.sub("", text)


def format_of(path: Path, given: str | None) -> str:
    """The format of ``path``: ``given``, or the one that its suffix stands for."""
    if given is not None:
        if given not in FORMATS.values():
            raise ConfigError(f"{path}: format must be yaml, json or toml, got {given!r}")
        return given
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        raise ConfigError(f"{path}: the suffix must be one of {', '.join(FORMATS)}, or give a format")
    return found


# -- reading


def decode(data: bytes, path: Path, kind: str) -> tuple[Any, Item | None]:
    """The values in ``data``, and for YAML the same values with their lines.

    Raises:
        ConfigError: ``data`` is too large, is not text or is not valid in the format ``kind``. The message starts with
            ``path``.
    """
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: too large ({len(data)} bytes; at most {MAX_BYTES})")
    if kind == "yaml":
        items = parse(data, path)
        return items.plain(), items
    try:
        text = data.decode("utf-8-sig")
        if kind == "toml":
            return _each_text(tomllib.loads(text), _read_null), None
        return json.loads(text, object_pairs_hook=_unique), None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    except ValueError as error:  # the messages of both parsers contain the line
        raise ConfigError(f"{path}: not valid {kind.upper()}: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dictionary. A repeated key is an error, as in YAML and TOML."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r} is given twice")
        found[key] = value
    return found


# -- writing


def encode(content: Mapping[str, Any], kind: str) -> str:
    """``content`` as text in the format ``kind``. Values that the formats do not support are written as text.

    Bytes of file names that are no text (lone surrogates) are escaped, and in TOML, which cannot escape them, replaced.
    """
    plain = _plain(content)
    if kind == "yaml":
        return dump(plain)
    if kind == "json":
        return json.dumps(plain, indent=2, ensure_ascii=False).encode(errors="backslashreplace").decode() + "\n"
    import tomli_w

    return tomli_w.dumps(_each_text(plain, _write_null)).encode(errors="replace").decode()


def _plain(value: Any) -> Any:
    """``value`` as mappings, lists and scalars that all three formats support."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inside) for inside in value]
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def _each_text(value: Any, convert: Callable[[Any], Any]) -> Any:
    """``value`` with each text and each null in it converted."""
    if isinstance(value, dict):
        return {key: _each_text(inside, convert) for key, inside in value.items()}
    if isinstance(value, list):
        return [_each_text(inside, convert) for inside in value]
    return convert(value) if value is None or isinstance(value, str) else value


def _write_null(value: str | None) -> str:
    if value is None:
        return _NULL
    return f"!{value}" if _LIKE_NULL.fullmatch(value) else value


def _read_null(value: str) -> str | None:
    if value == _NULL:
        return None
    return value[1:] if _LIKE_NULL.fullmatch(value) else value
