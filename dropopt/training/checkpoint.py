"""Checkpoints: all that a stopped run needs to go on bit for bit, whole or absent, and never code."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dropopt.files import clear_leftovers, load_tensors, save_tensors
from dropopt.training.results import EpochReport

#: Raise it when the content changes: older files are then set aside.
VERSION = 1


def write_checkpoint(
    path: Path, identity: str, state: Mapping[str, Any], history: list[EpochReport], device: torch.device
) -> None:
    """Replace the checkpoint at ``path``. When that fails training goes on, with a warning, and the old one stands."""
    content = {
        "version": VERSION,
        "identity": identity,
        "state": dict(state),
        "history": json.dumps([asdict(report) for report in history]),  # rates are plain: text keeps them so
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }
    try:
        save_tensors(path, content)
    except OSError as error:
        warnings.warn(f"checkpoint {path} cannot be written ({error}); training goes on", stacklevel=2)


def read_checkpoint(path: Path, identity: str, device: torch.device) -> tuple[dict[str, Any], list[EpochReport]] | None:
    """State and history of the run ``identity``, and torch's random state put back; None to start afresh.

    A file that is damaged, of another run or not a checkpoint is set aside as ``path``.bad, with a warning.
    """
    clear_leftovers(path)
    if not path.exists():
        return None
    # Whatever is wrong with the file, the remedy is the same.
    try:
        content = load_tensors(path)
        if content["version"] != VERSION:
            raise ValueError(f"it is of version {content['version']}, not {VERSION}")
        if content["identity"] != identity:
            raise ValueError("it is of another run")
        history = [EpochReport(**report) for report in json.loads(content["history"])]
        state: dict[str, Any] = content["state"]
        torch.set_rng_state(content["rng"])
        if content["cuda_rng"] is not None and device.type == "cuda":
            torch.cuda.set_rng_state(content["cuda_rng"], device)
    except Exception as error:
        _set_aside(path, error)
        return None
    return state, history


def _set_aside(path: Path, error: Exception) -> None:
    aside = path.with_name(path.name + ".bad")
    os.replace(path, aside)
    reason = (str(error) or type(error).__name__).splitlines()[0]
    warnings.warn(
        f"checkpoint {path} is not usable ({reason}); it is kept as {aside.name} and training starts afresh",
        stacklevel=2,
    )
