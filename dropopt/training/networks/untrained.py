"""The options with which a network is built without the weights that it was trained from."""

from __future__ import annotations

from typing import Any

from dropopt.config import ModelConfig

#: torchvision's networks that rescale their input if they are built with weights.
_RESCALING = ("torchvision:googlenet", "torchvision:inception_v3")


def untrained(model: ModelConfig) -> dict[str, Any]:
    """The options of ``model`` that build the same architecture without reading or downloading weights.

    Example:
        >>> untrained(ModelConfig(name="torchvision:resnet18", options={"weights": "DEFAULT"}))
        {'weights': None}
    """
    options = dict(model.options)
    if model.name.startswith("torchvision:") and options.get("weights") is not None:
        options["weights"] = None
        if model.name in _RESCALING:
            options.setdefault("transform_input", True)
    if model.name.startswith("timm:") and options.get("pretrained"):
        options["pretrained"] = False
    return options
