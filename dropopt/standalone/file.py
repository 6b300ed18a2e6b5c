"""Model files: weights in the format of safetensors, with the card and the drop rates as JSON in its metadata.

The tensors are the network's state dict, so other programs can load them without dropopt. Reading a file runs no code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from dropopt.config import ConfigError
from dropopt.explain import first_line
from dropopt.files import write_whole
from dropopt.formats import FORMATS
from dropopt.standalone import SUFFIX
from dropopt.standalone.card import SCHEMA, Card
from dropopt.training.rates import Rates

#: Keys of the metadata.
_CARD, _RATES = "dropopt", "dropopt.rates"


@dataclass(frozen=True, eq=False)
class ModelFile:
    """The content of a model file: its card, the network's state dict and the drop rates."""

    card: Card
    weights: dict[str, Tensor]
    rates: Rates


def write_model(path: Path, card: Card, weights: Mapping[str, Any], rates: Rates) -> None:
    """Write a model file. A failure leaves an existing file unchanged.

    Raises:
        ConfigError: The file cannot be written, or a network's state holds something other than tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save

    if odd := [name for name, value in weights.items() if not isinstance(value, Tensor)]:
        raise ConfigError(
            f"{path}: the network's state {odd[0]!r} is no tensor; write a file with the suffix .pt instead"
        )
    # Tensors of their own: the format refuses tensors that share memory, and needs the usual layout.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    plain = {site: {key: value.tolist() for key, value in found.items()} for site, found in rates.items()}
    metadata = {"format": "pt", _CARD: json.dumps(card.model_dump(mode="json")), _RATES: json.dumps(plain)}
    try:
        write_whole(path, save(tensors, metadata))
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from None
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{path} cannot be written: {first_line(error)}; write a file with the suffix .pt instead"
        ) from None


def read_model(path: Path) -> ModelFile:
    """Read a model file.

    Raises:
        ConfigError: There is no such file, or it is not a model file of dropopt.
    """
    from safetensors import safe_open

    if not path.is_file():
        raise ConfigError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; give a {SUFFIX} file")
    if path.suffix in (".pt", ".pth", ".pkl", ".bin"):
        raise ConfigError(
            f"{path} may run code when it is read; a classifier of images is read from the file that dropopt train "
            f"FILE -o model{SUFFIX} writes, and the weights of a network for any other task, such as a regression, are "
            f"loaded in your own code: model.load_state_dict(torch.load({str(path)!r}, weights_only=True))"
        )
    if path.suffix in FORMATS:
        raise ConfigError(f"{path} is a configuration; type: dropopt train FILE -o model{SUFFIX}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except Exception as error:  # whatever is wrong with the bytes, the message is the same
        raise ConfigError(f"{path} is not a {SUFFIX} file, or is damaged: {first_line(error)}") from None
    if _CARD not in metadata:
        raise ConfigError(f"{path} was not written by dropopt train: its metadata have no entry {_CARD!r}")
    return ModelFile(_card(path, metadata[_CARD]), weights, _rates(path, metadata.get(_RATES, "{}")))


def _card(path: Path, text: str) -> Card:
    plain = _json(path, text)
    schema = plain.get("schema_version", SCHEMA)
    if isinstance(schema, int) and schema > SCHEMA:
        raise ConfigError(
            f"{path}: a newer dropopt wrote this file (schema {schema}; this version reads schema {SCHEMA}); "
            "type: pip install --upgrade dropopt"
        )
    try:
        card = Card.model_validate(plain)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "card"
        raise ConfigError(f"{path}: the card is not valid: {where}: {first_line(first['msg'])}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: the card is not valid: {first_line(error)}") from None
    if len(set(card.classes)) < len(card.classes):
        raise ConfigError(f"{path}: the card is not valid: two classes have the same name")
    if card.inputs.mean and not len(card.inputs.mean) == len(card.inputs.std) == card.inputs.channels:
        raise ConfigError(f"{path}: the card is not valid: mean and std must have {card.inputs.channels} values each")
    return card


def _rates(path: Path, text: str) -> Rates:
    try:
        return {
            str(site): {str(key): torch.tensor(value, dtype=torch.float32) for key, value in found.items()}
            for site, found in _json(path, text).items()
        }
    except (AttributeError, TypeError, ValueError, RuntimeError, OverflowError):
        raise ConfigError(f"{path}: the drop rates are not lists of numbers") from None


def _json(path: Path, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: its metadata are not valid JSON: {first_line(error)}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: its metadata must be a JSON object, got {type(found).__name__}")
    return found
