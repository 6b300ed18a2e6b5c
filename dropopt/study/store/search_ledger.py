"""The ledger of a search: a search space and Optuna's sampler configure the trials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dropopt.config import RunConfig
from dropopt.seeds import derived_seed
from dropopt.study.define.space import Space
from dropopt.study.store.keys import SEED
from dropopt.study.store.lease import WorkerIdentity
from dropopt.study.store.ledger import SEED_BITS, Ledger, with_seed
from dropopt.study.store.retries import root

if TYPE_CHECKING:
    import optuna


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
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        base: RunConfig,
        seed: int,
        classes: int,
        worker: WorkerIdentity | None = None,
    ) -> None:
        super().__init__(study, worker)
        self._space = space
        self._base = base
        self._seed = seed
        self._classes = classes

    def _configure(self, trial: optuna.Trial) -> RunConfig:
        run = self._space.suggest(trial, self._classes, self._base)
        stored = self._frozen(trial)
        new = derived_seed(self._seed, "train", root(stored), bits=SEED_BITS)
        return with_seed(run, stored.user_attrs.get(SEED, new))
