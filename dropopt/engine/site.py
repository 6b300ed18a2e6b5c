"""DropoutSite: one place of the network where features are dropped.

A site is not part of the model: it is held by a forward hook, so that classes, keys and parameters of the model
stay what they are. The hook is a bound method, so a deep copy of the model (for weight averaging, say) gets
a site of its own. All that changes lives in buffers, updated in place: compiled code reads them without recompiling.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dropopt.engine import importance as scores
from dropopt.engine.patterns import (
    channel_gate,
    element_bytes,
    element_gate,
    has_bytes,
    memory_order,
    pack,
    spatial_gate,
    spatial_structure,
    unpack,
)

#: Importances are estimated on one sample in 16 of each batch: an epoch sees hundreds, the cost all but vanishes.
_SCORED_SHARE = 16


class DropoutSite(nn.Module):
    """Drops features of a module's output at rates ``p``, and scores them on the way.

    Args: ``axis`` of the C features (1 or -1); ``features`` C; ``pattern`` of patterns.py; ``block_size`` in positions;
    ``per_feature``: rates are (C,) rather than (1,); ``importance``: the score to accumulate, or None;
    ``track_area``: measure the share of positions that eq. (8) holds safe; ``masks``: False leaves the forward
    pass alone (Drop(p) on updates only).
    """

    p: Tensor  # (1,) or (C,) drop rates in [0, P_MAX]
    importance: Tensor  # (C,) >= 0, as last refreshed
    totals: Tensor  # (rows, C) scores since the last refresh
    count: Tensor  # () samples in totals
    refreshes: Tensor  # () how often importance was set
    area: Tensor  # () share of safe positions, moving average

    def __init__(
        self,
        axis: int,
        features: int,
        pattern: str,
        block_size: int = 1,
        *,
        per_feature: bool = False,
        importance: str | None = None,
        track_area: bool = False,
        masks: bool = True,
    ) -> None:
        super().__init__()
        self.axis = axis
        self.pattern = pattern
        self.block_size = block_size
        self.kind = importance
        self.track_area = track_area
        self.masks = masks
        self.silent = False
        self.register_buffer("p", torch.zeros(features if per_feature else 1))
        self.register_buffer("importance", torch.ones(features))
        self.register_buffer("totals", torch.zeros(scores.ROWS.get(importance or "", 0), features))
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("refreshes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("area", torch.ones(()))

    def hook(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        """Forward hook: the masked output while the *host* trains, nothing (so no trace) otherwise."""
        if self.silent or not module.training:
            return None
        x = output if self.axis == 1 else output.movedim(-1, 1)
        if self.p.device != x.device:  # the model moved after it was attached to
            self.to(x.device)
        y = self._masked(x)
        return y if self.axis == 1 else y.movedim(1, -1)

    def _masked(self, x: Tensor) -> Tensor:
        sample = _sample(x.detach())
        packed = self.masks and self.pattern == "element" and has_bytes(x)
        with torch.no_grad():
            gate = self._gate(x.detach()) if self.masks and not packed else None
            if self.kind in scores.FORWARD:
                self._add(scores.FORWARD[self.kind](sample.float()), sample.shape[0])
            if self.track_area and sample.ndim > 2:
                self.area.lerp_(spatial_structure(sample).float().mean(), 0.1)
        totals = self.totals if self.kind == "taylor" and x.requires_grad else None
        if packed:
            masked: Tensor = _PackedElements.apply(x, self._rates(x), totals, self.count)
            return masked
        if totals is not None:
            scored: Tensor = _ScoredGate.apply(x, gate, totals, self.count)
            return scored
        return x if gate is None else x * gate

    def _rates(self, x: Tensor) -> Tensor:
        return self.p.view(-1, *[1] * (x.ndim - 2))

    def _gate(self, x: Tensor) -> Tensor:
        p = self._rates(x)
        if self.pattern == "element":
            return element_gate(x, p)
        if self.pattern == "spatial" and x.ndim > 2:
            return spatial_gate(x, p, self.block_size)
        return channel_gate(x, p)

    def _add(self, rows: Tensor, samples: int) -> None:
        self.totals += rows
        self.count += samples

    @torch.no_grad()
    def refresh(self, decay: float) -> None:
        """Fold what was scored since the last refresh into ``importance``, as a moving average."""
        totals, count = mean_over_ranks(self.totals), mean_over_ranks(self.count)
        self.area.copy_(mean_over_ranks(self.area))
        if self.kind in scores.ROWS and count > 0:
            self.set_importance(scores.from_totals(self.kind, totals, count), decay)
        self.totals.zero_()
        self.count.zero_()

    @torch.no_grad()
    def set_importance(self, value: Tensor, decay: float) -> None:
        """New scores (C,) >= 0; ``decay`` is the weight of the old ones, none the first time."""
        value = value.to(self.importance).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp(min=0)
        self.importance.copy_(self.importance.lerp(value, 1 - decay) if self.refreshes > 0 else value)
        self.refreshes += 1


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes that train together, which so drop at the same rates; a copy."""
    value = value.clone()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
        value /= torch.distributed.get_world_size()
    return value


class _ScoredGate(torch.autograd.Function):
    """x * gate, whose backward pass also scores: activation before the mask, gradient after it.

    So dropped features are scored too, though their own gradient is zero. Only the scored samples are kept, as
    a copy: an in-place operation that follows cannot overwrite them, nor need the whole activation stay in memory.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor | None, totals: Tensor, count: Tensor) -> Tensor:
        ctx.save_for_backward(_sample(x).clone(), gate)
        ctx.totals, ctx.count = totals, count
        return x.clone() if gate is None else x * gate  # a view could not be followed by an in-place operation

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = gradients
        sample, gate = ctx.saved_tensors
        _add_taylor(ctx.totals, ctx.count, sample, gradient)
        return gradient if gate is None else gradient * gate, None, None, None


class _PackedElements(torch.autograd.Function):
    """Element dropout that keeps one bit a unit for its backward pass, and scores there if ``totals`` is given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: Tensor, totals: Tensor | None, count: Tensor) -> Tensor:
        kept = element_bytes(x, p)
        scale = (1 / (1 - p)).to(x.dtype)
        ctx.save_for_backward(None if totals is None else _sample(x).clone(), pack(kept), scale)
        ctx.totals, ctx.count = totals, count
        ctx.shape, ctx.order = kept.shape, memory_order(kept)
        return kept.to(x.dtype).mul_(scale).mul_(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = gradients
        sample, bits, scale = ctx.saved_tensors
        if ctx.totals is not None:
            _add_taylor(ctx.totals, ctx.count, sample, gradient)
        gate = unpack(bits, ctx.shape, ctx.order).to(scale.dtype).mul_(scale)
        return gradient * gate if torch.is_grad_enabled() else gate.mul_(gradient), None, None, None


def _sample(x: Tensor) -> Tensor:
    """The samples of a batch that are scored."""
    return x[: -(-x.shape[0] // _SCORED_SHARE)]


@torch.no_grad()
def _add_taylor(totals: Tensor, count: Tensor, sample: Tensor, gradient: Tensor) -> None:
    score = scores.taylor_score(sample.float(), gradient[: sample.shape[0]].float())
    # A loss scaler may let a step overflow on purpose: that step says nothing.
    totals.add_(score.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0))
    count.add_(sample.shape[0])
