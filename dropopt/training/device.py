"""Which device trains, and whether it computes bf16 in hardware."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dropopt.config import ConfigError


def resolve_device(name: str) -> torch.device:
    """Find the device called ``name``; ``auto`` means CUDA if available, else the CPU.

    Raises:
        ConfigError: If this machine has no such device; the message lists those it has.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda", 0) if available else torch.device("cpu")
    known = ["auto", "cpu"] + (["cuda"] if available else []) + [f"cuda:{i}" for i in range(available)]
    if name not in known:
        raise ConfigError(f"device must be one of {', '.join(known)} on this machine, got {name!r}")
    return torch.device("cuda", 0) if name == "cuda" else torch.device(name)


def computes_bf16(device: torch.device) -> bool:
    """Whether ``device`` multiplies bf16 in hardware; a CPU that emulates it needs up to eight times float32's time."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    # Older versions of torch do not report it; float32 is always correct.
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
