"""DropoutSite: one place of the network where features are dropped.

A site is not a submodule of the model. A forward hook holds it, so the classes, keys and parameters of the model do
not change. The hook is a bound method, so a deep copy of the model (for weight averaging, say) has sites of its own.
All state that changes is in buffers, which are updated in place: compiled code reads them without recompiling.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dropopt.config import ConfigError, Importance, Pattern
from dropopt.engine.attached import Seen
from dropopt.engine.importance import from_training as scores
from dropopt.engine.masks.mixture import OWN_PATTERN, MixtureGate, mixture_gate, pattern_gate
from dropopt.engine.masks.noise import in_transform
from dropopt.engine.masks.patterns import Gate
from dropopt.engine.masks.spatial import spatial_structure
from dropopt.engine.outputs import is_annotated, refuse_copies, require_tensor
from dropopt.engine.ranks import mean_over_ranks
from dropopt.numbers import span

#: In an observed step, one sample in 16 is scored. After a refresh, every step is observed until 32 samples have been
#: scored, and then one step in 8, at random. An epoch scores hundreds of samples at a negligible cost.
_OBSERVED_SHARE = 16
_OBSERVED_STEPS = 8
_ENOUGH = 32

#: What is needed, besides the saved tensors, to rebuild a gate in the backward pass.
Rebuild = MixtureGate | Callable[..., Tensor] | None


class DropoutSite(nn.Module):
    """Drops features of a module's output at rates ``p``, and scores their importance.

    Args:
        axis: dimension of the features, 1 or -1.
        features: C, their number.
        pattern: which units are dropped together.
        block_size: side of a block of pattern ``spatial``, in positions.
        per_feature: whether ``p`` is (C,) rather than (1,).
        importance: kind of score to accumulate; None for none.
        track_area: whether to measure the fraction of positions that are safe to drop by eq. (8).
        masks: whether to mask the output; False for Drop(p) on updates only.
        batch_ndim: the fewest dimensions of an output, >= 2; one with fewer is a sample without a batch.
    """

    p: Tensor  # (1,) or (C,) drop rates in [0, P_MAX]
    shares: Tensor  # (M,) probability of each method; pattern "own" only
    method_rates: Tensor  # (M, C) drop rates of each method, in [0, P_MAX]; pattern "own" only
    importance: Tensor  # (C,) >= 0, of the last refresh
    totals: Tensor  # (rows, C) sums of scores since the last refresh
    count: Tensor  # () samples scored since the last refresh
    refreshes: Tensor  # () number of times that `importance` was set
    area: Tensor  # () fraction of safe positions, moving average

    def __init__(
        self,
        axis: int,
        features: int,
        pattern: Pattern,
        block_size: int = 1,
        *,
        per_feature: bool = False,
        importance: Importance | None = None,
        track_area: bool = False,
        masks: bool = True,
        batch_ndim: int = 2,
    ) -> None:
        super().__init__()
        self.axis = axis
        self.pattern = pattern
        self.block_size = block_size
        self.kind = importance
        self.track_area = track_area
        self.masks = masks
        self.batch_ndim = batch_ndim
        self.silent = False
        self.sampling = False  # drop in eval mode as well, without scores
        self.seen = Seen()
        self.observes = importance in scores.ROWS or track_area
        # Whether anything depends on the number of features; without it, a network may change its width.
        self._by_feature = per_feature or pattern == "own" or importance is not None
        self._enough = False  # whether enough samples were scored; reading `count` in every step is slower
        # The random numbers of the passes that were observed before that, by which a checkpoint's second pass is known.
        self._early: deque[float] = deque(maxlen=256)
        # Not of the default type: in half precision, counts and sums would stop growing.
        f32 = torch.float32
        self.register_buffer("p", torch.zeros(features if per_feature else 1, dtype=f32))
        if pattern == "own":
            self.register_buffer("shares", torch.full((len(OWN_PATTERN),), 1 / len(OWN_PATTERN), dtype=f32))
            self.register_buffer("method_rates", torch.zeros(len(OWN_PATTERN), features, dtype=f32))
            self._shares_on_host = self.shares.cpu().clone()  # the sizes of runs are drawn without waiting for a GPU
        self.register_buffer("importance", torch.ones(features, dtype=f32))
        rows = 0 if importance is None else scores.ROWS.get(importance, 0)
        self.register_buffer("totals", torch.zeros(rows, features, dtype=f32))
        self.register_buffer("count", torch.zeros((), dtype=f32))
        self.register_buffer("refreshes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("area", torch.ones((), dtype=f32))

    def extra_repr(self) -> str:
        """What is dropped and how often, for ``repr``."""
        off = "" if self.masks else ", masks=False"
        p = span(self.p.tolist())
        return f"{self.importance.numel()} features, axis={self.axis}, pattern={self.pattern!r}, p={p}{off}"

    def hook(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """Forward hook: return the masked output if ``module`` is in training mode or sampled, else None."""
        if self.silent or not (self.sampling or self.seen.note(module)):
            return None
        require_tensor(module, output, self.batch_ndim)
        features = output.shape[self.axis]
        if features != self.importance.numel() and self._by_feature:
            raise ConfigError(
                f"module {type(module).__name__} with dropout returned {features} features, but had "
                f"{self.importance.numel()} when the engine was attached: change the model first, then attach"
            )
        if not torch.compiler.is_compiling():
            refuse_copies(module)
        if output.numel() == 0:
            return None
        if type(output) is Tensor or torch.compiler.is_compiling() or not is_annotated(type(output)):
            return self._dropped(output)
        # Its functions would wrap each result, which leaves a view that in-place operations must not change.
        with torch._C.DisableTorchFunctionSubclass():
            masked = self._dropped(output.as_subclass(Tensor)).as_subclass(type(output))
        masked.__dict__.update(output.__dict__)
        return masked

    def _dropped(self, output: Tensor) -> Tensor:
        x = output if self.axis == 1 else output.movedim(-1, 1)
        if self.p.device != x.device:  # the model was moved after attaching
            self.to(x.device)
        y = self._masked(x)
        return y if self.axis == 1 else y.movedim(1, -1)

    def _masked(self, x: Tensor) -> Tensor:
        still = x.detach()
        gate = self._gate(still) if self.masks else None
        if in_transform():  # which allows no custom backward pass, and torch.func no update of the scores either
            if self.observes:
                warnings.warn(
                    "torch.func and forward-mode derivatives hide activations: their importance is not scored",
                    stacklevel=2,
                )
            return x if gate is None else gate.times(x)
        observed = self.observes and not self.sampling and self._is_observed()
        if observed:
            self._observe(_sample(still))
        totals = self.totals if observed and self.kind == "taylor" and x.requires_grad else None
        if totals is None and gate is None:
            return x
        if totals is None and isinstance(gate, Gate) and gate.make is None:
            return gate.times(x)
        saved = () if gate is None else gate.saved
        rebuild = gate.without_saved() if isinstance(gate, MixtureGate) else None if gate is None else gate.make
        masked: Tensor = _Masked.apply(x, totals, self.count, rebuild, *saved)
        return masked

    def _gate(self, x: Tensor) -> Gate | MixtureGate:
        if self.pattern == "own":
            return mixture_gate(x, self.shares, self._shares_on_host, self.method_rates, self.block_size)
        return pattern_gate(x, self.pattern, self.p.view(-1, *[1] * (x.ndim - 2)), self.block_size)

    def _is_observed(self) -> bool:
        """Whether to observe this step.

        Always true in compiled code, which must be one graph, and on a GPU, where reading the count would wait. Never
        true in an exported program, whose scores no engine reads.
        """
        if getattr(torch.compiler, "is_exporting", bool)():  # since torch 2.7
            return False
        if torch.compiler.is_compiling() or not self.count.is_cpu:
            return True
        # Drawn in every step, because a checkpoint runs a pass again with the same random numbers. The second pass has
        # to save the same tensors as the first, although enough samples may have been scored since.
        drawn = torch.rand((), dtype=torch.float64, device="cpu").item()
        if not self._enough:
            self._enough = self.count.item() >= _ENOUGH
        if not self._enough:
            self._early.append(drawn)
            return True
        return drawn * _OBSERVED_STEPS < 1 or drawn in self._early

    def _observe(self, sample: Tensor) -> None:
        """Accumulate the scores of the sample that need the forward pass only."""
        if self.kind in scores.FORWARD:
            self.totals += scores.FORWARD[self.kind](sample.float())
        if self.track_area and sample.ndim > 2:
            self.area.lerp_(spatial_structure(sample).mean(), 0.1)
        if self.kind != "taylor":  # taylor is scored and counted in the backward pass
            self.count += sample.shape[0]

    @torch.no_grad()
    def set_mixture(self, shares: Tensor, rates: Tensor) -> None:
        """Set the shares (M,) and the rates (M, C) of the methods; ``p`` becomes their blend by eq. (15)."""
        shares = shares.to(self.shares)
        self.shares.copy_(shares)
        self._shares_on_host = shares.cpu().clone()
        self.method_rates.copy_(rates)
        self.p.copy_(shares @ rates)

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state_dict``."""
        self.load_state_dict(state)
        self._begin()
        if self.pattern == "own":
            self._shares_on_host = self.shares.cpu().clone()

    @torch.no_grad()
    def refresh(self, decay: float) -> None:
        """Update ``importance``, a moving average, with the scores since the last refresh, and clear the scores.

        Args:
            decay: weight of the old importance, in [0, 1).
        """
        totals, count = mean_over_ranks(self.totals), mean_over_ranks(self.count)
        self.area.copy_(mean_over_ranks(self.area))
        if self.kind in scores.ROWS and count > 0:
            self.set_importance(scores.from_totals(self.kind, totals, count), decay)
        self.totals.zero_()
        self.count.zero_()
        self._begin()

    def _begin(self) -> None:
        """Observe every step again until enough samples are scored."""
        self._enough = False
        self._early.clear()  # these passes have ended, and each step would search them

    @torch.no_grad()
    def set_importance(self, value: Tensor, decay: float) -> None:
        """Update ``importance`` with new scores (C,) >= 0; the old ones have the weight ``decay``, 0 the first time."""
        value = value.to(self.importance).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp(min=0)
        self.importance.copy_(self.importance.lerp(value, 1 - decay) if self.refreshes > 0 else value)
        self.refreshes += 1


class _Masked(torch.autograd.Function):
    """x * gate. The backward pass makes the gate again from its compact form, and scores by taylor if requested.

    The score uses the activation before the mask and the gradient after it, so dropped features are scored as well,
    although their own gradient is zero. The scored samples are saved as a copy: in-place operations cannot overwrite
    it, and the whole activation need not be saved in memory.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        totals: Tensor | None,
        count: Tensor,
        rebuild: Rebuild,
        *saved: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(None if totals is None else _sample(x).clone(), *saved)
        ctx.totals, ctx.count, ctx.rebuild = totals, count, rebuild
        # No view, so that in-place operations may follow.
        return _gate_of(rebuild, saved).times(x) if saved else x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        sample, *saved = ctx.saved_tensors
        if ctx.totals is not None:
            _add_taylor(ctx.totals, ctx.count, sample, gradient)
        masked = _gate_of(ctx.rebuild, tuple(saved)).times(gradient) if saved else gradient
        return masked, None, None, None, *[None] * len(saved)


def _gate_of(rebuild: Rebuild, saved: tuple[Tensor, ...]) -> Gate | MixtureGate:
    """Rebuild a gate from the tensors that were saved for the backward pass."""
    return rebuild.with_saved(saved) if isinstance(rebuild, MixtureGate) else Gate(saved, rebuild)


def _sample(x: Tensor) -> Tensor:
    """Return the samples of a batch that are scored."""
    return x[: -(-x.shape[0] // _OBSERVED_SHARE)]


@torch.no_grad()
def _add_taylor(totals: Tensor, count: Tensor, sample: Tensor, gradient: Tensor) -> None:
    score = scores.taylor_score(sample.float(), gradient[: sample.shape[0]].float())
    # A loss scaler may cause overflow on purpose: such values are ignored.
    totals.add_(score.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0))
    count.add_(sample.shape[0])
