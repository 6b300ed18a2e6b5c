"""Which device trains."""

from __future__ import annotations

import torch

from dropopt.config import ConfigError


def resolve_device(name: str) -> torch.device:
    """The device called ``name``; ``auto`` is CUDA where there is one, else the CPU."""
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda", 0) if available else torch.device("cpu")
    known = ["auto", "cpu"] + (["cuda"] if available else []) + [f"cuda:{i}" for i in range(available)]
    if name not in known:
        raise ConfigError(f"device must be one of {', '.join(known)} on this machine, got {name!r}")
    return torch.device("cuda", 0) if name == "cuda" else torch.device(name)
