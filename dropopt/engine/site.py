"""DropoutSite: one place of the network where features are dropped.

A site is not part of the model: it is held by a forward hook, so that classes, keys and parameters of the model
stay what they are. The hook is a bound method, so a deep copy of the model (for weight averaging, say) gets
a site of its own. All that changes lives in buffers, updated in place: compiled code reads them without recompiling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dropopt.engine.importance import running as scores
from dropopt.engine.masks.mixture import OWN_PATTERN, MixtureGate, mixture_gate
from dropopt.engine.masks.patterns import Gate, channel_gate, element_gate
from dropopt.engine.masks.spatial import spatial_gate, spatial_structure

#: One sample in 16 of a batch is observed, and once enough were since the last refresh in one step of 8, drawn at
#: random: an epoch sees hundreds, the cost all but vanishes.
_OBSERVED_SHARE = 16
_OBSERVED_STEPS = 8
_ENOUGH = 32


#: What is needed, beside the saved tensors, to rebuild a gate in the backward pass.
Rebuild = MixtureGate | Callable[..., Tensor] | None


class DropoutSite(nn.Module):
    """Drops features of a module's output at rates ``p``, and scores them on the way.

    Args: ``axis`` of the C features (1 or -1); ``features`` C; ``pattern`` of patterns.py or spatial.py;
    ``block_size`` in positions; ``per_feature``: rates are (C,) rather than (1,); ``importance``: the score to
    accumulate, or None; ``track_area``: measure the share of positions that eq. (8) holds safe; ``masks``: False leaves
    the forward pass alone (Drop(p) on updates only).
    """

    p: Tensor  # (1,) or (C,) drop rates in [0, P_MAX]
    shares: Tensor  # (M,) probability of each method, pattern "own" only
    method_rates: Tensor  # (M, C) each method's drop rates in [0, P_MAX], pattern "own" only
    importance: Tensor  # (C,) >= 0, as last refreshed
    totals: Tensor  # (rows, C) scores since the last refresh
    count: Tensor  # () samples observed since the last refresh
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
        self.observes = importance in scores.ROWS or track_area
        self._enough = False  # samples were observed; reading the count each time would cost more
        self.register_buffer("p", torch.zeros(features if per_feature else 1))
        if pattern == "own":
            self.register_buffer("shares", torch.full((len(OWN_PATTERN),), 1 / len(OWN_PATTERN)))
            self.register_buffer("method_rates", torch.zeros(len(OWN_PATTERN), features))
            self._shares_on_host = self.shares.cpu().clone()  # the sizes of runs are drawn without waiting for a GPU
        self.register_buffer("importance", torch.ones(features))
        self.register_buffer("totals", torch.zeros(scores.ROWS.get(importance or "", 0), features))
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("refreshes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("area", torch.ones(()))

    def hook(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        """Forward hook: the masked output while the *host* trains, nothing (so no trace) otherwise."""
        if self.silent or not module.training or output.numel() == 0:
            return None
        x = output if self.axis == 1 else output.movedim(-1, 1)
        if self.p.device != x.device:  # the model moved after it was attached to
            self.to(x.device)
        y = self._masked(x)
        return y if self.axis == 1 else y.movedim(1, -1)

    def _masked(self, x: Tensor) -> Tensor:
        still = x.detach()
        gate = self._gate(still) if self.masks else None
        observed = self.observes and self._is_observed()
        if observed:
            self._observe(_sample(still))
        totals = self.totals if observed and self.kind == "taylor" and x.requires_grad else None
        if totals is None and gate is None:
            return x
        if totals is None and isinstance(gate, Gate) and gate.make is None:
            return gate.times(x)
        kept = () if gate is None else gate.kept
        how = gate.without_kept() if isinstance(gate, MixtureGate) else None if gate is None else gate.make
        masked: Tensor = _Masked.apply(x, totals, self.count, how, *kept)
        return masked

    def _gate(self, x: Tensor) -> Gate | MixtureGate:
        if self.pattern == "own":
            return mixture_gate(x, self.shares, self._shares_on_host, self.method_rates, self.block_size)
        p = self.p.view(-1, *[1] * (x.ndim - 2))
        if self.pattern == "element":
            return element_gate(x, p)
        if self.pattern == "spatial" and x.ndim > 2:
            return spatial_gate(x, p, self.block_size)
        return channel_gate(x, p)

    def _is_observed(self) -> bool:
        """Whether this step is. Compiled code has one graph, and a GPU would have to be waited for."""
        if torch.compiler.is_compiling() or not self.count.is_cpu:
            return True
        drawn = torch.rand(()).item() * _OBSERVED_STEPS < 1  # always: a checkpointed pass must draw the same again
        if not self._enough:
            self._enough = self.count.item() >= _ENOUGH
        return drawn or not self._enough

    def _observe(self, sample: Tensor) -> None:
        """What the forward pass alone tells."""
        if self.kind in scores.FORWARD:
            self.totals += scores.FORWARD[self.kind](sample.float())
        if self.track_area and sample.ndim > 2:
            self.area.lerp_(spatial_structure(sample).mean(), 0.1)
        if self.kind != "taylor":  # which counts where it scores, in the backward pass
            self.count += sample.shape[0]

    @torch.no_grad()
    def set_mixture(self, shares: Tensor, rates: Tensor) -> None:
        """New shares (M,) and rates (M, C) of the methods; ``p`` becomes what they amount to by eq. (15)."""
        self.shares.copy_(shares)
        self._shares_on_host = shares.cpu().clone()
        self.method_rates.copy_(rates)
        self.p.copy_(shares @ rates)

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a ``state_dict``."""
        self.load_state_dict(state)
        self._enough = False
        if self.pattern == "own":
            self._shares_on_host = self.shares.cpu().clone()

    @torch.no_grad()
    def refresh(self, decay: float) -> None:
        """Fold what was scored since the last refresh into ``importance``, as a moving average."""
        totals, count = mean_over_ranks(self.totals), mean_over_ranks(self.count)
        self.area.copy_(mean_over_ranks(self.area))
        if self.kind in scores.ROWS and count > 0:
            self.set_importance(scores.from_totals(self.kind, totals, count), decay)
        self.totals.zero_()
        self.count.zero_()
        self._enough = False

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


class _Masked(torch.autograd.Function):
    """x * gate, whose backward pass makes the gate anew from the little that was kept, and scores if asked to.

    A score is of the activation before the mask and the gradient after it, so dropped features are scored too,
    though their own gradient is zero. Only the scored samples are kept, as a copy: an in-place operation that follows
    cannot overwrite them, nor need the whole activation stay in memory.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        totals: Tensor | None,
        count: Tensor,
        how: MixtureGate | Callable[..., Tensor] | None,
        *kept: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(None if totals is None else _sample(x).clone(), *kept)
        ctx.totals, ctx.count, ctx.how = totals, count, how
        return (
            _gate_of(how, kept).times(x) if kept else x.clone()
        )  # a view could not be followed by an in-place operation

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        sample, *kept = ctx.saved_tensors
        if ctx.totals is not None:
            _add_taylor(ctx.totals, ctx.count, sample, gradient)
        masked = _gate_of(ctx.how, tuple(kept)).times(gradient) if kept else gradient
        return masked, None, None, None, *[None] * len(kept)


def _gate_of(how: Rebuild, kept: tuple[Tensor, ...]) -> Gate | MixtureGate:
    """The gate that was taken apart to save its tensors for the backward pass."""
    return how.with_kept(kept) if isinstance(how, MixtureGate) else Gate(kept, how)


def _sample(x: Tensor) -> Tensor:
    """The samples of a batch that are observed."""
    return x[: -(-x.shape[0] // _OBSERVED_SHARE)]


@torch.no_grad()
def _add_taylor(totals: Tensor, count: Tensor, sample: Tensor, gradient: Tensor) -> None:
    score = scores.taylor_score(sample.float(), gradient[: sample.shape[0]].float())
    # A loss scaler may let a step overflow on purpose: that step says nothing.
    totals.add_(score.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0))
    count.add_(sample.shape[0])
