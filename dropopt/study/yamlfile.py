"""YAML that remembers its lines and never runs code: what space files are read with.

Only mappings, lists and plain scalars pass. Anchors, aliases and tags are refused (an alias can expand
without limit, a tag can construct objects), a repeated key is an error, and ``1e-3`` is a number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dropopt.config import ConfigError

#: A space file is a page of text; anything larger is something else.
MAX_BYTES = 1_000_000

_CORE = "tag:yaml.org,2002:"
_PLAIN = {_CORE + kind for kind in ("str", "int", "float", "bool", "null")}


@dataclass(frozen=True)
class Item:
    """A value of a YAML file: a scalar, a list of items or a mapping of items; and its line (1-based)."""

    value: Any
    line: int

    def plain(self) -> Any:
        """The value without lines."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, less aliases, plus the numbers of YAML 1.2 (``1e-3``)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs leave it out
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not allowed", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(
    _CORE + "float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def read(path: Path) -> Item:
    """The content of ``path``; every fault is a :class:`ConfigError` that starts with file and line."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: too large ({len(data)} bytes; at most {MAX_BYTES})")
    try:
        loader = _Loader(data.decode("utf-8-sig"))
        node = loader.get_single_node()
        if node is None:
            raise ConfigError(f"{path}: the file is empty")
        return _item(node, loader, path)
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not valid here: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None


def _item(node: yaml.Node, loader: _Loader, path: Path) -> Item:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.ScalarNode) and node.tag in _PLAIN:
        try:
            return Item(loader.construct_object(node), line)
        except ValueError as error:
            raise ConfigError(f"{path}:{line}: not a value: {node.value!r} ({error})") from None
    if isinstance(node, yaml.SequenceNode) and node.tag == _CORE + "seq":
        return Item([_item(child, loader, path) for child in node.value], line)
    if isinstance(node, yaml.MappingNode) and node.tag == _CORE + "map":
        return Item(_mapping(node, loader, path), line)
    raise ConfigError(
        f"{path}:{line}: {node.tag.removeprefix(_CORE)!r} is not allowed here; "
        "allowed: mappings, lists, numbers, text, true, false, null"
    )


def _mapping(node: yaml.MappingNode, loader: _Loader, path: Path) -> dict[str, Item]:
    """A mapping's items; each carries the line of its key, which is where a person looks for it."""
    found: dict[str, Item] = {}
    for key_node, value_node in node.value:
        key, line = _item(key_node, loader, path).value, key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise ConfigError(f"{path}:{line}: a key must be text, got {key!r}")
        if key in found:
            raise ConfigError(f"{path}:{line}: {key!r} is given twice, first in line {found[key].line}")
        found[key] = Item(_item(value_node, loader, path).value, line)
    return found
