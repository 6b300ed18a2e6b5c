"""Configurations as files: what ``dropopt export`` writes and :func:`dropopt.load` gives back.

    data: {name: digits, ...}     DataConfig
    model: {name: small, ...}     ModelConfig
    train: {lr: 0.1, ...}         TrainConfig
    engine: {r0: 0.25, ...}       EngineConfig, or Baseline with its `kind`
    provenance: {...}             where it comes from; free, and not read back into the configuration

Each section may be left out, and each setting in it. Numbers come back exactly. A file is data: nothing in it is run.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from dropopt.config import (
    Baseline,
    ConfigError,
    DataConfig,
    EngineConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    explain,
    suggestion,
)
from dropopt.yamlfile import MAX_BYTES, Item, dump, parse

#: File formats by suffix.
FORMATS = {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".toml": "toml"}

#: What a result depends on.
PACKAGES = ("dropopt", "torch", "torchvision", "optuna", "numpy", "scikit-learn", "pydantic")

_SECTIONS: dict[str, type[BaseModel]] = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig}
_KEYS = (*_SECTIONS, "engine", "provenance")
_GIT_SECONDS = 5


@dataclass(frozen=True)
class Exported:
    """A configuration from a file, and where it came from."""

    run: RunConfig
    provenance: dict[str, Any]

    @property
    def engine(self) -> EngineConfig | Baseline:
        """The dropout engine's settings, for :func:`dropopt.attach`."""
        return self.run.engine

    @property
    def train(self) -> TrainConfig:
        """How to train."""
        return self.run.train

    @property
    def data(self) -> DataConfig:
        """Which images."""
        return self.run.data

    @property
    def model(self) -> ModelConfig:
        """Which network."""
        return self.run.model


def save(
    path: str | os.PathLike[str], run: RunConfig, provenance: Mapping[str, Any], format: str | None = None
) -> None:
    """Write ``run`` and ``provenance`` to ``path`` as yaml, json or toml, by ``format`` or the file's suffix.

    TOML has no null: a setting that is None is left out, which gives None back where that is the default.
    """
    path = Path(path)
    content = {**run.model_dump(mode="json"), "provenance": _plain(provenance)}
    text = _WRITERS[_format(path, format)](content)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from None


def load(path: str | os.PathLike[str], format: str | None = None) -> Exported:
    """Read what :func:`save` wrote, or a file by hand; every fault is a ConfigError with the file and its line."""
    path = Path(path)
    kind = _format(path, format)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: too large ({len(data)} bytes; at most {MAX_BYTES})")
    items = parse(data, path) if kind == "yaml" else None
    values = items.plain() if items is not None else _parse_text(data, path, kind)
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping with {', '.join(_KEYS)}; it holds {type(values).__name__}")
    return _checked(values, items, path)


def provenance(**facts: Any) -> dict[str, Any]:
    """Versions, machine, git state of the current folder and the time, and ``facts``."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        **facts,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "versions": versions,
        "git": _git_state(),
    }


# -- checking


def _checked(values: dict[str, Any], items: Item | None, path: Path) -> Exported:
    def fault(message: str, *where: str | int) -> ConfigError:
        line = f":{items.line_of(where)}" if items is not None else ""
        return ConfigError(f"{path}{line}: {message}")

    for key in values:
        if key not in _KEYS:
            raise fault(f"unknown section {key!r}; {suggestion(key, _KEYS)}", key)
    origin = values.get("provenance", {})
    sections: dict[str, Any] = {}
    for key in (key for key in _KEYS if key in values):
        given = values[key]
        if not isinstance(given, dict):
            raise fault(f"{key} must be a mapping of settings, got {given!r}", key)
        if key == "provenance":
            continue
        model = _SECTIONS.get(key) or (Baseline if "kind" in given else EngineConfig)
        try:
            sections[key] = model.model_validate(given)
        except ValidationError as error:
            where = error.errors()[0]["loc"]
            raise fault(f"{key}: {explain(error, model, given)}", key, *where) from None
    return Exported(RunConfig(**sections), origin)


def _parse_text(data: bytes, path: Path, kind: str) -> Any:
    try:
        text = data.decode("utf-8-sig")
        return tomllib.loads(text) if kind == "toml" else json.loads(text, object_pairs_hook=_unique)
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    except ValueError as error:  # both parsers' own errors tell the line
        raise ConfigError(f"{path}: not valid {kind.upper()}: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r} is given twice")
        found[key] = value
    return found


def _format(path: Path, given: str | None) -> str:
    kind = given if given is not None else FORMATS.get(path.suffix.lower())
    if kind is None or kind not in FORMATS.values():
        raise ConfigError(
            f"{path}: format must be yaml, json or toml, got {given!r}"
            if given is not None
            else f"{path}: the suffix must be one of {', '.join(FORMATS)}, or give a format"
        )
    return kind


# -- writing


def _plain(value: Any) -> Any:
    """``value`` made of what all three formats can hold; anything else becomes its text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inside) for inside in value]
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def _to_yaml(content: dict[str, Any]) -> str:
    return "# Read it with dropopt.load, train with it: dropopt train FILE\n" + dump(content)


def _to_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _to_toml(content: dict[str, Any]) -> str:
    import tomli_w

    return tomli_w.dumps(_without_none(content))


def _without_none(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inside, key) for key, inside in value.items() if inside is not None}
    if isinstance(value, list):
        if None in value:
            raise ConfigError(f"{name}: TOML cannot hold null in a list; use yaml or json")
        return [_without_none(inside, name) for inside in value]
    return value


_WRITERS = {"yaml": _to_yaml, "json": _to_json, "toml": _to_toml}


def _git_state() -> dict[str, Any] | None:
    """Commit of the current folder and whether it was changed since; None outside of git."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=_GIT_SECONDS, check=True)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
