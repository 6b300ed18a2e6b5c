"""DropoutEngine: the paper's rates, computed between epochs, in force at every site of a network.

    eq. (15)   budget   how much a site drops: a blend of the members' rates
    allocation share    which of its features carry that budget (eq. 13, the lemma, eq. 4-6)
    pattern    draw     which units fall together (patterns.py, spatial.py)

Everything here runs once per ``step``; between steps the sites work alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dropopt import equations
from dropopt.config import METHODS, P_MAX, STAGES, EngineConfig
from dropopt.engine.attached import Attached
from dropopt.engine.blend import reweighted
from dropopt.engine.importance.probes import PROBES
from dropopt.engine.masks.allocation import share_out
from dropopt.engine.places.find import Example, Place
from dropopt.engine.randomness import random_state, set_random_state
from dropopt.engine.site import DropoutSite, mean_over_ranks
from dropopt.engine.updates import UpdateDropper

#: Images that a probe looks at: relevance of so many costs less than one training step on a usual batch.
PROBED = 32


@dataclass(frozen=True)
class Signals:
    """What training last told the engine; None before it was told."""

    progress: float = 0.0  # t in [0, 1]
    val_loss: float | None = None
    train_loss: float | None = None
    val_accuracy: float | None = None

    def updated(self, progress: float, **news: float | None) -> Signals:
        """A copy with what is new; raises ValueError for what is not finite."""
        known = {name: value if value is not None else getattr(self, name) for name, value in news.items()}
        for name, value in known.items():
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value}")
        return Signals(progress=progress, **known)


class DropoutEngine(Attached):
    """Dropout at the sites of ``model``; made by :func:`dropopt.attach`.

    Use as a context manager, or call :meth:`detach`. Rates change in :meth:`step` and nowhere else.
    """

    def __init__(self, model: nn.Module, config: EngineConfig, places: list[Place], *, complexity: float = 0.5) -> None:
        if not 0 <= complexity <= 1:
            raise ValueError(f"complexity must be in [0, 1], got {complexity}")
        super().__init__()
        self.model = model
        self.config = config
        self.complexity = complexity
        self.places = {place.name: place for place in places}
        self.sites = {place.name: self._make_site(place) for place in places}
        self._signals = Signals()
        self._tilt = [0.0] * len(METHODS)  # log of what adaptive efficacy multiplies the weights by
        self._dropper: UpdateDropper | None = None
        for name, place in self.places.items():
            self.sites[name].to(next((p.device for p in place.module.parameters()), _device(model)))
            self._handles.append(place.module.register_forward_hook(self.sites[name].hook))
        self._rows = self._apply()

    # -- what the person calls

    def step(
        self,
        *,
        epoch: float,
        epochs: int,
        val_loss: float | None = None,
        train_loss: float | None = None,
        val_accuracy: float | None = None,
    ) -> None:
        """Compute every rate anew from training's progress and what the sites have seen.

        ``epoch`` of ``epochs`` are completed (fractions are fine: call it every n optimizer steps if you like).
        Losses in nats, accuracy in [0, 1]; what is None keeps its last value. Raises ValueError for an epoch outside
        [0, epochs] and for a metric that is not finite.
        """
        if not 0 <= epoch <= epochs or epochs < 1:
            raise ValueError(f"epoch must be in [0, {epochs}], got {epoch}")
        if self.config.drop_updates and self._dropper is None:
            raise ValueError("drop_updates masks the optimizer's updates: call engine.watch(optimizer) before training")
        self._signals = self._signals.updated(
            epoch / epochs, val_loss=val_loss, train_loss=train_loss, val_accuracy=val_accuracy
        )
        if self.config.efficacy == "adaptive" and val_loss is not None:
            self._learn_weights()
        for site in self.sites.values():
            site.refresh(self.config.importance_decay)
        self._rows = self._apply()

    def rates(self) -> list[dict[str, Any]]:
        """One row per site, in order of depth: ``site``, ``depth``, each member's rate, ``integrated`` (eq. 15), and
        ``applied``, the expected dropped fraction, which is lower where ``integrated`` cannot be met."""
        return [dict(row) for row in self._rows]

    def weights(self) -> dict[str, float]:
        """Efficacy weights of eq. (15) now in force, summing to 1."""
        return dict(zip(METHODS, self._shares(), strict=True))

    @property
    def needs_probe(self) -> bool:
        """Whether importances come from :meth:`probe` rather than from training's own passes."""
        return self.config.importance in PROBES and self._uses_importance()

    def probe(self, images: Example, labels: Tensor) -> None:
        """Score the features on a labelled batch, for the importances that training does not give away.

        The first PROBED images are enough: the moving average over epochs sees more.
        Sites are silent and BatchNorm is in eval mode meanwhile; weights, gradients, statistics and random state
        stay bit-identical. Does nothing unless :attr:`needs_probe`.
        """
        if not self.needs_probe:
            return
        batch = images if isinstance(images, tuple) else (images,)
        few = tuple(part[:PROBED] for part in batch)
        with self.silent():
            score = PROBES[self.config.importance]
            scores = score(self.model, self.places, few if isinstance(images, tuple) else few[0], labels[:PROBED])
        for name, value in scores.items():
            self.sites[name].set_importance(mean_over_ranks(value), self.config.importance_decay)

    def importances(self) -> dict[str, Tensor]:
        """Normalised importance (C,) in [0, 1] of each site's features."""
        return {name: _normalised(site) for name, site in self.sites.items()}

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Mask the updates of ``optimizer``, if ``config.drop_updates``; ConfigError where it updates no feature."""
        if self.config.drop_updates and self._dropper is None:
            pairs = [(self.sites[name], place.makers) for name, place in self.places.items()]
            self._dropper = UpdateDropper(pairs, optimizer)

    def silent(self) -> _Silence:
        """Context in which no site drops or observes anything, whatever mode the model is in."""
        return _Silence(list(self.sites.values()))

    def state_dict(self) -> dict[str, Any]:
        """All that a later :meth:`load_state_dict` needs to go on bit for bit, random state included."""
        return {
            "signals": asdict(self._signals),
            "tilt": list(self._tilt),
            "complexity": self.complexity,
            "sites": {name: {k: v.clone() for k, v in site.state_dict().items()} for name, site in self.sites.items()},
            "rng": random_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; sets torch's random state, which the masks are drawn from.

        Raises ValueError when it is of other sites.
        """
        if set(state["sites"]) != set(self.sites):
            raise ValueError(f"state is of sites {sorted(state['sites'])}, this engine has {sorted(self.sites)}")
        for name, site in self.sites.items():
            site.resume(state["sites"][name])
        self.complexity = state["complexity"]
        self._signals = Signals(**state["signals"])
        self._tilt = list(state["tilt"])
        set_random_state(state["rng"])
        self._rows = self._apply()

    def detach(self) -> None:
        """Take every hook off: the model is as it was."""
        super().detach()
        if self._dropper is not None:
            self._dropper.remove()
            self._dropper = None

    # -- how much

    def _members(self, place: Place, site: DropoutSite) -> dict[str, float]:
        """Rates of the five members at a site, each in [0, 1]."""
        c, signals = self.config, self._signals
        importance = _normalised(site)
        weight = equations.epoch_weight(c.lambda_init, c.kappa, signals.progress, c.theta)
        area = site.area.reshape(1)
        rates = {
            "adaptive": equations.adaptive_rate(
                c.r0, self._alpha(), place.depth, signals.progress, c.theta_depth, c.theta_epoch
            ),
            "structured": equations.structured_rate(c.r0, self._eligible(importance), reading=c.reading),
            "contextual": self._contextual(),
            "pfid": equations.pfid_rate(c.r0, weight, importance, reading=c.reading),
            "spatial": equations.structured_rate(c.r0, area, reading=c.reading),
        }
        return {method: float(rates[method]) for method in METHODS}

    def _alpha(self) -> float:
        """Eq. (2); before the first validation, alpha itself."""
        c, loss = self.config, self._signals.val_loss
        if loss is None:
            return c.alpha
        return float(equations.adjusted_alpha(c.alpha, loss, c.delta, c.lambda_loss, reading=c.reading))

    def _contextual(self) -> float:
        """Eq. (9)-(11); before the first validation, performance has no say (factor 1)."""
        c = self.config
        performance = self._performance()
        return float(
            equations.contextual_rate(
                c.r0,
                equations.complexity_factor(self.complexity, c.complexity_theta),
                equations.duration_factor(self._signals.progress, 0.5, c.duration_phi),
                1.0
                if performance is None
                else equations.performance_factor(performance, c.performance_psi, reading=c.reading),
            )
        )

    def _performance(self) -> float | None:
        signals = self._signals
        if self.config.performance == "accuracy":
            value = signals.val_accuracy
        elif self.config.performance == "loss":
            value = signals.val_loss
        elif signals.val_loss is None or not signals.train_loss:
            value = None
        else:
            value = signals.val_loss / signals.train_loss
        return None if value is None else max(value, 1e-6)  # its logarithm is taken

    def _shares(self) -> list[float]:
        stage = min(int(self._signals.progress * len(STAGES)), len(STAGES) - 1)
        tilted = [w * math.exp(tilt) for w, tilt in zip(self.config.weights(stage), self._tilt, strict=True)]
        return [w / sum(tilted) for w in tilted]

    def _learn_weights(self) -> None:
        signals = self._signals
        if signals.val_loss is None or signals.train_loss is None:
            return
        old = self._shares()
        mean_rates = [sum(row[m] for row in self._rows) / len(self._rows) for m in METHODS]
        new = reweighted(
            old,
            mean_rates,
            val_loss=signals.val_loss,
            train_loss=signals.train_loss,
            step=self.config.efficacy_step,
            floor=self.config.efficacy_floor,
        )
        self._tilt = [
            tilt + math.log(n / o) if o > 0 else tilt for tilt, n, o in zip(self._tilt, new, old, strict=True)
        ]

    # -- where

    def _eligible(self, importance: Tensor) -> Tensor:
        """S of eq. (6): 1 where eq. (4) would drop, on normalised importance; everywhere when it would nowhere."""
        eligible = 1 - torch.as_tensor(equations.threshold_mask(importance, self.config.structured_threshold))
        return eligible if bool(eligible.any()) else torch.ones_like(eligible)

    def _uses_importance(self) -> bool:
        c = self.config
        weights = [c.weights(stage) for stage in range(len(STAGES))]
        members = any(w[METHODS.index("structured")] or w[METHODS.index("pfid")] for w in weights)
        return members or self._per_feature() or c.drop_updates is not False

    def _per_feature(self) -> bool:
        return self.config.allocation != "uniform" or self.config.pattern in ("structured", "own")

    def _by_importance(self, importance: Tensor) -> Tensor:
        """Eq. (13) for r0 = 1, (C,)."""
        c = self.config
        weight = equations.epoch_weight(c.lambda_init, c.kappa, self._signals.progress, c.theta)
        return torch.as_tensor(equations.feature_rate(1.0, weight, importance, reading=c.reading))

    def _preference(self, importance: Tensor) -> Tensor:
        """In which proportion features carry the budget, (C,)."""
        c = self.config
        preference = torch.ones_like(importance)
        if c.allocation == "feature":  # eq. (13)
            preference = self._by_importance(importance)
        elif c.allocation == "importance":  # the lemma
            preference = torch.as_tensor(equations.importance_rate(self._alpha(), importance, reading=c.reading))
        if c.pattern == "structured":  # eq. (5), (6)
            eligible = self._eligible(importance)
            preferred = preference * eligible
            preference = preferred if bool(preferred.any()) else eligible
        return preference

    def _mixture(
        self, members: Mapping[str, float], shares: Sequence[float], site: DropoutSite
    ) -> tuple[Tensor, Tensor]:
        """Each method's share (M,), and its rates (M, C) in its own pattern, whose mean is the member's rate."""
        importance = _normalised(site)
        rates = torch.stack([torch.full_like(importance, min(members[m], P_MAX)) for m in METHODS])
        rates[METHODS.index("structured")] = share_out(members["structured"], self._eligible(importance))
        rates[METHODS.index("pfid")] = share_out(members["pfid"], self._by_importance(importance))
        return torch.tensor(shares), rates

    def _apply(self) -> list[dict[str, Any]]:
        """Put the rates in force at every site and return them as rows."""
        rows = []
        shares = self._shares()
        for name, place in self.places.items():
            site = self.sites[name]
            members = self._members(place, site)
            integrated = float(equations.integrated_rate(list(members.values()), shares))
            if self.config.pattern == "own":
                site.set_mixture(*self._mixture(members, shares, site))
            elif site.p.numel() == 1:
                site.p.fill_(min(integrated, P_MAX))
            else:
                site.p.copy_(share_out(integrated, self._preference(_normalised(site))))
            applied = float(site.p.mean())
            rows.append(
                {"site": name, "depth": place.depth, **members, "integrated": integrated, "applied": applied}
                | {f"w_{method}": share for method, share in zip(METHODS, shares, strict=True)}
                | {"alpha": self._alpha()}
            )
        return rows

    def _make_site(self, place: Place) -> DropoutSite:
        c = self.config
        return DropoutSite(
            place.axis,
            place.features,
            c.pattern,
            c.block_size,
            per_feature=self._per_feature(),
            importance=c.importance if self._uses_importance() else None,
            track_area=any(c.weights(stage)[METHODS.index("spatial")] for stage in range(len(STAGES))),
            masks=c.drop_updates != "only",
        )


class _Silence:
    def __init__(self, sites: list[DropoutSite]) -> None:
        self.sites = sites

    def __enter__(self) -> None:
        for site in self.sites:
            site.silent = True

    def __exit__(self, *_: object) -> None:
        for site in self.sites:
            site.silent = False


def _normalised(site: DropoutSite) -> Tensor:
    return torch.as_tensor(equations.normalised(site.importance))


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
