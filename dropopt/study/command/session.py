"""One sitting of a study: from its definition to the summary, on one machine."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dropopt.config import ConfigError, RunConfig
from dropopt.export import provenance
from dropopt.seeds import derived_seed
from dropopt.study.define.definition import Definition
from dropopt.study.define.space import Space
from dropopt.study.run import machine
from dropopt.study.run.messages import Ready
from dropopt.study.run.slots import Pool, Targets
from dropopt.study.run.worker import Worker
from dropopt.study.search.prior import Prior, load_prior
from dropopt.study.search.pruners import make_pruner
from dropopt.study.search.samplers import make_sampler
from dropopt.study.show import page as display
from dropopt.study.show import tables
from dropopt.study.show.console import busy, make_console, say
from dropopt.study.show.progress import Progress
from dropopt.study.store.experiment import check, create
from dropopt.study.store.keys import DATA, MADE_WITH, PRIOR
from dropopt.study.store.ledger import Ledger, counted
from dropopt.study.store.opening import Opened
from dropopt.study.store.queries import count, find_study, study_names
from dropopt.study.store.url import redact, resolve

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage
    from rich.console import Console

#: Options that change one setting of a section.
_SETTINGS = {
    "data": ("data", "name"),
    "model": ("model", "name"),
    "epochs": ("train", "epochs"),
    "subset": ("data", "subset"),
}


def override(study: Definition, options: Mapping[str, Any]) -> Definition:
    """``study`` with what the command line says; checked like the definition itself."""
    plain = {name: value for name, value in options.items() if name not in _SETTINGS}
    values = {name: getattr(study, name) for name in type(study).model_fields} | plain
    for option, (section, name) in _SETTINGS.items():
        if option in options:
            changed = values[section].model_dump() | {name: options[option]}
            if option == "model":
                changed["options"] = {}  # those of one network mean nothing to another
            values[section] = type(values[section]).parse(changed)
    return Definition.parse(values)


def run(
    study: Definition, script: Path, storage: str | None, n_jobs: int, again: str, targets: Targets | None = None
) -> int:
    """Run ``study`` and say how it went; the exit code is 0, 1 where every trial failed, or 128 + a signal."""
    space = study.load_space(script.parent)
    base = study.base(space)
    cards = machine.cards(base.train.device)
    slots = min(machine.slots(n_jobs, len(cards)), study.n_trials)
    url = resolve(storage)
    quiet_optuna()
    console = make_console()
    # The children start first: they import torch while the storage is opened.
    with Pool(slots, targets or Targets(), cards) as pool, closing(Opened(url)) as opened:
        prior = load_prior(study.prior, url) if study.prior else None
        sitting = _Sitting(study, space, base, script, opened.storage, prior, console)
        done = sitting.done
        say(console, sitting.opening(redact(url), slots, done))
        ended: int | None = None
        if done < study.n_trials:
            with Progress(console, study.n_trials) as progress:
                sitting.progress = progress
                worker = Worker(pool, sitting.open, progress, base=base, n_trials=study.n_trials, timeout=study.timeout)
                worker.run()
            ended = worker.signal
        if sitting.study is not None:
            with busy("reading what was learned"):
                display.refresh(sitting.study)
            tables.summary(console, sitting.study, study, redact(url), again, storage is not None, ended)
            counts = count(sitting.study.get_trials(deepcopy=False))
            if ended is None and counts.failed and not counts.complete + counts.pruned:
                return 1
        return 0 if ended is None else 128 + ended


def quiet_optuna() -> None:
    """Optuna logs every trial and parameter; what matters is shown by :class:`Progress`."""
    import optuna

    optuna.logging.set_verbosity(logging.ERROR)


class _Sitting:
    """The study in its storage, opened when the data are known."""

    def __init__(
        self,
        study: Definition,
        space: Space,
        base: RunConfig,
        script: Path,
        storage: BaseStorage,
        prior: Prior | None,
        console: Console,
    ) -> None:
        self._definition = study
        self._space = space
        self._base = base
        self._storage = storage
        self._prior = prior
        self._console = console
        self.study: optuna.Study | None = None
        self.progress: Progress | None = None
        self.done = 0
        if study.name in study_names(storage):
            self._resume()
        # What takes time to import is imported while the children import torch.
        self._made_with = provenance(script=script.name)
        # A resumed study draws on: from the same seed alone it would repeat its first draws.
        drawn = 0 if self.study is None else len(self.study.get_trials(deepcopy=False))
        seed = derived_seed(study.seed, "sampler", drawn, bits=31)
        self._sampler = make_sampler(study.sampler, space, seed, self._evidence(drawn))

    def _evidence(self, drawn: int) -> Mapping[str, Any] | None:
        """What is known of the blend beforehand: the same for all who work on a study, from its first trial on."""
        held = self.study.user_attrs.get(PRIOR) if self.study is not None else None
        if drawn and held is None and self._prior is not None:
            name = self._definition.name
            raise ConfigError(f"study {name!r} began without a prior; give another --study-name, or no --prior")
        return self._prior.evidence if self._prior is not None and not drawn else held

    def _resume(self) -> None:
        """Check that a study of this name is the same experiment, and end what was left running."""
        self.study = find_study(self._storage, self._definition.name)
        check(self.study, self._space, self._base)
        self._objective(self.study, classes=2).fail_abandoned()
        self.done = counted(self.study.get_trials(deepcopy=False))

    def opening(self, url: str, slots: int, done: int) -> str:
        """What is about to happen, in a line."""
        study = self._definition
        line = f"study {study.name}: space {self._space.name} ({len(self._space.parameters)} parameters), {url}"
        if done >= study.n_trials:
            return f"{line}\nit already has {done} trials; to go on, give --n-trials {done + study.n_trials}"
        so_far = f" (it has {done})" if done else ""
        return f"{line}\n{study.n_trials} trials{so_far} of {study.train.epochs} epochs, {slots} at a time"

    def open(self, ready: Ready) -> Ledger:
        """Create or go on with the study, for the data that a slot has loaded."""
        for notice in ready.notices:
            say(self._console, f"note: {notice}", "yellow")
        study, made = self.study, False
        if study is None or not study.get_trials(deepcopy=False):
            facts = {MADE_WITH: self._made_with, DATA: ready.fingerprint}
            study, made = create(
                self._storage, self._definition.name, self._space, self._base, facts, known=study is not None
            )
            if made and self._prior is not None:
                self._prior.seed(study, self._space, ready.classes)
        if not made and study.user_attrs.get(DATA) != ready.fingerprint:
            raise ConfigError(
                f"the data of study {study.study_name!r} have changed since it began; give another --study-name"
            )
        study.sampler = self._sampler
        study.pruner = make_pruner(self._definition.pruner, self._base.train.epochs)
        self.study = study
        if self.progress is not None:
            self.progress.opened(study)
        return self._objective(study, ready.classes)

    def _objective(self, study: optuna.Study, classes: int) -> Ledger:
        return Ledger(study, self._space, self._base, self._definition.seed, classes)
