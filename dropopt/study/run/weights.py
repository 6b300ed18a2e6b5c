"""Writing the weights of a network that a trial has trained."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from dropopt.files import write_whole
from dropopt.study.store.weights import LIMIT


def write_weights(model: Any, path: Path) -> None:
    """Write the weights of ``model`` as a safetensors file, unless they are too large. A failure ends no trial."""
    from safetensors.torch import save
    from torch import Tensor

    tensors = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    if sum(value.numel() * value.element_size() for value in tensors.values()) > LIMIT:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, save({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}))
    except OSError as error:
        print(f"the weights cannot be written to {path}: {error}", file=sys.stderr)
