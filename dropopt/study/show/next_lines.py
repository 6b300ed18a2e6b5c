"""The commands that a person may type next, each with what it does."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from dropopt.files import name_part
from dropopt.study.show.snapshot import Snapshot, learnable
from dropopt.study.show.words import too_brief
from dropopt.study.store.keys import BASE, COMMAND, CONFIG, MADE_WITH, PLAN
from dropopt.study.store.trial_budget import budget_spent


@dataclass(frozen=True)
class Resume:
    """The command that resumes a study."""

    command: str  # without --n-trials
    n_trials: int  # the target of the study
    extendable: bool = True  # whether the command takes --n-trials

    def line(self, spent: int) -> str | None:
        """The line to type after ``spent`` trials; None if the study is complete and cannot be extended."""
        reached = spent >= self.n_trials
        if self.extendable:
            return f"{self.command} --n-trials {self.n_trials + spent * reached}"
        return None if reached else self.command


def next_lines(
    shot: Snapshot, storage: str, resume: Resume | None = None, *, looking: bool = False, missing: int = 0
) -> Iterator[tuple[str, str]]:
    """Yield each possible next action and its command.

    Args:
        shot: The study.
        storage: The option ``--storage`` as it is typed, with a space before it; or empty.
        resume: The command that resumes the study. Default: the one that the study was last run with.
        looking: Whether the reader is looking at the dashboard already.
        missing: The number of trials that are missing for a claim; with the line that resumes the study, it gets them.
    """
    name, file = shlex.quote(shot.name), shlex.quote(best_file(shot.name))
    if resume is None and isinstance(plan := shot.attributes.get(PLAN), dict) and COMMAND in shot.attributes:
        resume = Resume(str(shot.attributes[COMMAND]), plan["n_trials"])
    if not looking:
        yield "look", f"dropopt dashboard{storage}"
    if not shot.several and learnable(shot.trials):
        yield "learn", f"dropopt efficacy --study {name}{storage}"
    spent = budget_spent(shot.trials)
    if resume is not None and missing and resume.n_trials < spent + missing:
        resume = replace(resume, n_trials=spent + missing)
    if resume is not None and (line := resume.line(spent)):
        yield "go on", line
    if too_brief(shot) and (line := _longer(shot)):
        yield "longer", f"{line}{storage}"
    if shot.leader is not None:
        page = shlex.quote(best_file(shot.name, "html", "report"))
        yield "report", f"dropopt report --study {name}{storage} -o {page}"
        with_config = [trial for trial in (shot.leader, *shot.ranked) if CONFIG in trial.user_attrs]
        if with_config and not shot.maximize:
            yield "confirm", f"dropopt confirm --study {name}{storage}"
        if with_config:
            # Another program may have added better trials, which hold no configuration.
            trial = "" if with_config[0] is shot.leader else f" --trial {with_config[0].number}"
            yield "export", f"dropopt export --study {name}{trial}{storage} -o {file}"
            yield "train", f"dropopt train {file}"


def first_line(shot: Snapshot) -> str:
    """The line that began a study, without a password; empty if it cannot be typed."""
    if COMMAND not in shot.attributes:
        return ""
    made = shot.attributes.get(MADE_WITH)
    return str((isinstance(made, Mapping) and made.get("command")) or shot.attributes[COMMAND])


def with_options(line: str, options: Mapping[str, object]) -> str:
    """A line with ``options``, in place of those that it has of the same names, and without those that are None.

    Example:
        >>> with_options("dropopt run digits --epochs 6 --seed 1 --n-jobs 2", {"--epochs": 12, "--n-jobs": None})
        'dropopt run digits --seed 1 --epochs 12'
    """
    parts = shlex.split(line)
    for option in options.keys() & set(parts):
        place = parts.index(option)
        del parts[place : place + 2]
    wanted = [(option, value) for option, value in options.items() if value is not None]
    return shlex.join([*parts, *(str(part) for pair in wanted for part in pair)])


def _longer(shot: Snapshot) -> str:
    """The line, without a storage, that runs the study with twice the epochs; empty without one.

    The epochs of a study are fixed, so it begins a study of another name, with the present number of trials.
    """
    line, epochs = first_line(shot), shot.attributes[BASE]["train"]["epochs"]
    if not line or re.search(r"train\.epochs\s*=", line):  # --set, which --epochs does not replace
        return ""
    name, plan = shot.name.removesuffix(f"-{epochs}-epochs"), shot.attributes.get(PLAN)
    trials = {"--n-trials": plan["n_trials"]} if isinstance(plan, Mapping) else {}
    renamed = {"--epochs": 2 * epochs, "--study-name": f"{name}-{2 * epochs}-epochs"}
    return with_options(line, {**trials, **renamed, "--storage": None})


def best_file(study: str, format: str = "yaml", kind: str = "best") -> str:
    """The name of a file for the best configuration of a study, which no other study has."""
    return f"{kind}-{name_part(study)}.{format}"
