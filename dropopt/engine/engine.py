"""DropoutEngine: the paper's drop rates, computed between epochs and set at every site of a network.

    how much   members.py, efficacy.py    a site's rate: its members, blended by eq. (15)
    where      masks/allocation.py        the rate of each of its features (eq. 13, the lemma, eq. 4-6)
    how        masks/patterns.py, ...     which units are dropped together

Everything here runs once per ``step``. Between steps the sites work on their own.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, SupportsFloat, cast

import torch
from torch import Tensor, nn

from dropopt import equations
from dropopt.config import METHODS, P_MAX, ConfigError, EngineConfig
from dropopt.engine.attached import ATTACH_AGAIN, Attached
from dropopt.engine.drop_updates import UpdateDropper, plain_optimizer
from dropopt.engine.efficacy import EfficacyWeights
from dropopt.engine.importance.probes import PROBES
from dropopt.engine.masks.allocation import mixture_rates, proportions, share_out
from dropopt.engine.members import BY_AREA, BY_IMPORTANCE, alpha, member_rates
from dropopt.engine.metrics import Metrics, as_number, as_progress, used_metrics
from dropopt.engine.outputs import without_metadata
from dropopt.engine.places.find import Survey
from dropopt.engine.places.place import Example, Place
from dropopt.engine.places.record import device_of
from dropopt.engine.ranks import is_sharded, mean_over_ranks, means_over_ranks
from dropopt.engine.site import DropoutSite
from dropopt.engine.summary import method_table, place_table
from dropopt.inputs import each
from dropopt.numbers import listed, quantity, span
from dropopt.randomness import random_state, set_random_state

#: Number of images of a probe: the relevance of so few costs less than one training step on a usual batch.
PROBED = 32


class DropoutEngine(Attached[DropoutSite]):
    """Dropout at the sites of a model, by the paper's equations; created by :func:`dropopt.attach`.

    Use it as a context manager, or call :meth:`detach` at the end. The drop rates change in :meth:`step` only.

    Attributes:
        model: the model that it is attached to.
        config: its settings, which cannot be replaced: detach it and attach another.
        complexity: D_complexity of eq. (9), in [0, 1].
        places: what is known about the module of each site, by the module's name.
        sites: the part that drops and observes, by the module's name.

    Example:
        >>> import dropopt, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2))
        >>> config = dropopt.EngineConfig(r0=0.3)
        >>> with dropopt.attach(model, config, example=torch.zeros(2, 1, 4, 4), complexity=0.5) as engine:
        ...     engine.step(epoch=1, epochs=10, train_loss=0.9, val_loss=1.0, val_accuracy=0.5)
        ...     [row["site"] for row in engine.rates()]
        ['0']
    """

    def __init__(self, model: nn.Module, config: EngineConfig, found: Survey, *, complexity: float) -> None:
        complexity = as_number("complexity", complexity)
        if not 0 <= complexity <= 1:
            raise ValueError(f"complexity must be in [0, 1], got {complexity}")
        super().__init__(model, found)
        self._config = config
        self.complexity = complexity
        self._metrics = Metrics()
        self._efficacy = EfficacyWeights(config)
        self._droppers: list[UpdateDropper] = []
        self._last_update = 0.0  # in epochs: when a watched optimizer was last known to make steps
        with torch.inference_mode(False):  # in inference mode, their state could not change later
            for place in found.places:
                device = device_of(place.module, default=device_of(model))
                with torch.device("cpu"):  # a default device may hold no numbers
                    site = self._make_site(place)
                # A model on the meta device gets its values later; a site has them now, and follows what it drops.
                self._add(place, site.to("cpu" if device.type == "meta" else device))
            self._rows = self._apply()
        self._unscored: list[str] = []  # sites that trained before the last step, but that no gradient passed

    @property
    def config(self) -> EngineConfig:
        """The settings that it was attached with."""
        return self._config

    @property
    def update_every(self) -> int | None:
        """Number of optimizer steps between refreshes within an epoch; None to refresh only at the end of an epoch."""
        every = self.config.update_every
        return None if every == "epoch" else every

    # -- during training

    def step(
        self,
        *,
        epoch: float,
        epochs: int,
        val_loss: SupportsFloat | None = None,
        train_loss: SupportsFloat | None = None,
        val_accuracy: SupportsFloat | None = None,
    ) -> None:
        """Recompute every drop rate from the progress of training and from what the sites observed.

        Call it after each epoch, or more often. A metric that is not given keeps its last value; the factor of
        eq. (2) or (9)-(11) that uses it is neutral until its first report. Metrics may be numbers of Python or NumPy,
        or tensors with one element. It warns of places where nothing was dropped since the last step, because their
        module stayed in eval mode while the model was training, as frozen BatchNorm does.

        Where several processes train one model, each of them calls this method. Metrics are averaged over the processes
        that give them, so that all have the same rates.

        It also warns if ``epoch`` is 0 although the model has been trained since the last step, because a loop that
        counts epochs from 0 has to give ``epoch + 1``.

        Args:
            epoch: completed epochs, in [0, epochs]; a fraction within an epoch.
            epochs: epochs of the whole training, >= 1.
            val_loss: validation loss, in nats.
            train_loss: training loss, in nats.
            val_accuracy: validation accuracy, in [0, 1].

        Raises:
            ValueError: if ``epoch`` or the accuracy is outside its range, if a metric is not a finite number, if
                ``config.drop_updates`` is set and :meth:`watch` was not called, or if :attr:`needs_probe` is
                true and :meth:`probe` was not called.
            ConfigError: after :meth:`detach`, or if the module of a site was replaced after attaching, either of which
                removes its dropout.

        Example:
            >>> import dropopt, torch
            >>> from torch import nn
            >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2))
            >>> config = dropopt.EngineConfig(w_structured=0, w_contextual=0, w_pfid=0)  # eq. (1) alone
            >>> engine = dropopt.attach(model, config, example=torch.zeros(2, 1, 4, 4))
            >>> before = engine.rates()[0]["applied"]
            >>> engine.step(epoch=5, epochs=10, train_loss=0.9, val_loss=1.0, val_accuracy=0.5)
            >>> before, engine.rates()[0]["applied"]
            (0.25, 0.234375)
        """
        progress = as_progress(epoch, epochs)
        self._require_attached(ATTACH_AGAIN)
        self._require_calls()
        given = Metrics().updated(progress, val_loss=val_loss, train_loss=train_loss, val_accuracy=val_accuracy)
        common, self.complexity, rates = self._averaged(given)
        self._metrics = self._metrics.updated(**asdict(common))
        self._unscored = [
            name
            for name, site in self.sites.items()
            if site.kind == "taylor" and site.seen.ran_in_training and not site.count
        ]
        self._warn_if_behind(progress)
        self._warn_if_unmasked(progress * epochs)
        self._warn_if_idle()
        if self.config.efficacy == "adaptive" and common.val_loss is not None:
            self._adapt_weights(rates)
        for site in self.sites.values():
            site.refresh(self.config.importance_decay)
        self._rows = self._apply()

    def _require_calls(self) -> None:
        """Raise ValueError if :meth:`watch` or :meth:`probe`, which the settings need, was not called."""
        if self.config.drop_updates and not self._droppers:
            raise ValueError("drop_updates masks the optimizer's updates: call engine.watch(optimizer) before training")
        if self.needs_probe and any(site.refreshes == 0 for site in self.sites.values()):
            raise ValueError(
                f"importance {self.config.importance!r} is measured by a probe: "
                "call engine.probe(images, labels) with a training batch before engine.step(...)"
            )

    def _averaged(self, given: Metrics) -> tuple[Metrics, float, list[float]]:
        """Return the metrics, the complexity and the mean rates of the members, averaged over all processes at once."""
        rates = {method: sum(row[method] for row in self._rows) / len(self._rows) for method in METHODS}
        own = {"complexity": self.complexity} | rates | asdict(given)
        common: dict[str, Any] = means_over_ranks(own, device_of(self.model))
        metrics = Metrics(**{name: common[name] for name in asdict(given)})
        return metrics, common["complexity"], [common[method] for method in METHODS]

    @property
    def needs_probe(self) -> bool:
        """Whether importances come from :meth:`probe` rather than from training's own passes."""
        return self.config.importance in PROBES and self._uses_importance()

    def probe(self, images: Example, labels: Tensor) -> None:
        """Score the features on a labelled batch, for the importances ``gradient``, ``lrp`` and ``composite``.

        Call it before each :meth:`step`, with a batch of training data. The model is in eval mode and its sites drop
        nothing meanwhile. Parameters, gradients, statistics and the random state are the same afterwards, bit for bit.
        The call does nothing unless :attr:`needs_probe` is true.

        Args:
            images: (N, C, H, W) inputs; a tuple or a dictionary where the model takes several arguments. The first 32
                samples are used.
            labels: (N,) class numbers, or (N, *positions) for logits (N, classes, *positions); or probabilities of
                the classes in the shape of the logits, such as one-hot vectors or those of mixup; otherwise the targets
                of a regression, or of several labels.

        Raises:
            ValueError: if the model does not return logits or other outputs that fit the labels.
            ConfigError: if the labels are not a tensor, if importance is ``lrp`` and the model uses a re-entrant
                checkpoint, if it reads weights that are distributed over processes, or if the module of a site was
                replaced after attaching.

        Example:
            >>> import dropopt, torch
            >>> from torch import nn
            >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2))
            >>> images, labels = torch.ones(2, 1, 4, 4), torch.tensor([0, 1])
            >>> engine = dropopt.attach(model, dropopt.EngineConfig(importance="lrp"), example=images, complexity=0.5)
            >>> engine.needs_probe
            True
            >>> engine.probe(images, labels)
            >>> engine.step(epoch=1, epochs=10)
        """
        if not self.needs_probe:
            return
        self._require_hooks()
        if not isinstance(labels, Tensor):
            raise ConfigError(
                f"the labels of a probe must be a tensor, got {type(labels).__name__}: give the targets of the first "
                "output, or choose an importance without a probe, such as taylor"
            )
        if self.config.importance != "gradient" and any(map(is_sharded, self.model.parameters())):
            raise ConfigError(
                f"importance {self.config.importance!r} reads weights, of which each process holds a part only "
                "(FSDP2): choose taylor or gradient"
            )
        few = each(lambda part: without_metadata(part)[:PROBED], images)
        with self.silent():
            score = PROBES[self.config.importance]
            scores = score(self.model, self.places, few, labels[:PROBED])
        for name, value in scores.items():
            self.sites[name].set_importance(mean_over_ranks(value), self.config.importance_decay)

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Apply Drop(p) to the updates of ``optimizer``, in addition to those of optimizers that are watched already.

        The call does nothing unless ``config.drop_updates`` is set, nor after :meth:`detach`. A copy of the engine
        watches no optimizer.

        Args:
            optimizer: any optimizer that holds parameters of the model, also in a wrapper such as Accelerate's.

        Raises:
            ConfigError: if the optimizer holds no parameter of a layer whose output features a site drops, if such
                parameters are distributed over processes or belong to a layer that peft adapts, or if the module of a
                site was replaced after attaching.

        Example:
            >>> import dropopt, torch
            >>> from torch import nn
            >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2))
            >>> config = dropopt.EngineConfig(drop_updates=True)
            >>> engine = dropopt.attach(model, config, example=torch.zeros(2, 1, 4, 4), complexity=0.5)
            >>> engine.watch(torch.optim.SGD(model.parameters(), lr=0.1))
            >>> engine.step(epoch=1, epochs=10)
        """
        self._require_hooks()
        if not self.config.drop_updates or not self._handles:
            return
        plain = plain_optimizer(optimizer)
        if not any(dropper.watches(plain) for dropper in self._droppers):
            pairs = [(self.sites[name], place.makers) for name, place in self.places.items()]
            self._droppers.append(UpdateDropper(pairs, plain))

    def _warn_if_unmasked(self, epoch: float) -> None:
        """Warn if the model has trained for an epoch in which no watched optimizer made a step."""
        if any(dropper.stepped for dropper in self._droppers):
            self._last_update = epoch
        for dropper in self._droppers:
            dropper.stepped = False
        if self._droppers and self._has_trained() and epoch - self._last_update >= 1:
            warnings.warn(
                "drop_updates dropped nothing for an epoch, because no watched optimizer ran the hooks of its step(): "
                "of an optimizer that wraps another, watch the inner one, such as optimizer.base_optimizer",
                stacklevel=3,
            )

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Return a context in which no site drops or observes anything, even if the model is in training mode."""
        before = [(site, site.silent) for site in self.sites.values()]
        for site, _ in before:
            site.silent = True
        try:
            yield
        finally:
            for site, silent in before:  # true in the context of another call
                site.silent = silent

    # -- reports

    def rates(self) -> list[dict[str, Any]]:
        """Return the current drop rates.

        Returns:
            One row per site, in order of execution:

            - ``site``: name of the module; ``depth``: its relative depth, in (0, 1];
            - ``adaptive``, ``structured``, ``contextual``, ``pfid``, ``spatial``: each member's rate, in [0, 1];
            - ``w_adaptive``, ...: each member's efficacy weight, summing to 1;
            - ``integrated``: the blended rate of eq. (15), in [0, 1];
            - ``applied``: the expected dropped fraction, in [0, 0.95]; it is lower than ``integrated`` where
              that rate cannot be met (too few eligible features, or a rate above 0.95);
            - ``alpha``: alpha of eq. (2).

        Raises:
            ConfigError: if the module of a site was replaced after attaching, which removes its dropout.

        Example:
            >>> import dropopt, torch
            >>> from torch import nn
            >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2))
            >>> config = dropopt.EngineConfig(w_structured=0, w_contextual=0, w_pfid=0)
            >>> (row,) = dropopt.attach(model, config, example=torch.zeros(2, 1, 4, 4)).rates()
            >>> row["site"], row["depth"], row["adaptive"], row["integrated"], row["applied"]
            ('0', 0.5, 0.25, 0.25, 0.25)
        """
        self._require_hooks()
        return [dict(row) for row in self._rows]

    def summary(self) -> str:
        """Return tables of the places and of the methods with their current rates, as text.

        Returns:
            One row per place: module, shape of the output for one sample (of the example that the engine was attached
            with), relative depth, blended and applied rate. One row per method: weight, and mean rate over the places.
            Then come dropout layers of the model itself at these places, and parts of it that did not run on the
            example, if there are any, and sites whose importance the last step could not update. The last line names
            metrics that the equations use and that :meth:`step` has not received.

        Example:
            >>> import dropopt, torch
            >>> from torch import nn
            >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2))
            >>> config = dropopt.EngineConfig(w_structured=0, w_contextual=0, w_pfid=0)
            >>> engine = dropopt.attach(model, config, example=torch.zeros(2, 1, 4, 4))
            >>> print(engine.summary())
            Sequential: 1 place, pattern channel, allocation uniform, 0% of training done
            place  module  output     depth  integrated  applied
            0      Conv2d  4 x 2 x 2   0.50       0.250    0.250
            method      weight  mean rate
            adaptive     1.000      0.250
            structured   0.000      0.250
            contextual   0.000      0.019
            pfid         0.000      0.147
            spatial      0.000      0.250
            not reported yet: val_loss
            >>> engine.detach()
        """
        rows, config = self.rates(), self.config
        title = (
            f"{type(self.model).__name__}: {quantity(len(self.places), 'place')}, pattern {config.pattern}, allocation "
            f"{config.allocation}, {self._metrics.progress:.0%} of training done"
        )
        lines = [
            title,
            *place_table(self.places, rows, ("integrated", "applied")),
            *method_table(rows),
            *self._model_lines(),
        ]
        if self._unscored:
            names = listed(self._unscored)
            lines.append(f"importance not measured at {names}: no gradient passes, as in frozen layers")
        if missing := sorted(name for name in used_metrics(config) if getattr(self._metrics, name) is None):
            lines.append(f"not reported yet: {', '.join(missing)}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        state = "" if self._handles else ", detached"
        name, places = type(self.model).__name__, quantity(len(self.places), "place")
        applied = span([row["applied"] for row in self._rows])
        return f"DropoutEngine({name}, {places}, pattern {self.config.pattern}, applied {applied}{state})"

    def weights(self) -> dict[str, float]:
        """Return the current efficacy weights of eq. (15), by member, summing to 1.

        Example:
            >>> import dropopt, torch
            >>> from torch import nn
            >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2))
            >>> config = dropopt.EngineConfig(w_adaptive=0.5, w_structured=0.5, w_contextual=0, w_pfid=0)
            >>> dropopt.attach(model, config, example=torch.zeros(2, 1, 4, 4)).weights()["adaptive"]
            0.5
        """
        return dict(zip(METHODS, self._shares(), strict=True))

    def importances(self) -> dict[str, Tensor]:
        """Return each site's feature importances (C,), normalised to [0, 1]; 1/2 where all are equal.

        Example:
            >>> import dropopt, torch
            >>> from torch import nn
            >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2))
            >>> engine = dropopt.attach(model, dropopt.EngineConfig(), example=torch.zeros(2, 1, 4, 4), complexity=0.5)
            >>> engine.importances()
            {'0': tensor([0.5000, 0.5000, 0.5000, 0.5000])}
        """
        return {name: _normalised(site) for name, site in self.sites.items()}

    # -- stop and continue

    def state_dict(self) -> dict[str, Any]:
        """Return the state that :meth:`load_state_dict` needs to continue bit for bit, random state included.

        Example:
            >>> import dropopt, torch
            >>> from torch import nn
            >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2))
            >>> engine = dropopt.attach(model, dropopt.EngineConfig(), example=torch.zeros(2, 1, 4, 4), complexity=0.5)
            >>> engine.step(epoch=5, epochs=10, val_loss=1.0)
            >>> state, rates = engine.state_dict(), engine.rates()
            >>> engine.step(epoch=9, epochs=10, val_loss=0.5)
            >>> engine.load_state_dict(state)
            >>> engine.rates() == rates
            True
        """
        return {
            "signals": asdict(self._metrics),
            "tilt": list(self._efficacy.tilt),
            "complexity": self.complexity,
            "sites": {name: {k: v.clone() for k, v in site.state_dict().items()} for name, site in self.sites.items()},
            "rates": [dict(row) for row in self._rows],
            "rng": random_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``. This sets torch's global random state, from which the masks are drawn.

        Args:
            state: what :meth:`state_dict` returned, of an engine with the same sites and the same settings of what
                they keep: pattern, allocation and importance.

        Raises:
            ValueError: if the state belongs to a baseline, to other sites or to other settings. Nothing has changed.

        Example:
            See :meth:`state_dict`.
        """
        self._check_state(state)
        for name, site in self.sites.items():
            site.resume(state["sites"][name])
        self.complexity = state["complexity"]
        self._metrics = Metrics(**state["signals"])
        self._efficacy.tilt = list(state["tilt"])
        set_random_state(state["rng"])
        # Not recomputed: sites may have been scored after the rates were set.
        self._rows = [dict(row) for row in state["rates"]] if "rates" in state else self._apply()

    def _check_state(self, state: Mapping[str, Any]) -> None:
        if "sites" not in state:
            raise ValueError(f"the state has {sorted(state)}, which is not what state_dict() of this engine returns")
        if set(state["sites"]) != set(self.sites):
            raise ValueError(
                f"the state belongs to sites {sorted(state['sites'])}, this engine has {sorted(self.sites)}"
            )
        for name, site in self.sites.items():
            given = {key: tuple(value.shape) for key, value in state["sites"][name].items()}
            expected = {key: tuple(value.shape) for key, value in site.state_dict().items()}
            for key in sorted(given.keys() | expected.keys()):
                if given.get(key) != expected.get(key):
                    raise ValueError(
                        "the state belongs to another network, pattern, allocation or importance: "
                        f"{key!r} of site {name!r} has the shape {given.get(key)}, expected {expected.get(key)}"
                    )

    def detach(self) -> None:
        """Remove every hook from the model and the optimizer, which leaves them as they were.

        Example:
            >>> import dropopt, torch
            >>> from torch import nn
            >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2))
            >>> engine = dropopt.attach(model, dropopt.EngineConfig(), example=torch.zeros(2, 1, 4, 4), complexity=0.5)
            >>> len(model[0]._forward_hooks)
            1
            >>> engine.detach()
            >>> len(model[0]._forward_hooks)
            0
        """
        super().detach()
        for dropper in self._droppers:
            dropper.remove()
        self._droppers.clear()

    def __getstate__(self) -> dict[str, Any]:
        # For copies and pickles. Those of an optimizer have no hooks, so that they need a new call of watch().
        return {**self.__dict__, "_droppers": []}

    # -- setting the rates

    def _apply(self) -> list[dict[str, Any]]:
        """Compute the rates, set them at every site and return them as rows."""
        rows = []
        shares = self._shares()
        strength = alpha(self.config, self._metrics)
        for name, place in self.places.items():
            site = self.sites[name]
            importance = _normalised(site)
            members = member_rates(
                self.config,
                self._metrics,
                complexity=self.complexity,
                depth=place.depth,
                importance=importance,
                safe_area=site.area.reshape(1),
            )
            integrated = float(equations.integrated_rate(list(members.values()), shares))
            if self.config.pattern == "own":
                rates = mixture_rates(self.config, members, progress=self._metrics.progress, importance=importance)
                site.set_mixture(torch.tensor(shares, device="cpu"), rates)
            elif site.p.numel() == 1:
                site.p.fill_(min(integrated, P_MAX))
            else:
                progress = self._metrics.progress
                wanted = proportions(self.config, alpha=strength, progress=progress, importance=importance)
                site.p.copy_(share_out(integrated, wanted))
            applied = float(site.p.mean())
            rows.append(
                {"site": name, "depth": place.depth, **members, "integrated": integrated, "applied": applied}
                | {f"w_{method}": share for method, share in zip(METHODS, shares, strict=True)}
                | {"alpha": strength}
            )
        return rows

    def _shares(self) -> list[float]:
        return self._efficacy.shares(self._metrics.progress)

    def _adapt_weights(self, rates: list[float]) -> None:
        metrics = self._metrics
        if metrics.val_loss is None or metrics.train_loss is None:
            return
        self._efficacy.learn(metrics.progress, rates, val_loss=metrics.val_loss, train_loss=metrics.train_loss)

    # -- what a site has to do

    def _make_site(self, place: Place) -> DropoutSite:
        c = self.config
        return DropoutSite(
            place.axis,
            place.features,
            c.pattern,
            c.block_size,
            per_feature=self._per_feature(),
            importance=c.importance if self._uses_importance() else None,
            track_area=c.uses(*BY_AREA),
            masks=c.drop_updates != "only",
            batch_ndim=place.batch_ndim,
        )

    def _per_feature(self) -> bool:
        return self.config.allocation != "uniform" or self.config.pattern in ("structured", "own")

    def _uses_importance(self) -> bool:
        return self.config.uses(*BY_IMPORTANCE) or self._per_feature() or self.config.drop_updates is not False


def _normalised(site: DropoutSite) -> Tensor:
    return cast("Tensor", equations.normalised(site.importance))
