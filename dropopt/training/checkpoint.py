"""Checkpoints: everything an interrupted training needs to continue with bit-identical results.

A checkpoint is complete or absent, and reading one never runs code.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dropopt.explain import first_line
from dropopt.files import clear_leftovers, load_tensors, save_tensors
from dropopt.randomness import global_state, set_global_state
from dropopt.training.results import EpochReport

#: Increase it when the content changes; files of other versions are then set aside.
VERSION = 1


def write_checkpoint(
    path: Path, identity: str, state: Mapping[str, Any], history: list[EpochReport], device: torch.device
) -> None:
    """Replace the checkpoint at ``path``. If that fails, warn and keep the old file, so that training continues."""
    content = {
        "version": VERSION,
        "identity": identity,
        "state": dict(state),
        "history": json.dumps([asdict(report) for report in history]),  # JSON keeps plain floats exactly
        **global_state(device),
    }
    try:
        save_tensors(path, content)
    except OSError as error:
        warnings.warn(f"checkpoint {path} cannot be written ({error}); training goes on", stacklevel=2)


def read_checkpoint(path: Path, identity: str, device: torch.device) -> tuple[dict[str, Any], list[EpochReport]] | None:
    """Read the checkpoint of the run ``identity`` and restore torch's random state.

    A file that is damaged, belongs to another run, or is not a checkpoint is renamed to ``path``.bad with a warning.

    Returns:
        State and history, or None if there is no usable checkpoint.
    """
    clear_leftovers(path)
    if not os.path.exists(path):  # Path.exists raises an error if the folder cannot be read
        return None
    # Whatever is wrong with the file, the remedy is the same.
    try:
        if not path.is_file():  # reading a named pipe or a device would never end
            raise ValueError("it is not a file")
        content = load_tensors(path)
        if content["version"] != VERSION:
            raise ValueError(f"its version is {content['version']}, expected {VERSION}")
        if content["identity"] != identity:
            raise ValueError("it belongs to another run")
        # Reports of checkpoints that are older than the choice of an objective do not have one: it was the loss.
        history = [EpochReport(**{"objective": row["smoothed_loss"]} | row) for row in json.loads(content["history"])]
        state: dict[str, Any] = content["state"]
        set_global_state(content, device)
    except Exception as error:
        _set_aside(path, error)
        return None
    return state, history


def _set_aside(path: Path, error: Exception) -> None:
    aside = path.with_name(path.name + ".bad")
    try:
        os.replace(path, aside)
        kept = f"it is kept as {aside.name}"
    except OSError:  # a folder that is read-only
        kept = "it stays there"
    warnings.warn(
        f"checkpoint {path} is not usable ({first_line(error)}); {kept} and training starts afresh",
        stacklevel=2,
    )
