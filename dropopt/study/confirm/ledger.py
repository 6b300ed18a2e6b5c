"""The ledger of a confirmation: starts the enqueued runs, and drops configurations that are clearly worse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from dropopt.config import RunConfig
from dropopt.study.confirm import runs
from dropopt.study.confirm.race import leading_anchor, losers
from dropopt.study.store.errors import StorageError
from dropopt.study.store.keys import CONFIG, FRESH_SPLITS, GIVEN_BACK, OUT, OUT_JUDGED
from dropopt.study.store.lease import WorkerIdentity
from dropopt.study.store.ledger import Ledger, with_seed
from dropopt.study.store.queries import judged, optimised

#: How the reason begins why a configuration is out that is not worse, but failed.
_FAILED = "it failed with seed"


@dataclass(frozen=True)
class Race:
    """The race of a confirmation.

    Attributes:
        seeds: The number of seeds with which it ends.
        entrants: The configurations that take part.
        anchors: Those that are anchors. The leading one is never out, because the result is compared with it.
        reference: An anchor that is never out: no dropout. None if there is none.
        by: What the runs are judged by, ``loss`` or ``accuracy``; None for what the study optimises.
    """

    seeds: int
    entrants: tuple[int, ...]
    anchors: tuple[int, ...] = ()
    reference: int | None = None
    by: str | None = None


class RunLedger(Ledger):
    """Starts the runs of a study, and records their results.

    Args:
        study: The study, from :func:`~dropopt.study.confirm.runs.make_runs`. Its attribute ``fresh_splits`` says
            whether each seed draws a validation split of its own.
        search: The search whose configurations run.
        configurations: The configuration of each trial of the search that takes part.
        worker: The worker that this ledger belongs to.
        race: The race; None to train all runs.
        again: Whether completed runs that are enqueued again are run again.
        checkpoint: The name of a study and the number that name a run's checkpoint. Default: those of the run itself.
        on_out: Called with each configuration that is out of the race, and the reason.
    """

    def __init__(
        self,
        study: optuna.Study,
        search: optuna.Study,
        configurations: Mapping[int, RunConfig],
        worker: WorkerIdentity | None = None,
        race: Race | None = None,
        checkpoint: Callable[[runs.Run], tuple[str, int] | None] = lambda run: None,
        on_out: Callable[[int, str], None] = lambda number, reason: None,
        *,
        again: bool = False,
    ) -> None:
        super().__init__(study, worker)
        self._search = search
        self._configurations = configurations
        self._race = race
        self._checkpoint = checkpoint
        self._on_out = on_out
        self._again = again
        self._out: dict[int, str] = outs(study, None if race is None else race.by)

    def wants(self, target: int) -> bool:
        """Whether a run is waiting."""
        return bool(_waiting(self.study))

    def checkpoint_of(self, number: int) -> tuple[str, int]:
        """Return the study and the number that name the checkpoint of a trial."""
        run = runs.run_of(self.study.get_trials(deepcopy=False)[number])
        return (run and self._checkpoint(run)) or super().checkpoint_of(number)

    def report(self, trial: optuna.Trial, value: float, *, epoch: int, epochs: int) -> bool:
        """Store the value of an epoch, and return whether the run should be pruned."""
        self._check_search()
        return super().report(trial, value, epoch=epoch, epochs=epochs)

    def complete(self, trial: optuna.Trial, value: float, **result: Any) -> str:
        """End a run with its result, and the race of the configurations that are now clearly worse."""
        failure = super().complete(trial, value, **result)
        self.update_race()
        return failure

    def fail(self, trial: optuna.Trial | FrozenTrial, error: str, message: str, trace: str = "") -> str:
        """End a run as failed; its configuration is out of the race."""
        reason = super().fail(trial, error, message, trace)
        self.update_race()
        return reason

    def update_race(self) -> None:
        """Find the configurations that are out, record them, and end their waiting runs."""
        self._check_search()
        if self._race is None:
            return
        found, failures = self._losers(self._race), runs.failed(self.study, self._race.seeds)
        for number, reason in found.items():
            self._out[number] = reason
            self._on_out(number, reason)
            # A failure for another reason, such as too little memory, is tried again by the next confirmation.
            if {why for run, why in failures.items() if run.configuration == number} <= {*runs.LASTING}:
                self.study.set_user_attr(out_key(self.study, number, self._race.by), reason)
        self._drop_waiting()

    def _check_search(self) -> None:
        """Raise :class:`StorageError` if the search was deleted: without it no result could be shown."""
        name = self._search.study_name
        try:
            found = self._storage.get_study_id_from_name(name)
        except KeyError:
            found = None
        if found != self._search._study_id:
            raise StorageError(
                f"study {name!r} was deleted from the storage while its configurations were trained again; the runs "
                f"that have ended are in study {self.study.study_name!r}"
            )

    def _losers(self, race: Race) -> dict[int, str]:
        values: dict[int, dict[int, float]] = {number: {} for number in race.entrants if number not in self._out}
        for run, trial in runs.completed(self.study).items():
            if run.configuration in values and run.repeat < race.seeds:
                values[run.configuration][run.repeat] = judged(trial, race.by or optimised(self.study), self.study)
        kept = {race.reference, leading_anchor(values, race.anchors)}
        out = {
            run.configuration: f"{_FAILED} {run.repeat + 1}: {reason}"
            for run, reason in runs.failed(self.study, race.seeds).items()
            if run.configuration in values
        }
        racing = {number: row for number, row in values.items() if number not in out}
        found = losers(
            racing, seeds=race.seeds, kept=[one for one in kept if one is not None], entrants=len(race.entrants)
        )
        return out | found

    def _drop_waiting(self) -> None:
        """End the waiting runs of the configurations that are out."""
        for trial in _waiting(self.study):
            run = runs.run_of(trial)
            if run is not None and run.configuration in self._out:
                try:
                    self.study._storage.set_trial_state_values(trial._trial_id, TrialState.PRUNED)
                except UpdateFinishedTrialError:
                    continue  # another worker was faster

    def _configure(self, trial: optuna.Trial) -> RunConfig:
        configuration = trial.suggest_int(runs.CONFIGURATION, 0, runs.LARGEST)
        repeat = trial.suggest_int(runs.REPEAT, 0, runs.LARGEST)
        known = self._configurations.get(configuration)
        if known is None:  # another confirmation, with other options, has enqueued it in the meantime
            known = RunConfig.parse(self._search.get_trials(deepcopy=False)[configuration].user_attrs[CONFIG])
        seed = runs.Run(repeat, configuration).seed
        if self.study.user_attrs.get(FRESH_SPLITS):
            known = known.model_copy(update={"data": known.data.model_copy(update={"validation_seed": seed})})
        return with_seed(known, seed)

    def _keeps(self, trial: optuna.Trial, target: int | None) -> bool:
        """Whether the trial was enqueued, and no other trial has its run; otherwise it is given back.

        Another worker may have taken the last one that was enqueued. Two confirmations that begin at the same time may
        both enqueue a run.
        """
        why = "" if self._is_enqueued(trial) else "no run was waiting"
        if not why and not self._worker.exclusive:
            with self._storage.aged(0):
                trials = self._trials()
            if runs.is_run_elsewhere(trials[trial.number], trials, again=self._again):
                why = "another trial has this run"
        if why:
            self._endings.without_result(self._frozen(trial), GIVEN_BACK, why, again=False)
        return not why

    def _should_prune(self, trial: optuna.Trial) -> bool:
        return trial.params[runs.CONFIGURATION] in self._out


def outs(study: optuna.Study, by: str | None = None) -> dict[int, str]:
    """Return the configurations that are out of the race, judged ``by`` loss or accuracy, each with the reason."""
    begins, attributes = out_key(study, "", by), study.user_attrs
    earlier = attributes.get(begins[:-1])  # one dictionary, in confirmations by earlier versions
    found = dict(earlier) if isinstance(earlier, Mapping) else {}
    found |= {key.removeprefix(begins): why for key, why in attributes.items() if key.startswith(begins)}
    return {int(number): why for number, why in found.items() if number.isdecimal() and isinstance(why, str)}


def is_failure(reason: str) -> bool:
    """Whether ``reason``, one of :func:`outs`, is that the configuration failed, not that it is clearly worse."""
    return reason.startswith(_FAILED)


def out_key(study: optuna.Study, number: int | str, by: str | None = None) -> str:
    """Return the name of the attribute that says why configuration ``number`` is out; see :func:`outs`."""
    return f"{OUT if by in (None, optimised(study)) else OUT_JUDGED}:{number}"


def missing(study: optuna.Study, configurations: Iterable[int], seeds: int, by: str | None = None) -> list[runs.Run]:
    """Return the runs of ``configurations`` on ``seeds`` seeds that are left, in the order in which they are enqueued.

    A configuration that is out of the race, judged ``by`` loss or accuracy, has none left, nor is one left that failed
    and would fail again.
    """
    out, done = outs(study, by), runs.completed(study)
    lost = {run for run, reason in runs.failed(study).items() if reason in runs.LASTING}
    racing = [number for number in configurations if number not in out]
    wanted = (runs.Run(repeat, number) for repeat in range(seeds) for number in racing)
    return [run for run in wanted if run not in done and run not in lost]


def _waiting(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
