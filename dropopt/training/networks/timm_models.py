"""timm's networks, if timm is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from dropopt.config import ConfigError
from dropopt.explain import first_line
from dropopt.known import close_matches

#: Options that read files or URLs. Configuration files may come from someone else, so these are refused there.
_NOT_FROM_SETTINGS = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


def timm_model(name: str, options: Mapping[str, Any], *, channels: int, classes: int) -> nn.Module:
    """Build a timm network.

    Raises:
        ConfigError: If timm is not installed, or for an unknown name, a wrong option, or a failed download.
    """
    try:
        import timm
    except ImportError:
        raise ConfigError("timm is not installed; pip install timm") from None
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        raise ConfigError(f"timm has no such model{close_matches(name, known)}")
    if barred := sorted(set(_NOT_FROM_SETTINGS) & set(options)):
        raise ConfigError(f"option {barred[0]!r} is not allowed here; a function of your own may use it")
    options = {"num_classes": classes, "in_chans": channels, **options}
    try:
        model: nn.Module = timm.create_model(name, **options)
    except OSError as error:
        raise ConfigError(f"weights cannot be downloaded ({first_line(error)}); or use pretrained: false") from None
    except Exception as error:  # a builder may raise anything for a wrong option
        raise ConfigError(f"options {options}: {first_line(error)}") from None
    return model
