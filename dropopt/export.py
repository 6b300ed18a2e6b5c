"""Configurations as files: ``dropopt export`` writes them and :func:`dropopt.load` reads them.

    schema: 1                     version of this layout; files of earlier versions of dropopt have none
    data: {name: digits, ...}     DataConfig
    model: {name: small, ...}     ModelConfig
    task: {loss: mse_loss, ...}   TaskConfig
    train: {lr: 0.1, ...}         TrainConfig
    engine: {r0: 0.25, ...}       EngineConfig, or Baseline if it has a `kind`
    provenance: {...}             where the configuration comes from; any mapping, not part of the configuration

Each section and each setting may be left out and then has its default. Numbers are read back exactly. A file is only
data: reading it runs no code. A fourth format, ``python``, is a training loop to run and to change; it is not read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dropopt.config import Baseline, ConfigError, DataConfig, EngineConfig, ModelConfig, RunConfig, TrainConfig
from dropopt.explain import explain, suggestion
from dropopt.files import write_whole
from dropopt.formats import FORMATS, decode, encode, format_of
from dropopt.pythonfile import python_text
from dropopt.yamlfile import Item

_KEYS = (*RunConfig.model_fields, "provenance")

#: Version of the layout. Increase it when files change so that earlier versions of dropopt cannot read them.
SCHEMA = 1

#: Suffix of the format ``python``.
_PYTHON = ".py"

_YAML_HEADER = "# Read this file with dropopt.load, or train with it: dropopt train FILE\n"


@dataclass(frozen=True)
class Exported:
    """A configuration that was read from a file.

    Attributes:
        run: The whole configuration.
        provenance: Where the configuration comes from, according to the file; empty if the file does not say.
    """

    run: RunConfig
    provenance: dict[str, Any]

    @property
    def complexity(self) -> float | None:
        """D_complexity of the study's training images, for :func:`dropopt.attach`; None if the file does not say."""
        value = self.provenance.get("complexity")
        return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else None

    @property
    def engine(self) -> EngineConfig | Baseline:
        """The settings of the dropout engine or of the baseline, for :func:`dropopt.attach`."""
        return self.run.engine

    @property
    def train(self) -> TrainConfig:
        """The settings of training."""
        return self.run.train

    @property
    def data(self) -> DataConfig:
        """The data set and its split."""
        return self.run.data

    @property
    def model(self) -> ModelConfig:
        """The network."""
        return self.run.model


def save(
    path: str | os.PathLike[str], run: RunConfig, provenance: Mapping[str, Any], format: str | None = None
) -> None:
    """Write a configuration to a file, which :func:`load` reads. An existing file is replaced atomically.

    Args:
        path: The file; its folder must exist.
        run: The configuration.
        provenance: Where the configuration comes from. Values that are not plain data are written as text.
        format: ``"yaml"``, ``"json"``, ``"toml"`` or ``"python"``. Default: by the suffix of ``path``.

    Raises:
        ConfigError: The format is unknown, or the file cannot be written.
    """
    path = Path(path)
    text = as_text(run, provenance, kind_of(path, format))
    if not path.parent.is_dir():
        raise ConfigError(f"{path} cannot be written: its folder does not exist")
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from None


def kind_of(path: Path, format: str | None) -> str:
    """The format in which :func:`save` writes ``path``: ``format``, or the one that the suffix stands for.

    Raises:
        ConfigError: The format is unknown, or does not fit the suffix.
    """
    if format not in (None, "python", *FORMATS.values()):
        raise ConfigError(f"{path}: format must be yaml, json, toml or python, got {format!r}")
    if format is not None and FORMATS.get(path.suffix.lower(), format) != format:  # the suffix says how to read it
        kept = _PYTHON if format == "python" else f".{format}"
        raise ConfigError(f"{path}: the suffix is not that of {format}; give {path.with_suffix(kept)}, or no format")
    if format == "python" or (format is None and path.suffix == _PYTHON):
        return "python"
    if path.suffix == _PYTHON:  # no command would read it
        raise ConfigError(f"{path}: a .py file holds a program; give --format python, or -o {path.stem}.{format}")
    if format is None and path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path}: the suffix must be one of {', '.join((*FORMATS, _PYTHON))}, or give a format")
    return format_of(path, format)


def as_text(run: RunConfig, provenance: Mapping[str, Any], kind: str) -> str:
    """The text of a configuration file.

    Args:
        run: The configuration.
        provenance: Where the configuration comes from. Values that are not plain data are written as text.
        kind: ``"yaml"``, ``"json"``, ``"toml"`` or ``"python"``.
    """
    if kind == "python":
        return python_text(run, provenance)
    settings = run.model_dump(mode="json")
    if kind == "toml":  # a setting that may be None has this default, so that it can be left out
        for section, values in settings.items():
            settings[section] = {name: value for name, value in values.items() if value is not None}
    text = encode({"schema": SCHEMA, **settings, "provenance": provenance}, kind)
    return _YAML_HEADER + text if kind == "yaml" else text


def load(path: str | os.PathLike[str], format: str | None = None) -> Exported:
    """Read a configuration from a file that ``dropopt export`` or a person wrote.

    Args:
        path: The file. Its sections are ``data``, ``model``, ``task``, ``train``, ``engine`` and ``provenance``;
            sections and settings that are left out have their defaults.
        format: ``"yaml"``, ``"json"`` or ``"toml"``. Default: by the suffix of ``path``.

    Returns:
        The configuration (``.run``, and its parts ``.engine``, ``.train``, ``.data``, ``.model``) and its
        ``.provenance``.

    Raises:
        ConfigError: The file cannot be read, or a setting is unknown or out of range. The message starts with the file
            and, for YAML, the line.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "best.yaml")
        ...     _ = path.write_text("engine: {r0: 0.4, pattern: spatial}")
        ...     best = load(path)
        >>> best.engine.r0, best.engine.pattern, best.train.epochs
        (0.4, 'spatial', 30)
    """
    path = Path(path)
    if path.suffix == _PYTHON and format is None:
        raise ConfigError(f"{path} is a program, not a configuration; run it: python {path}")
    kind = format_of(path, format)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    values, items = decode(data, path, kind)
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping with {', '.join(_KEYS)}; it holds {type(values).__name__}")
    return _checked(values, items, path)


def _checked(values: dict[str, Any], items: Item | None, path: Path) -> Exported:
    """The configuration in ``values``; ``items`` holds the lines of its settings, for messages."""

    def fault(message: str, *where: str | int) -> ConfigError:
        line = f":{items.line_of(where)}" if items is not None else ""
        return ConfigError(f"{path}{line}: {message}")

    schema = values.pop("schema", SCHEMA)
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise fault(f"schema must be an integer >= 1, got {schema!r}", "schema")
    if schema > SCHEMA:
        raise fault(
            f"a newer dropopt wrote this file (schema {schema}; this version reads schema {SCHEMA}); "
            "type: pip install --upgrade dropopt",
            "schema",
        )
    for key in values:
        if key not in _KEYS:
            raise fault(f"unknown section {key!r}; {suggestion(key, _KEYS)}", key)
    sections: dict[str, Any] = {}
    for key in (key for key in _KEYS if key in values):
        given = values[key]
        if not isinstance(given, dict):
            raise fault(f"{key} must be a mapping of settings, got {given!r}", key)
        if key == "provenance":
            continue
        model: Any = RunConfig.model_fields[key].annotation
        if key == "engine":
            model = Baseline if "kind" in given else EngineConfig
        try:
            sections[key] = model.model_validate(given)
        except ValidationError as error:
            where = error.errors()[0]["loc"]
            raise fault(f"{key}: {explain(error, model, given)}", key, *where) from None
    return Exported(RunConfig(**sections), values.get("provenance", {}))
