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
from dropopt.engine.patterns import channel_gate, element_gate, spatial_gate, spatial_structure

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
        sample = x.detach()[: -(-x.shape[0] // _SCORED_SHARE)]
        with torch.no_grad():
            gate = self._gate(x.detach()) if self.masks else None
            if self.kind in scores.FORWARD:
                self._add(scores.FORWARD[self.kind](sample.float()), sample.shape[0])
            if self.track_area and sample.ndim > 2:
                self.area.lerp_(spatial_structure(sample).float().mean(), 0.1)
        if self.kind == "taylor" and x.requires_grad:
            scored: Tensor = _ScoredGate.apply(x, gate, self.totals, self.count)
            return scored
        return x if gate is None else x * gate

    def _gate(self, x: Tensor) -> Tensor:
        p = self.p.view(-1, *[1] * (x.ndim - 2))
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
        totals, count = self.totals.clone(), self.count.clone()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for part in (totals, count, self.area):  # every rank drops at the same rates
                torch.distributed.all_reduce(part)
            self.area /= torch.distributed.get_world_size()
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


class _ScoredGate(torch.autograd.Function):
    """x * gate, whose backward pass also scores: activation before the mask, gradient after it.

    So dropped features are scored too, though their own gradient is zero. Only the scored samples are kept, as
    a copy: an in-place operation that follows cannot overwrite them, nor need the whole activation stay in memory.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor | None, totals: Tensor, count: Tensor) -> Tensor:
        sample = x[: -(-x.shape[0] // _SCORED_SHARE)].clone()
        ctx.save_for_backward(sample, gate)
        ctx.totals, ctx.count = totals, count
        return x.clone() if gate is None else x * gate  # a view could not be followed by an in-place operation

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = gradients
        sample, gate = ctx.saved_tensors
        with torch.no_grad():
            score = scores.taylor_score(sample.float(), gradient[: sample.shape[0]].float())
            # A loss scaler may let a step overflow on purpose: that step says nothing.
            ctx.totals.add_(score.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0))
            ctx.count.add_(sample.shape[0])
        return gradient if gate is None else gradient * gate, None, None, None
