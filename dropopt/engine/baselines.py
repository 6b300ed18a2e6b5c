"""Baselines: established dropout methods of torch, torchvision and timm, at the same places as the engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsFloat

import torch
from torch import Tensor, nn

from dropopt.config import Baseline, ConfigError
from dropopt.engine.attached import ATTACH_AGAIN, Attached, Seen
from dropopt.engine.metrics import as_progress
from dropopt.engine.outputs import require_tensor
from dropopt.engine.places.find import Survey
from dropopt.engine.places.place import Example, Place
from dropopt.engine.summary import place_table
from dropopt.numbers import listed, quantity
from dropopt.randomness import random_state, set_random_state


class BaselineEngine(Attached["BaselineSite"]):
    """A fixed dropout method with the interface of :class:`~dropopt.engine.engine.DropoutEngine`.

    Created by :func:`dropopt.attach`. Use it as a context manager, or call :meth:`detach` at the end.

    Attributes:
        model: the model that it is attached to.
        config: its settings, which cannot be replaced: detach it and attach another.
        places: what is known about each place, by the module's name.
        sites: the part that drops, by the module's name; empty for ``kind="none"``.

    Example:
        >>> import dropopt, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2))
        >>> baseline = dropopt.Baseline(kind="dropout2d", p=0.5, schedule="linear")
        >>> with dropopt.attach(model, baseline, example=torch.zeros(2, 1, 4, 4)) as engine:
        ...     engine.step(epoch=2, epochs=10)
        ...     engine.rates()
        [{'site': '0', 'depth': 0.5, 'applied': 0.1}]
    """

    needs_probe = False
    update_every = None

    def __init__(self, model: nn.Module, config: Baseline, found: Survey) -> None:
        super().__init__(model, found)
        self._config = config
        self._progress = 0.0
        for place in found.places:
            part = _part(config, place)
            if part is not None:
                self._add(place, BaselineSite(part, place.axis, place.batch_ndim))
        self._apply()

    @property
    def config(self) -> Baseline:
        """The settings that it was attached with."""
        return self._config

    def step(
        self,
        *,
        epoch: float,
        epochs: int,
        val_loss: SupportsFloat | None = None,
        train_loss: SupportsFloat | None = None,
        val_accuracy: SupportsFloat | None = None,
    ) -> None:
        """Set the drop rate that ``config.schedule`` gives for ``epoch``; the metrics are ignored.

        It warns as the step of :class:`~dropopt.engine.engine.DropoutEngine` does, of an ``epoch`` that is 0 after
        training and of places where nothing was dropped.

        Args:
            epoch: completed epochs, in [0, epochs].
            epochs: epochs of the whole training, >= 1.
            val_loss: ignored.
            train_loss: ignored.
            val_accuracy: ignored.

        Raises:
            ValueError: if ``epoch`` is outside its range.
            ConfigError: after :meth:`detach`, or if the module of a site was replaced after attaching, either of which
                removes its dropout.
        """
        progress = as_progress(epoch, epochs)
        self._require_attached(ATTACH_AGAIN)
        self._warn_if_behind(progress)
        self._warn_if_idle()
        self._progress = progress
        self._apply()

    def rates(self) -> list[dict[str, Any]]:
        """Return one row per place: ``site``, its module's name; ``depth``; and ``applied``, the drop rate."""
        self._require_hooks()
        return [
            {"site": name, "depth": place.depth, "applied": self._p() if name in self.sites else 0.0}
            for name, place in self.places.items()
        ]

    def summary(self) -> str:
        """Return a table of the places with their current rates, as text."""
        name, done = type(self.model).__name__, f"{self._progress:.0%} of training done"
        title = f"{name}: {quantity(len(self.places), 'place')}, {self._method()}, {done}"
        table = place_table(self.places, self.rates(), ("applied",))
        return "\n".join([title, *table, *self._unskipped(), *self._model_lines()])

    def __repr__(self) -> str:
        state = ", detached" if self.sites and not self._handles else ""
        name, places = type(self.model).__name__, quantity(len(self.places), "place")
        return f"BaselineEngine({name}, {places}, {self._method()}{state})"

    def _method(self) -> str:
        if self.config.kind == "none":
            return "no dropout"
        return f"{self.config.kind}, {self.config.schedule} p = {self.config.p:g}"

    def _unskipped(self) -> list[str]:
        """The line of a summary about places that stochastic depth cannot skip; none if there are none."""
        names = [name for name in self.places if name not in self.sites] if self.config.kind != "none" else []
        return [f"nothing is dropped at {listed(names)}: the output has another shape than the input"] if names else []

    def weights(self) -> dict[str, float]:
        """Return an empty dictionary, because a baseline has no members to weigh."""
        return {}

    def probe(self, images: Example, labels: Tensor) -> None:
        """Do nothing, because a baseline needs no importances."""

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Check that every site is still in the model; a baseline drops no updates."""
        self._require_hooks()

    def state_dict(self) -> dict[str, Any]:
        """Return the progress of training and torch's random state, from which the masks are drawn."""
        return {"progress": self._progress, "rng": random_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``; this sets torch's global random state.

        Raises:
            ValueError: if the state does not belong to a baseline.
        """
        if "progress" not in state:
            raise ValueError(f"the state has {sorted(state)}, which is not what state_dict() of a baseline returns")
        self._progress = state["progress"]
        set_random_state(state["rng"])
        self._apply()

    def _p(self) -> float:
        return self.config.p * (self._progress if self.config.schedule == "linear" else 1.0)

    def _apply(self) -> None:
        for site in self.sites.values():
            site.drop(self._p())


class BaselineSite(nn.Module):
    """Applies a library's module to the output of the module that it is hooked to, while that is in training mode.

    Stochastic depth replaces a dropped output by the module's input, so it drops the difference of the two. Places
    where their shapes differ have no site.
    """

    part: Any  # a module of torch, torchvision or timm

    def __init__(self, part: nn.Module, axis: int, batch_ndim: int = 2) -> None:
        super().__init__()
        self.part = part
        self._attribute = "drop_prob" if hasattr(part, "drop_prob") else "p"  # timm's name, or torch's
        self.axis = axis
        self.batch_ndim = batch_ndim  # the fewest dimensions of an output
        self.seen = Seen()
        self.sampling = False  # drop in eval mode as well
        of_torchvision = type(part).__module__.startswith("torchvision.")
        self.skips = of_torchvision and type(part).__name__ == "StochasticDepth"
        self.block_size = part.block_size if of_torchvision and hasattr(part, "block_size") else None

    @property
    def rate(self) -> float:
        """The drop probability."""
        return float(getattr(self.part, self._attribute))

    def drop(self, p: float) -> None:
        """Set the drop probability."""
        setattr(self.part, self._attribute, p)

    def extra_repr(self) -> str:
        """The dimension of the features, for ``repr``; the method is listed as a part."""
        return f"axis={self.axis}"

    def hook(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """Forward hook: return the masked output if ``module`` is in training mode or sampled, else None."""
        if not (self.sampling or self.seen.note(module)):
            return None
        require_tensor(module, output, self.batch_ndim)
        if self.skips:
            identity = args[0] if args else output  # which, after an in-place operation, its input may be too
            if identity is output:
                raise ConfigError(
                    f"stochastic_depth replaces the output of module {type(module).__name__} by its input, which it "
                    "changes in place or takes by name: choose other sites, or another kind"
                )
            return identity + self.part(output - identity) if identity.shape == output.shape else None
        if self.block_size is not None:  # torchvision refuses even blocks, and limits a block to the map's size
            side = min(self.block_size, *output.shape[2:])
            self.part.block_size = side - (side + 1) % 2
        masked: Tensor = self.part(output if self.axis == 1 else output.movedim(-1, 1))
        return masked if self.axis == 1 else masked.movedim(1, -1)


def _part(config: Baseline, place: Place) -> nn.Module | None:
    """Return the library's module for a place, whose drop probability is set later; None where it drops nothing."""
    if config.kind == "none":
        return None
    if config.kind == "stochastic_depth":
        return None if place.reshapes else _of_torchvision(config)
    if config.kind == "dropout2d" and place.ndim != 4 and place.axis == 1:  # signals and volumes
        return {3: nn.Dropout1d, 5: nn.Dropout3d}.get(place.ndim, nn.Dropout)(config.p)
    if config.kind == "dropout" or place.ndim != 4:  # without a map, dropblock is plain dropout
        return nn.Dropout(config.p)
    if config.kind == "dropout2d":
        return nn.Dropout2d(config.p)
    return _timm_dropblock(config) if config.library == "timm" else _of_torchvision(config)


def _of_torchvision(config: Baseline) -> nn.Module:
    from torchvision.ops import DropBlock2d, StochasticDepth  # takes two seconds, which other kinds do not need

    skips = config.kind == "stochastic_depth"
    part: nn.Module = StochasticDepth(config.p, "row") if skips else DropBlock2d(config.p, config.block_size)
    return part


def _timm_dropblock(config: Baseline) -> nn.Module:
    try:
        from timm.layers.drop import DropBlock2d as TimmDropBlock2d
    except ImportError:
        raise ConfigError("timm is not installed; pip install timm") from None
    return TimmDropBlock2d(config.p, config.block_size)
