"""The outputs of modules that have dropout: what they may be, and what is said of those that cannot be masked."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dropopt.config import ConfigError


def require_tensor(module: nn.Module, output: object, batch_ndim: int) -> None:
    """Raise ConfigError if the output of a module with a site is no batch of real numbers."""
    if isinstance(output, Tensor) and output.is_floating_point():
        if output.ndim < batch_ndim:
            raise ConfigError(
                f"module {type(module).__name__} with dropout returned one sample, {tuple(output.shape)}, but batches "
                f"need {batch_ndim} dimensions: give batches, such as x.unsqueeze(0)"
            )
        return
    kind = type(module).__name__
    if isinstance(output, Tensor):
        if output.is_quantized:
            raise ConfigError(
                f"module {kind} with dropout returned a quantized tensor in training mode: call engine.detach() before "
                "the conversion, or model.eval() after it"
            )
        if output.is_complex():
            raise ConfigError(
                f"module {kind} with dropout returned complex numbers, which have no dropout in PyTorch either: choose "
                "other sites"
            )
        return
    if isinstance(output, torch.fx.Proxy):
        raise ConfigError(
            f"torch.fx cannot trace dropout after a {kind} in training mode: call engine.detach() before tracing, "
            "or attach with sites='conv', whose layers torch.fx does not trace into"
        )
    raise ConfigError(
        f"module {kind} with dropout returned {type(output).__name__} in training mode, "
        "but a tensor in eval mode: choose other sites"
    )


def refuse_copies(module: nn.Module) -> None:
    """Raise ConfigError if ``module`` runs as a copy that would share or freeze the state of its site."""
    if module.__dict__.get("_is_replica"):
        raise ConfigError(
            "torch.nn.DataParallel runs copies of the model in threads, which would share the state of one dropout: "
            "use DistributedDataParallel, or one GPU"
        )
    if torch._C._is_tracing():
        raise ConfigError(
            "torch.jit.trace would record the current drop rates as constants: call model.eval() or engine.detach() "
            "before tracing"
        )


def is_annotated(kind: type[Tensor]) -> bool:
    """Whether a type of tensors adds metadata to results of torch's functions, as those of MONAI and fastai do.

    Results of parameters are plain tensors, and types that change what torch dispatches may hold no data of their own.
    """
    plain_results = kind.__torch_function__ is nn.Parameter.__torch_function__
    return not plain_results and kind.__torch_dispatch__ is Tensor.__torch_dispatch__


def without_metadata(tensor: Tensor) -> Tensor:
    """Return the same values as a tensor without metadata."""
    return tensor.as_subclass(Tensor) if is_annotated(type(tensor)) else tensor
