"""One session of a study on this machine: from a request to the summary.

:func:`run` goes through these steps:

1. The child processes start. They import torch, which takes seconds; the steps 2 to 4 happen in the meantime.
2. The storage is opened, and the prior is read if there is one.
3. ``Session.resume``: if the storage has a study of this name, it must be the same experiment. The trials of workers
   that are certainly dead are recorded as failed and enqueued again. The trials of other dead workers follow after the
   grace period.
4. ``Session.prepare``: the sampler is made, with a seed that depends on the number of trials so far and, if there may
   be other workers, on the worker.
5. ``Session.train``: a worker runs trials until the target is reached, unless it is reached already. Once the first
   child has loaded the data, the worker calls ``Session.open_study``, which creates the study or checks that its data
   are the same as before.
6. ``Session.summarise``: the summary is printed and the exit code determined.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from signal import Signals
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from rich.console import Console

from dropopt.config import ConfigError
from dropopt.numbers import quantity
from dropopt.provenance import provenance
from dropopt.seeds import derived_seed
from dropopt.study.run.checkpoints import Checkpoints
from dropopt.study.run.messages import Ready
from dropopt.study.run.running import Limits
from dropopt.study.run.signals import SignalCatcher
from dropopt.study.run.slots import Pool
from dropopt.study.run.worker import Worker
from dropopt.study.search.controls import enqueue_due_controls
from dropopt.study.search.prior import Prior, load_prior
from dropopt.study.search.pruners import make_pruner
from dropopt.study.search.samplers import make_sampler, refuse_pickles
from dropopt.study.session.beginning import enqueue_first_trials, first_facts, is_queue_lost, sites_left_out
from dropopt.study.session.pools import start_pool
from dropopt.study.session.request import Request
from dropopt.study.session.storage import worker_storage
from dropopt.study.show import page, words
from dropopt.study.show.artifacts import artifact_folder, save_artifacts
from dropopt.study.show.console import busy, complain, make_console, say, say_command
from dropopt.study.show.live import LivePage
from dropopt.study.show.next_lines import Resume
from dropopt.study.show.progress import Progress
from dropopt.study.show.summary import Outcome, show_summary
from dropopt.study.store.anchor_names import first_anchors
from dropopt.study.store.code import record_code
from dropopt.study.store.continuation import may_be_continued
from dropopt.study.store.experiment import check, create, data_difference, name_of_files, space_of
from dropopt.study.store.keys import COMMAND, FACTS, ID, PLAN, PRIOR
from dropopt.study.store.lease import WorkerIdentity
from dropopt.study.store.queries import count, find_study, study_names
from dropopt.study.store.retries import root, unfinished
from dropopt.study.store.search_ledger import SearchLedger
from dropopt.study.store.trial_budget import budget_used
from dropopt.study.store.url import redact, redact_all, storage_hint
from dropopt.study.store.weights import path_of


def run(request: Request, console: Console | None = None) -> int:
    """Run a study, and print to ``console``, standard output by default.

    Returns:
        The exit code: 0, 1 if every trial failed, or 128 + the signal that stopped the study.
    """
    url = request.url
    refuse_pickles(request.definition.sampler, url)
    quiet_optuna()
    console = console or make_console(quiet=request.quiet)
    with (
        SignalCatcher() as signals,
        start_pool(request, console) as pool,
        worker_storage(url, request.storage_patience, request.grace, console, signals, create=True) as (
            storage,
            identity,
        ),
    ):
        prior = load_prior(request.definition.prior, url) if request.definition.prior else None
        session = Session(request, storage, prior, console, identity)
        session.resume()
        session.prepare()
        session.announce(pool.size)
        code = session.summarise(session.train(pool, signals))
        if code == 0 and signals.received is not None:  # after the last trial; it stops a comparison too
            return 128 + signals.received
        return code


def quiet_optuna() -> None:
    """Turn off Optuna's log of every trial; :class:`Progress` shows the progress."""
    optuna.logging.set_verbosity(logging.ERROR)


class Session:
    """A study while it runs. See the top of this module for the order of the steps."""

    def __init__(
        self,
        request: Request,
        storage: BaseStorage,
        prior: Prior | None,
        console: Console,
        identity: WorkerIdentity | None = None,
    ) -> None:
        self._request = request
        self._definition = request.definition
        self._settings = request.settings
        self._storage = storage
        self._prior = prior
        self._console = console
        self._identity = identity or WorkerIdentity()
        self._study: optuna.Study | None = None
        self._progress: Progress | None = None
        self._sampler: BaseSampler | None = None
        self._made_with: Mapping[str, Any] = {}
        self._done = 0
        self._running = 0

    def resume(self) -> None:
        """Find the study in its storage, check that it is the same experiment and take up lost trials."""
        if self._definition.name not in study_names(self._storage):
            return
        self._study = find_study(self._storage, self._definition.name)
        check(self._study, self._settings.space, self._settings.base)
        self._ledger(self._study, classes=2).take_up(everything=self._request.reclaim)
        trials = self._study.get_trials(deepcopy=False)
        self._done, self._running = budget_used(trials), count(trials).running

    def prepare(self) -> None:
        """Make the sampler and the provenance."""
        script = self._request.script
        command = redact_all(self._request.command)  # --prior may name a URL with a password
        self._made_with = provenance(script.parent, script=script.name, command=command)
        drawn = 0 if self._study is None else len(self._study.get_trials(deepcopy=False))
        if not drawn and self._request.stored is None:
            _ = self._request.portfolio  # so that a mistake in its file shows before the data are loaded
        alone = self._identity.exclusive or self._study is None
        self._sampler = self._make_sampler(drawn, alone=alone)

    def announce(self, slots: int) -> None:
        """Print the study, its search space and the number of trials to run."""
        study, space, done = self._definition, self._settings.space, self._done
        url = redact(self._request.url)
        say(self._console, f"study {study.name}, stored in {url}")
        self._line("searches", words.searched_space(space.name, [parameter.name for parameter in space.parameters]))
        if self._complete():
            more = done + study.n_trials
            how = f"give --n-trials {more}" if self._request.extendable else f"run it with n_trials = {more}"
            say(self._console, f"it already has {quantity(done, 'trial')}; to go on, {how}")
        else:
            so_far = f" (it has {done})" if done else ""
            epochs = quantity(self._settings.base.train.epochs, "epoch")
            plan = f"{quantity(study.n_trials, 'trial')}{so_far} of at most {epochs}"
            how = f"sampler {study.sampler}, pruner {study.pruner}, seed {study.seed}"
            self._line("budget", f"{plan}, {slots} at a time; {how}")

    def train(self, pool: Pool, signals: SignalCatcher) -> int | None:
        """Run trials until the target is reached. Returns the signal that stopped it, if one did."""
        study = self._definition
        if self._complete():
            return signals.received
        with Progress(self._console, study.n_trials) as progress:
            self._progress = progress
            worker = Worker(
                pool,
                self.open_study,
                progress,
                base=self._settings.base,
                n_trials=study.n_trials,
                limits=Limits(study.timeout, study.trial_timeout),
                checkpoints=self._request.checkpoints,
                keep_checkpoints=study.keep_checkpoints,
                weights=None if self._artifacts is None else partial(self._file_of_weights, self._artifacts),
                on_new_code=self._code_changed,
                signals=signals,
            )
            worker.run()
        return worker.signal

    def open_study(self, ready: Ready) -> SearchLedger:
        """Create the study, or continue it, with the data that the first child has loaded."""
        base = self._settings.base.model_dump(mode="json")
        for word, line in [*words.about(ready.facts, base), ("training", words.training(base["train"], ready.facts))]:
            self._line(word, line)
        for notice in (*self._definition.unused(self._settings.space), *ready.notices):
            self._notice(notice)
        study, created = self._study, False
        unbegun = study is None or not study.get_trials(deepcopy=False)
        if study is None or (unbegun and self._request.stored is None):  # else the study begins as its storage says
            study, created = self._create(ready)
        if created or is_queue_lost(study, exclusive=self._identity.exclusive):
            enqueue_first_trials(study, self._request, self._prior, ready.classes)
            if begins := words.begins(study.user_attrs, study.get_trials(deepcopy=False)):
                self._line("begins", begins)
        name = self._settings.base.data.name
        if not created and (difference := data_difference(study, ready.fingerprint, name)):
            raise ConfigError(f"{difference}; give another --study-name, or the same data")
        if changed := record_code(study, self._settings.base):
            self._notice(changed)
        if self._study is None and not created:  # another worker has begun the study, and its sampler has that seed
            self._sampler = self._make_sampler(0, alone=False)
        if study.user_attrs.get(PLAN) != (plan := self._settings.plan):
            study.set_user_attr(PLAN, plan)
        self._record(study, ready)
        study.sampler = self._sampler
        anchors = first_anchors(study.get_trials(deepcopy=False))
        study.pruner = make_pruner(self._definition.pruner, self._settings.base.train.epochs, anchors=len(anchors))
        self._study = study
        if self._progress is not None:
            self._progress.opened(study, LivePage(lambda: self._refresh(study)))
        self._sweep(study)
        return self._ledger(study, ready.classes)

    def _code_changed(self, modules: list[str]) -> None:
        """Store the new sources, and say that they are used; the study is open, since it has several trainers."""
        if self._study is not None:
            record_code(self._study, self._settings.base)
        self._notice(f"the source of {', '.join(modules)} was changed while the study runs; new trials use it")

    def _sweep(self, study: optuna.Study) -> None:
        """Remove the checkpoints that workers have left behind, unless another study may use the same names."""
        folder = self._request.checkpoints
        if folder is not None and (self._definition.checkpoints is None or ID in study.user_attrs):
            Checkpoints(folder, name_of_files(study)).sweep(lambda: self._in_use(study))

    def _in_use(self, study: optuna.Study) -> set[int]:
        """Return the trials whose checkpoints may be needed, by the number of the first attempt."""
        trials = study.get_trials(deepcopy=False)
        continuable = filter(may_be_continued, trials) if self._definition.keep_checkpoints else ()
        return {root(trial) for trial in (*unfinished(trials), *continuable)}

    def _record(self, study: optuna.Study, ready: Ready) -> None:
        """Store what the reports of the study say: the sizes of its data, and the line that resumes it."""
        known, command = study.user_attrs, redact_all(self._request.resume_command)
        if ready.facts is not None and FACTS not in known:
            study.set_user_attr(FACTS, ready.facts.plain())
        if self._request.extendable and known.get(COMMAND) != command:
            study.set_user_attr(COMMAND, command)

    def summarise(self, stopped_by: int | None) -> int:
        """Update the study's page for dashboards and print the summary. Returns the exit code."""
        if self._study is not None:
            if stopped_by is None:  # after a signal there may be only seconds left; the next run does the same
                try:
                    with busy("analysing the trials", quiet=self._console.quiet):
                        self._refresh(self._study)
                except OSError as error:  # a full disk, or a folder that is read-only: the trials are stored elsewhere
                    where = f"the files of the best trials cannot be stored in {self._artifacts}"
                    self._notice(f"{where}: {error.strerror or error}; give another --artifacts DIR")
                self._sweep(self._study)
            show_summary(self._console, self._study, self._outcome(stopped_by))
        elif stopped_by is not None:
            say(self._console, f"stopped by {Signals(stopped_by).name} before the study began; next:")
            say_command(self._console, "go on", self._outcome(stopped_by).resume.line(0) or "")
        if stopped_by is not None:
            return 128 + stopped_by
        failed = self._study is not None and _all_failed(self._study)
        if failed:
            name = self._definition.name
            complain(self._console, f"every trial of study {name!r} has failed; dropopt report shows why")
        return int(failed)

    @property
    def _artifacts(self) -> Path | None:
        return artifact_folder(self._request.url, self._request.artifacts)

    def _file_of_weights(self, folder: Path, number: int) -> Path:
        """The file for the weights of trial ``number``; the study is open, since it has a trial."""
        name = self._definition.name if self._study is None else name_of_files(self._study)
        return path_of(folder, name, number)

    def _refresh(self, study: optuna.Study) -> None:
        """Update what dashboards show of the study: its note, its figures and the files of its best trials."""
        hint = storage_hint(self._request.storage)
        page.refresh(study, hint)
        folder = self._artifacts
        if folder is not None:
            save_artifacts(study, folder, hint)

    def _line(self, word: str, text: str) -> None:
        """Print a line of the header, in the words of the dashboard's note."""
        say(self._console, f"  {word:<10}{text}", indent=12)

    def _notice(self, text: str) -> None:
        say(self._console, f"note: {text}", "yellow", indent=6)

    def _complete(self) -> bool:
        """Whether the study has all its trials and none is running: a running one may have to run again."""
        return self._done >= self._definition.n_trials and not self._running

    def _make_sampler(self, drawn: int, *, alone: bool) -> BaseSampler:
        """Make the sampler.

        Its seed depends on the number of trials, so that a resumed study does not repeat its first suggestions. Unless
        the worker is ``alone``, the seed also depends on the worker's id, so that workers that start together suggest
        different values.
        """
        who = () if alone else (self._identity.id,)
        seed = derived_seed(self._definition.seed, "sampler", drawn, *who, bits=31)
        evidence = self._evidence(drawn)
        try:
            return make_sampler(self._definition.sampler, self._settings.space, seed, evidence, self._notice)
        except ConfigError as error:
            if evidence is None:
                raise
            raise ConfigError(f"study {self._definition.name!r}: {error}") from None  # another program may have set it

    def _create(self, ready: Ready) -> tuple[optuna.Study, bool]:
        """The study, and whether this call created it: another process may create it at the same time."""
        settings = self._settings
        if notice := sites_left_out(settings.space, ready):
            self._notice(notice)
        study = self._study
        known = {} if study is None else study.user_attrs
        facts = first_facts(self._request, ready, self._prior, self._made_with, known)
        name = self._definition.name
        return create(self._storage, name, settings.space, settings.base, facts, known=study is not None)

    def _evidence(self, drawn: int) -> Mapping[str, Any] | None:
        """The evidence of an earlier study. All workers of a study use the same, from its first trial on."""
        stored = self._study.user_attrs.get(PRIOR) if self._study is not None else None
        if not drawn and self._prior is not None:
            return self._prior.evidence
        if self._prior is not None and stored is None:
            name = self._definition.name
            raise ConfigError(f"study {name!r} began without a prior; give another --study-name, or no --prior")
        return stored

    def _ledger(self, study: optuna.Study, classes: int) -> SearchLedger:
        space = space_of(study, self._settings.space)
        base, seed = self._settings.base, self._definition.seed
        controls = partial(enqueue_due_controls, space=space, base=base, classes=classes)
        on_start = controls if self._definition.anchors else None
        return SearchLedger(study, space, base, seed, classes, self._identity, self._notice, on_start)

    def _outcome(self, stopped_by: int | None) -> Outcome:
        return Outcome(
            timeout=self._definition.timeout,
            stopped_by=stopped_by,
            url=redact(self._request.url),
            storage_hint=storage_hint(self._request.storage),
            resume=Resume(self._request.resume_command, self._definition.n_trials, self._request.extendable),
        )


def _all_failed(study: optuna.Study) -> bool:
    counts = count(study.get_trials(deepcopy=False))
    return bool(counts.failed) and not counts.complete + counts.pruned
