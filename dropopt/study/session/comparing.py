"""One comparison on this machine: from arms to a verdict.

:func:`compare` goes through these steps. Each is skipped if it is complete, so that the same command goes on after an
interruption.

1. The arms are resolved: a study in the storage, or a search space, whose study is ``NAME-ARM``. They must have the
   same data, network and settings of training.
2. The cost is printed.
3. Each space is searched, as ``dropopt run`` does.
4. Each arm is confirmed, as ``dropopt confirm`` does, on seeds that are common to all arms.
5. The winners are compared, pair by pair of seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import optuna
from optuna.storages import BaseStorage
from rich.console import Console

from dropopt.config import ConfigError
from dropopt.numbers import quantity
from dropopt.study.confirm.arms import Arm, arm_of_space, arm_of_study, check_comparable
from dropopt.study.confirm.candidates import choose_candidates
from dropopt.study.confirm.comparison import Comparison, arm_result, compare_arms
from dropopt.study.confirm.ledger import missing
from dropopt.study.confirm.runs import find_runs
from dropopt.study.define import shipped
from dropopt.study.define.definition import Definition
from dropopt.study.run import machine
from dropopt.study.run.measure import seconds_of_an_epoch
from dropopt.study.run.signals import SignalCatcher
from dropopt.study.run.slots import Targets
from dropopt.study.search.portfolio import NONE
from dropopt.study.session import session
from dropopt.study.session.confirming import STOPPED_LINE, TEST, TRAIN, ConfirmRequest, confirm
from dropopt.study.session.request import Request
from dropopt.study.session.searched import seconds_of_a_trial
from dropopt.study.show.console import busy, say
from dropopt.study.show.formatting import format_seconds
from dropopt.study.store.experiment import check
from dropopt.study.store.keys import CONFIRMS
from dropopt.study.store.opening import Opened, reserve
from dropopt.study.store.queries import count, find_study, searches, study_names
from dropopt.study.store.trial_budget import budget_spent
from dropopt.study.store.url import file_of, resolve

#: Prefixes that tell a study and a space of the same name apart.
STUDY, SPACE = "study:", "space:"


@dataclass(frozen=True)
class CompareRequest:
    """Arms to compare."""

    #: Each a search space (a name or a file) or the name of a study in the storage.
    arms: Sequence[str]
    #: What the arms share: data, network, training, number of trials. Its name begins the names of their studies.
    definition: Definition
    script: Path
    storage: str | None
    seeds: int = 10
    top: int = 3
    n_jobs: int = -1
    #: What the winners are chosen by, ``loss`` or ``accuracy``; None for what the searches optimise.
    optimise: str | None = None
    #: The arm that the others are compared with; None for the best baseline.
    reference: str | None = None
    again: bool = False
    settle: Callable[[str, tuple[str, ...], Any], None] = lambda study, names, recorded: None
    targets: Targets = field(default_factory=Targets)
    train: Targets = TRAIN
    test: Targets = TEST


def compare(request: CompareRequest, console: Console) -> tuple[int, Comparison | None]:
    """Search, confirm and compare the arms.

    Returns:
        The exit code (0, 1 if an arm could not be confirmed, or 128 + the signal that stopped it), and the result.
    """
    session.quiet_optuna()
    plans = _plans(request)
    arms = [plan.arm for plan in plans]
    if request.reference is not None and request.reference not in [arm.name for arm in arms]:
        raise ConfigError(f"--baseline {request.reference} is none of the arms: {', '.join(arm.name for arm in arms)}")
    notes = check_comparable(arms)
    for note in notes:
        say(console, f"note: {note}", "yellow")
    with reserve(resolve(request.storage)):
        with SignalCatcher() as signals:
            _say_cost(request, plans, console, signals)
        if signals.received is not None:
            say(console, STOPPED_LINE)
            return 128 + signals.received, None
        code = _search_and_confirm(request, plans, console)
    if code:
        return code, None
    with closing(Opened(resolve(request.storage), create=False)) as opened:
        results = [
            arm_result(opened.storage, _searched(opened.storage, arm), seeds=request.seeds, by=request.optimise)
            for arm in arms
        ]
        check_comparable([_searched(opened.storage, arm) for arm in arms])
    known = [result for result in results if result is not None]
    task = arms[0].base.task
    optimise = request.optimise or task.judged_by
    return 0, compare_arms(known, optimise=optimise, reference=request.reference, notes=notes, task=task)


def _search_and_confirm(request: CompareRequest, plans: Sequence[_Plan], console: Console) -> int:
    """Search and confirm the arms. Returns the exit code of the first that fails or is stopped; else 0."""
    for plan in plans:
        if plan.search is not None and plan.left and (code := session.run(plan.search, console)):
            if code == 1:
                say(console, f"arm {plan.arm.name}: no trial of its search has a result", "yellow")
            return code
    for arm in [plan.arm for plan in plans]:
        code, found = confirm(_confirmation(request, arm), console)
        if code > 1:
            say(console, STOPPED_LINE)
            return code
        if found is None or found.winner is None:
            say(console, f"arm {arm.name} could not be confirmed: no configuration has a result on all seeds", "yellow")
            return 1
    return 0


@dataclass(frozen=True)
class _Plan:
    """An arm, and the search that it still needs."""

    arm: Arm
    #: None for an arm that is an existing study.
    search: Request | None
    #: The number of trials that its search still runs.
    left: int
    #: The number of runs that its confirmation still has at most.
    runs: int
    #: The median time of a trial, if it has any.
    seconds: float | None


def _plans(request: CompareRequest) -> list[_Plan]:
    """Resolve the arms."""
    url = resolve(request.storage)
    file = file_of(url)
    if file is not None and not file.exists():
        return [_plan(request, given, None) for given in request.arms]
    with closing(Opened(url, create=False)) as opened:
        return [_plan(request, given, opened.storage) for given in request.arms]


def _plan(request: CompareRequest, given: str, storage: BaseStorage | None) -> _Plan:
    existing = [] if storage is None else study_names(storage)
    possible = ", ".join([] if storage is None else searches(storage)) or "none"
    name = given.removeprefix(STUDY).removeprefix(SPACE)
    is_study = name in existing and not given.startswith(SPACE)
    is_space = not given.startswith(STUDY) and _names_a_space(name, request.script.parent)
    if is_study and is_space:
        raise ConfigError(f"arm {name} is a study and a search space; give {STUDY}{name} or {SPACE}{name}")
    if is_study and storage is not None:
        study = find_study(storage, name)
        arm = arm_of_study(name, study)
        _check_result(name, study, "run it first")
        return _Plan(arm, None, 0, _runs_left(request, study), seconds_of_a_trial(study))
    if given.startswith(STUDY):
        raise ConfigError(f"arm {given}: the storage has no such study; it has: {possible}")
    if not is_space and not Path(name).suffix and not given.startswith(SPACE):
        spaces = ", ".join(shipped.names("search_spaces"))
        raise ConfigError(
            f"arm {name} is neither a search space ({spaces}, or a .yaml file) nor a study in the storage ({possible})"
        )
    return _plan_of_space(request, name, storage, existing)


def _plan_of_space(request: CompareRequest, name: str, storage: BaseStorage | None, existing: list[str]) -> _Plan:
    label = Path(name).stem if Path(name).suffix else name
    # A portfolio has more configurations for some spaces than for others, so no arm begins with one.
    own = {"name": f"{request.definition.name}-{label}", "space": name, "portfolio": NONE}
    definition = Definition.parse({**dict(request.definition), **own})
    search = Request(
        definition,
        request.script,
        request.storage,
        request.n_jobs,
        "type the same command again",
        request.targets,
        extendable=False,
    )
    space, base = search.settings.space, search.settings.base
    done, runs, seconds = 0, request.top * request.seeds, None
    if storage is not None and definition.name in existing:
        study = find_study(storage, definition.name)
        check(study, space, base)
        done, seconds = budget_spent(study.get_trials(deepcopy=False)), seconds_of_a_trial(study)
        if done >= definition.n_trials:
            _check_result(label, study, "give a larger --n-trials, or another --study-name")
            runs = _runs_left(request, study)
    arm = arm_of_space(label, definition.name, space, base, max(definition.n_trials, done))
    return _Plan(arm, search, max(0, definition.n_trials - done), runs, seconds)


def _runs_left(request: CompareRequest, study: optuna.Study) -> int:
    """The number of runs that the confirmation of a complete search still has at most."""
    runs = find_runs(study, CONFIRMS)
    if runs is None:
        return request.top * request.seeds
    chosen = choose_candidates(study, request.top, anchors=False, by=request.optimise)
    return len(missing(runs, [one.trial for one in chosen.all], request.seeds, request.optimise))


def _check_result(arm: str, study: optuna.Study, advice: str) -> None:
    """Raise :class:`ConfigError` if an arm has no result, before the others are trained again."""
    found = count(study.get_trials(deepcopy=False))
    if not found.complete:
        raise ConfigError(f"arm {arm}: study {study.study_name!r} has no completed trial ({found}); {advice}")


def _names_a_space(name: str, beside: Path) -> bool:
    try:
        shipped.find("search_spaces", name, beside)
    except ConfigError:
        return False
    return True


def _say_cost(request: CompareRequest, plans: Sequence[_Plan], console: Console, signals: SignalCatcher) -> None:
    """Print the number of trials, runs and epochs that are left at most, and an estimate of the time.

    A signal while an epoch is measured ends it.
    """
    base = plans[0].arm.base
    epochs = base.train.epochs
    trials, runs = sum(plan.left for plan in plans), sum(plan.runs for plan in plans)
    names = ", ".join(plan.arm.name for plan in plans)
    say(
        console,
        f"comparison of {names}: the same data, network, training and budget, {quantity(request.seeds, 'common seed')}",
    )
    if not trials + runs:
        say(console, "cost: none, because all trials and runs have ended")
        return
    times = [plan.seconds for plan in plans if plan.seconds is not None]
    if times:
        seconds = median(times)
    else:
        with busy("measuring the time of an epoch", quiet=console.quiet):
            measured = seconds_of_an_epoch(base, signals, request.targets)
        if measured is None:
            return
        seconds = measured * epochs
    slots = machine.slots(request.n_jobs, len(machine.cards(base.train.device)))
    cost = f"{quantity(trials, 'trial')} and {quantity(runs, 'run')} of {quantity(epochs, 'epoch')}"
    say(
        console,
        f"cost: at most {cost}, {slots} at a time, about {format_seconds((trials + runs) * seconds / slots)} "
        f"({seconds:.1f} s each; pruned trials and configurations that are clearly worse take less)",
    )


def _confirmation(request: CompareRequest, arm: Arm) -> ConfirmRequest:
    return ConfirmRequest(
        study=arm.study,
        storage=request.storage,
        top=request.top,
        seeds=request.seeds,
        optimise=request.optimise,
        n_jobs=request.n_jobs,
        anchors=False,
        again=request.again,
        checkpoints=request.definition.checkpoints,
        data=arm.base.data.name,
        settle=request.settle,
        train=request.train,
        test=request.test,
    )


def _searched(storage: BaseStorage, arm: Arm) -> Arm:
    """The arm as its study in the storage describes it."""
    return arm_of_study(arm.name, find_study(storage, arm.study))
