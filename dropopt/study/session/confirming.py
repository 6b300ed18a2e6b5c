"""One confirmation on this machine: from a request to the result.

:func:`confirm` goes through these steps:

1. The storage is opened, and the configurations are chosen from the search.
2. ``_Session.train``: their runs are enqueued in a study of their own, and a worker trains those that are left. The
   race ends configurations that are clearly worse.
3. ``_Session.test``: the networks of the winner are evaluated on the test split, unless that was done before.

Each step can be interrupted; the same command goes on. The checkpoints of completed runs are kept until the test split
has been read, so that the networks need not be trained again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

import optuna
from optuna.storages import BaseStorage
from rich.console import Console

from dropopt.config import ConfigError, Optimise, RunConfig
from dropopt.known import check_names
from dropopt.numbers import quantity
from dropopt.provenance import provenance
from dropopt.study.confirm.candidates import Candidates, choose_candidates
from dropopt.study.confirm.ledger import Race, RunLedger, missing
from dropopt.study.confirm.reading import reading
from dropopt.study.confirm.results import Confirmation, confirmation
from dropopt.study.confirm.runs import Run, checkpoint_of, completed, enqueue, find_runs, make_runs, unfinished
from dropopt.study.run import machine, memory
from dropopt.study.run.checkpoints import Checkpoints, folder_of, remove
from dropopt.study.run.messages import Ready
from dropopt.study.run.running import Limits
from dropopt.study.run.signals import SignalCatcher
from dropopt.study.run.slots import Pool, Targets
from dropopt.study.run.worker import Worker
from dropopt.study.session.searched import base_of, moved, seconds_of_a_trial, with_data
from dropopt.study.session.session import quiet_optuna
from dropopt.study.session.storage import worker_storage
from dropopt.study.show.console import busy, say
from dropopt.study.show.formatting import format_seconds
from dropopt.study.show.runs import RunsProgress
from dropopt.study.store import keys
from dropopt.study.store.code import code_of
from dropopt.study.store.confirmations import Entrant, entrants_of
from dropopt.study.store.experiment import data_difference
from dropopt.study.store.lease import GRACE, WorkerIdentity
from dropopt.study.store.patient import PATIENCE
from dropopt.study.store.queries import find_study, optimised, task_of
from dropopt.study.store.scale import Scale
from dropopt.study.store.url import resolve

#: The functions that children call to train a run, and to test one.
TRAIN = Targets("dropopt.training:prepare", "dropopt.training.scored:train_and_score")
TEST = Targets("dropopt.training:prepare", "dropopt.training.scored:score_on_test")


#: What is printed last after a signal.
STOPPED_LINE = "stopped; the same command goes on where it was"


@dataclass(frozen=True)
class ConfirmRequest:
    """A study to confirm."""

    #: The name of the search; None for the only study in the storage.
    study: str | None
    #: As given; None for the default.
    storage: str | None
    top: int = 5
    seeds: int = 5
    n_jobs: int = -1
    #: What the winner is chosen by, ``loss`` or ``accuracy``; None for what the search optimised.
    optimise: str | None = None
    #: Whether the anchors are trained again too.
    anchors: bool = True
    #: Whether the test split is read although it was read before.
    again: bool = False
    #: The folder of the checkpoints; None for the folder beside the storage's file.
    checkpoints: str | None = None
    #: Where the folder or the NumPy file of the study's data is now, as ``folder:PATH``; None: as the study says.
    data: str | None = None
    #: Called with the names of functions in the study's settings, and their recorded sources, to allow their import.
    settle: Callable[[str, tuple[str, ...], Any], None] = lambda study, names, recorded: None
    train: Targets = TRAIN
    test: Targets = TEST
    storage_patience: float = PATIENCE
    grace: float = GRACE

    def __post_init__(self) -> None:
        for name, value, least in (("top", self.top, 1), ("seeds", self.seeds, 2)):
            if value < least:
                raise ConfigError(f"{name} must be {least} or more, got {value}")
        if self.optimise not in (None, *get_args(Optimise)):
            raise ConfigError(f"optimise must be one of {', '.join(get_args(Optimise))}, got {self.optimise}")


def confirm(request: ConfirmRequest, console: Console) -> tuple[int, Confirmation | None]:
    """Confirm a study.

    Returns:
        The exit code (0, 1 if no configuration could be trained on all seeds, or 128 + the signal that stopped it), and
        the result so far.
    """
    quiet_optuna()
    url = resolve(request.storage)
    with (
        SignalCatcher() as signals,
        worker_storage(url, request.storage_patience, request.grace, console, signals) as (storage, identity),
    ):
        session = _Session(request, storage, url, identity, console, signals)
        session.train()
        while signals.received is None and session.is_left():  # another confirmation was stopped a moment ago
            session.train()
        if signals.received is None:
            session.test()
        found = session.result()
    if signals.received is not None:
        return 128 + signals.received, found
    return int(found is None or found.winner is None), found


@dataclass
class _Session:
    """A confirmation while it runs."""

    request: ConfirmRequest
    storage: BaseStorage
    url: str
    identity: WorkerIdentity
    console: Console
    signals: SignalCatcher
    search: optuna.Study = field(init=False)
    base: RunConfig = field(init=False)
    candidates: Candidates = field(init=False)

    def __post_init__(self) -> None:
        self.search = find_study(self.storage, self.request.study)
        self.base = base_of(self.search)
        names = self.base.names
        self.request.settle(self.search.study_name, names, code_of(self.search))
        if self.request.data is not None:
            self.base = moved(self.base, self.request.data)
        check_names(self.base)
        with busy("choosing the configurations", quiet=self.console.quiet):
            self.candidates = choose_candidates(
                self.search, self.request.top, anchors=self.request.anchors, by=self.request.optimise
            )

    # -- training

    def train(self) -> None:
        """Train the runs that are left."""
        known = self.search.user_attrs
        facts = {name: known[name] for name in (keys.BASE, keys.CLASSES, keys.DATA) if name in known}
        if keys.DATA in facts:  # the other splits depend on the seed
            facts[keys.DATA] = {name: value for name, value in facts[keys.DATA].items() if name == "test"}
        facts |= {keys.MADE_WITH: provenance(), keys.FRESH_SPLITS: True}
        metric = f"{self.base.task.value} (smoothed)"
        runs = make_runs(self.search, keys.CONFIRMS, facts, metric)
        self._record(runs)
        left = self._missing(runs)
        self._announce(len(left))
        if not left:
            return
        with RunsProgress(self.console, self._names(), Scale.of(self.search)) as progress:
            ledger = RunLedger(
                runs,
                self.search,
                self._configurations(),
                self.identity,
                self._race(),
                on_out=partial(self._drop, runs, progress),
            )
            self._work(ledger, progress, self.request.train, len(left), lambda: enqueue(runs, left))

    def is_left(self) -> bool:
        """Whether a run waits, runs or is to run again."""
        runs = find_runs(self.search, keys.CONFIRMS)
        return runs is not None and not unfinished(runs).isdisjoint(self._missing(runs))

    def result(self) -> Confirmation | None:
        """What the runs say. Another confirmation may have begun since, with other options; these are stored again."""
        if (runs := find_runs(self.search, keys.CONFIRMS)) is not None:
            self._record(runs)
        return confirmation(self.search, seeds=self.request.seeds, by=self._judged_by)

    @property
    def _judged_by(self) -> str:
        return self.request.optimise or optimised(self.search)

    def _record(self, runs: optuna.Study) -> None:
        """Store who takes part. Configurations of other confirmations stay in the result."""
        before = {one.trial: one for one in entrants_of(runs)}
        now = {one.trial: Entrant(one.trial, one.name, bool(one.anchor)) for one in self.candidates.all}
        facts = {
            keys.ENTRANTS: [vars(one) for one in (before | now).values()],
            keys.SEEDS: self.request.seeds,
            keys.CHOSEN_BY: self.candidates.chosen_by,
            keys.JUDGED_BY: self._judged_by,
        }
        for name, fact in facts.items():
            if runs.user_attrs.get(name) != fact:
                runs.set_user_attr(name, fact)

    def _missing(self, runs: optuna.Study) -> list[Run]:
        """The runs that have not ended."""
        return missing(runs, [one.trial for one in self.candidates.all], self.request.seeds, self.request.optimise)

    def _announce(self, left: int) -> None:
        known, all_runs = self.candidates, len(self.candidates.all) * self.request.seeds
        anchors = sum(bool(one.anchor) for one in known.all)
        chosen = len(known.all) - anchors
        what = f"{quantity(chosen, 'configuration')} by {known.chosen_by}"
        what += f" and {quantity(anchors, 'anchor')}" if anchors else ""
        say(self.console, f"study {self.search.study_name}: {what}, on {quantity(self.request.seeds, 'fresh seed')}")
        if not left:
            say(self.console, "all runs have ended")
            return
        seconds = seconds_of_a_trial(self.search)
        slots = self._slots(left)
        time = f", about {format_seconds(seconds * left / slots)}" if seconds else ""
        ended = all_runs - left
        done = f" ({ended} {'has' if ended == 1 else 'have'} ended)" if ended else ""
        cost = f"{quantity(left, 'run')} of {quantity(self.base.train.epochs, 'epoch')}"
        say(self.console, f"at most {cost}{done}, {slots} at a time{time}")

    def _race(self) -> Race:
        everyone, nothing = self.candidates.all, self.candidates.nothing
        reference = None if nothing is None else nothing.trial
        anchors = tuple(one.trial for one in everyone if one.anchor)
        return Race(self.request.seeds, tuple(one.trial for one in everyone), anchors, reference, self.request.optimise)

    def _drop(self, runs: optuna.Study, progress: RunsProgress, number: int, reason: str) -> None:
        """Show that a configuration is out of the race, and remove what was kept to test it."""
        progress.out(number, reason)
        self._remove_checkpoints(runs, number)

    # -- testing

    def test(self) -> None:
        """Evaluate the winner's networks on the test split, unless that was done before."""
        found = self.result()
        if found is None or found.winner is None:
            return
        optimise = self.base.task.judged_by
        runs = find_runs(self.search, keys.CONFIRMS)
        if runs is None:
            raise ConfigError(f"study {self.search.study_name!r} has not been confirmed")
        facts = {keys.FRESH_SPLITS: bool(runs.user_attrs.get(keys.FRESH_SPLITS))}
        tests = make_runs(self.search, keys.TESTS, facts, f"test {task_of(self.search).word(optimise)}")
        configurations = self._configurations()
        planned = reading(tests, found.winner, configurations, again=self.request.again)
        if not planned.left:
            planned.record(tests)  # that of an earlier reading was lost
            if not planned.is_of(found.winner):
                line = "the test split was read before, for another result; --again reads it for this one"
                say(self.console, f"note: {line}", "yellow")
            return

        def begin() -> None:
            planned.record(tests)
            enqueue(tests, planned.left, again=planned.begins and planned.again)

        with RunsProgress(self.console, self._names(), Scale.of(self.search), "test") as progress:
            ledger = RunLedger(
                tests,
                self.search,
                configurations,
                self.identity,
                checkpoint=lambda run: checkpoint_of(runs, run),
                again=planned.again,
            )
            self._work(ledger, progress, self.request.test, len(planned.left), begin)
        if self.signals.received is None:
            for configuration in {run.configuration for run in completed(runs)}:
                self._remove_checkpoints(runs, configuration)

    # -- both

    def _work(
        self, ledger: RunLedger, progress: RunsProgress, targets: Targets, count: int, begin: Callable[[], None]
    ) -> None:
        """Run ``count`` runs, which ``begin`` enqueues once the data have been found to be those of the search."""
        plan: Mapping[str, Any] = self.search.user_attrs.get(keys.PLAN) or {}
        limit = plan.get("trial_memory")

        def open_study(ready: Ready) -> RunLedger:
            for notice in ready.notices:
                say(self.console, f"note: {notice}", "yellow")
            difference = data_difference(self.search, ready.fingerprint, self.base.data.name)
            if difference and keys.DATA in self.search.user_attrs:
                raise ConfigError(f"{difference}; give the same data")
            ledger.take_up()
            begin()
            progress.opened(ledger.study)
            return ledger

        with Pool(self._slots(count), targets, self._cards(), limit and limit * memory.MEGABYTE) as pool:
            worker = Worker(
                pool,
                open_study,
                progress,
                base=self.base,
                n_trials=count,
                limits=Limits(None, plan.get("trial_timeout")),
                checkpoints=self._folder(),
                keep=True,
                on_new_code=lambda modules: say(
                    self.console, f"note: the source of {', '.join(modules)} was changed; new runs use it", "yellow"
                ),
                signals=self.signals,
            )
            worker.run()

    def _configurations(self) -> dict[int, RunConfig]:
        """The configuration of each entrant, those of earlier confirmations included, with the data where they are."""
        runs = find_runs(self.search, keys.CONFIRMS)
        entrants = set() if runs is None else {one.trial for one in entrants_of(runs)}
        known = {one.trial: one.run for one in self.candidates.all}
        trials = [trial for trial in self.search.get_trials(deepcopy=False) if keys.CONFIG in trial.user_attrs]
        found = {t.number: RunConfig.parse(t.user_attrs[keys.CONFIG]) for t in trials if t.number in entrants} | known
        return {number: with_data(run, self.base.data.name) for number, run in found.items()}

    def _names(self) -> dict[int, str]:
        return {one.trial: one.name for one in self.candidates.all}

    def _cards(self) -> list[str]:
        return machine.cards(self.base.train.device)

    def _slots(self, runs: int) -> int:
        """The number of runs that train at a time."""
        return min(machine.slots(self.request.n_jobs, len(self._cards())), runs)

    def _folder(self) -> Path | None:
        return folder_of(self.request.checkpoints, self.url)

    def _remove_checkpoints(self, runs: optuna.Study, configuration: int) -> None:
        folder = self._folder()
        if folder is None:
            return
        for run in completed(runs):
            if run.configuration == configuration and (name := checkpoint_of(runs, run)) is not None:
                remove(Checkpoints(folder, name[0]).path(name[1]))
