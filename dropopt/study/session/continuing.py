"""A session that continues one trial to its end: ``dropopt resume-trial``."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from dropopt.numbers import quantity
from dropopt.study.run.checkpoints import Checkpoints, is_kept, restore
from dropopt.study.run.messages import Ready
from dropopt.study.run.signals import SignalCatcher
from dropopt.study.session.pools import start_pool
from dropopt.study.session.request import Request
from dropopt.study.session.session import Session, quiet_optuna
from dropopt.study.session.storage import worker_storage
from dropopt.study.show.console import complain, make_console, say
from dropopt.study.show.formatting import format_accuracy
from dropopt.study.store.continuation import Continuation, last_attempt, latest
from dropopt.study.store.experiment import name_of_files, space_of
from dropopt.study.store.keys import MESSAGE, REASON
from dropopt.study.store.lease import WorkerIdentity
from dropopt.study.store.queries import find_study, task_of
from dropopt.study.store.retries import root
from dropopt.study.store.scale import Scale
from dropopt.study.store.search_ledger import SearchLedger


def run(request: Request, number: int) -> int:
    """Continue trial ``number`` of the study of ``request``.

    Returns:
        The exit code: 0 if the new trial is complete, 1 if it is not, or 128 + the signal that stopped it.

    Raises:
        ConfigError: The trial cannot be continued.
    """
    quiet_optuna()
    console = make_console(quiet=request.quiet)
    with (
        SignalCatcher() as signals,
        worker_storage(request.url, request.storage_patience, request.grace, console, signals) as (storage, identity),
    ):
        session = Continuing(request, storage, console, identity, number)
        session.resume()
        session.prepare()
        session.announce(slots=1)
        with start_pool(request, console) as pool:
            stopped_by = session.train(pool, signals)
        return session.summarise(stopped_by)


class Continuing(Session):
    """A session that runs one trial, which continues trial ``number``."""

    def __init__(
        self, request: Request, storage: BaseStorage, console: Console, identity: WorkerIdentity, number: int
    ) -> None:
        super().__init__(request, storage, None, console, identity)
        self._number = number

    def announce(self, slots: int) -> None:
        """Check that the trial can be continued, and say from where."""
        study = find_study(self._storage, self._definition.name)
        last = latest(study, self._number)
        path, epochs = self._checkpoint(study, last), self._settings.base.train.epochs
        reported = max(last.intermediate_values, default=0)
        where = "from the beginning with the same seed: no checkpoint was kept"
        if path is not None and is_kept(path):
            where = "from its checkpoint"
        say(
            self._console,
            f"trial {self._number} ended after {reported} of {quantity(epochs, 'epoch')}; it continues {where}",
        )

    def open_study(self, ready: Ready) -> SearchLedger:
        """Check that the data are those of the study, and use the checkpoint that was kept."""
        ledger = super().open_study(ready)
        path = self._checkpoint(ledger.study, latest(ledger.study, self._number))
        if path is not None:
            restore(path)
        return ledger

    def summarise(self, stopped_by: int | None) -> int:
        """Print the result of the trial. Returns the exit code."""
        study = find_study(self._storage, self._definition.name)
        trial = last_attempt(study, self._number)
        if trial is not None and trial.state == TrialState.COMPLETE:
            scale = Scale.of(study)
            scores = f"{task_of(study).score} {format_accuracy(trial)}"
            result = f"smoothed {scale.name} {scale.text(trial.value)}, {scores}"
            say(self._console, f"trial {trial.number} continues trial {self._number}: {result}")
            return 0
        if trial is None:
            line = f"trial {self._number} was not continued"
        else:
            reasons = (trial.user_attrs.get(REASON, trial.state.name.lower()), trial.user_attrs.get(MESSAGE, ""))
            line = f"trial {trial.number} continues trial {self._number}: " + ": ".join(filter(None, reasons))
        say(self._console, line, "yellow")
        complain(self._console, line)
        if stopped_by is not None:
            say(self._console, f"go on with: {self._request.resume_command}")
            return 128 + stopped_by
        return 1

    def _complete(self) -> bool:
        return False

    def _ledger(self, study: optuna.Study, classes: int) -> Continuation:
        space = space_of(study, self._settings.space)
        base, seed = self._settings.base, self._definition.seed
        return Continuation(study, space, base, seed, classes, self._identity, self._number)

    def _checkpoint(self, study: optuna.Study, trial: FrozenTrial) -> Path | None:
        """The file of the checkpoint of ``trial``; None if there is no folder for checkpoints."""
        folder = self._request.checkpoints
        return None if folder is None else Checkpoints(folder, name_of_files(study)).path(root(trial))
