"""The ledger of a search: a search space and Optuna's sampler configure the trials."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import optuna
from optuna.trial import FrozenTrial

from dropopt.config import RunConfig
from dropopt.explain import suggestion
from dropopt.seeds import derived_seed
from dropopt.study.define.parameter import is_within
from dropopt.study.define.space import Space
from dropopt.study.store.keys import SEED
from dropopt.study.store.lease import WorkerIdentity
from dropopt.study.store.ledger import SEED_BITS, Ledger, with_seed
from dropopt.study.store.retries import root


class SearchLedger(Ledger):
    """Starts the trials of a search.

    Each trial has its own training seed, derived from the study's seed and the trial's number. With one seed for all,
    the initial weights could favour the same configurations throughout the study. The split of the data is the same for
    all trials. A retry has the seed of the first attempt, also if the study has been resumed with another one.

    Args:
        study: The study, with its sampler and pruner.
        space: The search space.
        base: The configuration that all trials share.
        seed: The seed of the study, from which the training seed of each trial is derived.
        classes: The number of classes of the data.
        worker: The worker that this ledger belongs to. Default: a new one.
        on_notice: Called with a notice about a trial that was enqueued with parameters that the space does not have.
        on_start: Called for each trial that has started, with the study, the number of trials before it that use the
            budget, and the number of trials to run.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        base: RunConfig,
        seed: int,
        classes: int,
        worker: WorkerIdentity | None = None,
        on_notice: Callable[[str], None] = lambda line: None,
        on_start: Callable[[optuna.Study, int, int], None] | None = None,
    ) -> None:
        super().__init__(study, worker)
        self._space = space
        self._base = base
        self._seed = seed
        self._classes = classes
        self._on_notice = on_notice
        self._on_start = on_start

    def ask(self, target: int | None = None) -> tuple[optuna.Trial, RunConfig | None] | None:
        """Start the next trial; see :meth:`Ledger.ask`."""
        asked = super().ask(target)
        if asked is not None and target is not None and self._on_start is not None:
            self._on_start(self.study, self._summary.budget_used(), target)
        return asked

    def _configure(self, trial: optuna.Trial) -> RunConfig:
        with warnings.catch_warnings():  # the notices below say it without a file and a line of Optuna
            warnings.filterwarnings("ignore", "Fixed parameter .* is out of range", UserWarning)
            run = self._space.suggest(trial, self._classes, self._base)
        stored = self._frozen(trial)
        for notice in self._about_fixed(stored):
            self._on_notice(f"trial {trial.number} was enqueued with {notice}")
        new = derived_seed(self._seed, "train", root(stored), bits=SEED_BITS)
        return with_seed(run, stored.user_attrs.get(SEED, new))

    def _about_fixed(self, trial: FrozenTrial) -> Iterator[str]:
        """Say which parameters of an enqueued trial the space does not have, or has in another range."""
        known = [parameter.name for parameter in self._space.parameters]
        for name, value in trial.system_attrs.get("fixed_params", {}).items():
            if name not in known:
                has = suggestion(name, known)
                yield f"{name} = {value!r}, which is no parameter of space {self._space.name} and is not used; {has}"
            elif name in trial.distributions and not is_within(trial.distributions[name], value):
                yield f"{name} = {value!r}, which is outside of the range in space {self._space.name}; it is used"
