"""The modules of a network: their modes, and its dropout layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.dropout import _DropoutNd


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Set ``model`` to eval mode inside the block; afterwards each module has its own mode again.

    Methods ``eval`` and ``train`` of the modules are not called: those of some packages change weights.
    """
    modes = [(module, module.training) for module in model.modules()]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def dropout_layers(model: nn.Module) -> list[_DropoutNd]:
    """Return torch's dropout layers in ``model``."""
    return [module for module in model.modules() if isinstance(module, _DropoutNd)]


@contextmanager
def in_sampling_mode(model: nn.Module) -> Iterator[None]:
    """As :func:`in_eval_mode`, but torch's dropout layers are in training mode, as Monte Carlo dropout needs."""
    with in_eval_mode(model):
        for layer in dropout_layers(model):
            layer.train()
        yield
