"""A YAML reader that keeps line numbers and never runs code, for configurations and search spaces.

Only mappings, lists and plain scalars are allowed. Scalars follow YAML 1.2: ``1e-3`` is a number, ``no`` is text.
Anchors, aliases and tags are errors, because an alias can expand without limit and a tag can construct objects. A
repeated key is an error too.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dropopt.config import ConfigError

#: The largest file that is read. A configuration has a page or two of text.
MAX_BYTES = 1_000_000

_CORE = "tag:yaml.org,2002:"
#: The scalars of YAML 1.2's core schema: a pattern, and the characters with which a scalar of this kind may begin.
_SCALARS: dict[str, tuple[str, str]] = {
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}


@dataclass(frozen=True)
class Item:
    """A value of a YAML file (a scalar, a list of items or a mapping of items) and its line, counted from 1."""

    value: Any
    line: int

    def plain(self) -> Any:
        """The value without line numbers."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value

    def line_of(self, path: tuple[Hashable, ...]) -> int:
        """The line of the item at ``path``. If it does not exist, the line of the innermost item around it."""
        item = self
        for part in path:
            try:
                item = item.value[part]
            except (TypeError, KeyError, IndexError):  # a missing item has no line
                break
        return item.line


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without aliases, with the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # replaces the resolvers of YAML 1.1

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]  # not in the stubs
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            mark: Any = event.start_mark  # the stubs have two types of mark
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not allowed", problem_mark=mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper. Its output is valid for ``_Loader``: no aliases, and the text ``1e-3`` is quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def analyze_scalar(self, scalar: str) -> Any:
        analysis: Any = super().analyze_scalar(scalar)
        if "\x85" in scalar:  # readers treat it as a line break unless it is escaped
            analysis.allow_flow_plain = analysis.allow_block_plain = False
            analysis.allow_single_quoted = analysis.allow_block = False
        return analysis


# The order matters: integers also match the pattern of floats. The dumper keeps the resolvers of YAML 1.1 too:
# it quotes text that a reader of YAML 1.1 would take for another type.
for _kind, (_pattern, _first) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            _CORE + _kind, re.compile(rf"(?:{_pattern})$"), ["" if c == "\0" else c for c in _first]
        )


def dump(content: Any) -> str:
    """``content`` (mappings, lists and plain scalars) as YAML text, which :func:`read` reads back exactly."""
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def read(path: Path) -> Item:
    """The content of the file ``path``. Raises :class:`ConfigError` with the file and line of a fault."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    return parse(data, path)


def parse(data: bytes, path: Path) -> Item:
    """The content of ``data``, the bytes of the file ``path``; see :func:`read`."""
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
    kind = node.tag.removeprefix(_CORE)
    if isinstance(node, yaml.ScalarNode) and kind in ("str", *_SCALARS):
        try:
            return Item(_scalar(kind, node, loader), line)
        except ValueError as error:
            raise ConfigError(f"{path}:{line}: not a value: {node.value!r} ({error})") from None
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return Item([_item(child, loader, path) for child in node.value], line)
    if isinstance(node, yaml.MappingNode) and kind == "map":
        return Item(_mapping(node, loader, path), line)
    raise ConfigError(
        f"{path}:{line}: {kind!r} is not allowed here; allowed: mappings, lists, numbers, text, true, false, null"
    )


def _scalar(kind: str, node: yaml.ScalarNode, loader: _Loader) -> Any:
    # PyYAML constructs the numbers of YAML 1.1, where 010 is 8.
    if kind == "int":
        return int(node.value)
    if kind == "float":
        return float(re.sub(r"^([-+]?)\.(?=[in])", r"\1", node.value.lower()))
    return loader.construct_object(node)


def _mapping(node: yaml.MappingNode, loader: _Loader, path: Path) -> dict[str, Item]:
    """The items of a mapping. Each has the line of its key, where a person looks for it."""
    found: dict[str, Item] = {}
    for key_node, value_node in node.value:
        key, line = _item(key_node, loader, path).plain(), key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise ConfigError(f"{path}:{line}: a key must be text, got {key!r}")
        if key in found:
            raise ConfigError(f"{path}:{line}: {key!r} is given twice, first in line {found[key].line}")
        found[key] = Item(_item(value_node, loader, path).value, line)
    return found
