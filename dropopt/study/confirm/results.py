"""What a confirmation says: the mean of each configuration over fresh seeds, the winner, and its test scores."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from dropopt.config import TaskConfig
from dropopt.numbers import fixed, listed, quantity
from dropopt.study.confirm.intervals import Difference, Interval, mean_of, paired
from dropopt.study.confirm.ledger import is_failure, outs
from dropopt.study.confirm.runs import completed, failed, failed_trials, find_runs, unfinished
from dropopt.study.store import keys
from dropopt.study.store.anchor_names import without_dropout
from dropopt.study.store.confirmations import entrants_of, readings_of
from dropopt.study.store.queries import judged, metric_word, optimised, task_of
from dropopt.study.store.scale import Scale


@dataclass(frozen=True)
class Scores:
    """Scores of one configuration, by seed (from 0)."""

    #: What is minimised.
    objective: Mapping[int, float]
    loss: Mapping[int, float]
    accuracy: Mapping[int, float]
    ece: Mapping[int, float]

    @property
    def seeds(self) -> int:
        """The number of seeds."""
        return len(self.objective)


@dataclass(frozen=True)
class Confirmed:
    """A configuration on fresh seeds."""

    #: The number of its trial in the search.
    trial: int
    #: How it is called: ``trial 12`` or the name of an anchor.
    name: str
    #: Whether it is an anchor.
    anchor: bool
    #: Its value in the search, of one seed.
    searched: float
    #: On the validation split: the objective at the last epoch; loss, accuracy and ECE at the best one.
    validation: Scores
    #: The mean of the objective.
    mean: Interval
    #: Why the race dropped it; empty if it did not.
    out: str
    #: Seconds of training, all seeds together.
    seconds: float
    #: With which seed it failed, and why; empty if it did not.
    failure: str = ""

    @property
    def stopped(self) -> str:
        """Why it was not trained on all seeds; empty if it was."""
        return self.out or self.failure

    @property
    def chosen(self) -> bool:
        """Whether the search chose it, and more than one seed was trained."""
        return not self.anchor and self.validation.seeds > 1


@dataclass(frozen=True)
class Unconfirmed:
    """A configuration that failed, and has a result with no seed."""

    #: The number of its trial in the search.
    trial: int
    #: How it is called, as in :class:`Confirmed`.
    name: str
    #: With which seeds it failed, and the first line of the last error.
    why: str


@dataclass(frozen=True)
class Tested:
    """A reading of the test split: the networks of one configuration."""

    #: The number of its trial in the search.
    trial: int
    test: Scores
    #: When the split was read.
    at: str


@dataclass(frozen=True)
class Judged:
    """A result in which networks are judged by their loss or by their metric."""

    #: What is minimised: ``loss`` or ``accuracy`` (then 1 - accuracy).
    optimise: str
    #: What the networks are trained for.
    task: TaskConfig

    @property
    def scale(self) -> Scale:
        """How values are shown."""
        return Scale.of_task(self.task, self.optimise)

    @property
    def score(self) -> str:
        """The name of the metric."""
        return self.task.score


@dataclass(frozen=True)
class Confirmation(Judged):
    """The result of ``dropopt confirm``."""

    study: str
    chosen_by: str
    seeds: int
    #: Those trained on all seeds first, from the lowest mean to the highest.
    configurations: tuple[Confirmed, ...]
    #: The winner: the lowest mean among those trained on all seeds; None if none was yet.
    winner: Confirmed | None
    #: The best anchor trained on all seeds, and the winner's paired difference to it; None if there is none.
    anchor: Confirmed | None
    to_anchor: Difference | None
    #: How far the confirmed means are above the values of the search, as a fraction of the means: for the winner, and
    #: on average over the configurations that were chosen by the search.
    optimism: float | None
    mean_optimism: float | None
    tested: Tested | None
    verdict: str
    #: The configurations without a result.
    failed: tuple[Unconfirmed, ...]

    def __repr__(self) -> str:
        winner = "no winner yet"
        if self.winner is not None:
            winner = f"winner trial {self.winner.trial} with {self.scale.name} {self.scale.text(self.winner.mean.mean)}"
        return f"Confirmation({self.study!r}, {quantity(len(self.configurations), 'configuration')}, {winner})"

    def from_winner(self, one: Confirmed) -> Difference | None:
        """Return the paired difference of a configuration to the winner; None of the winner, or without one."""
        if self.winner is None or one is self.winner:
            return None
        return paired(one.validation.objective, self.winner.validation.objective)

    def plain(self) -> dict[str, Any]:
        """Return the result as values for JSON."""
        return {
            "study": self.study,
            "optimise": self.optimise,
            "minimised": self.scale.stored,
            "metric": self.score,
            "chosen_by": self.chosen_by,
            "seeds": self.seeds,
            "configurations": [
                _plain(one, self.score) | {"minus_winner": _plain_difference(self.from_winner(one))}
                for one in self.configurations
            ],
            "failed": [vars(one) for one in self.failed],
            "winner": self.winner and self.winner.trial,
            "best_anchor": self.anchor and self.anchor.trial,
            "winner_minus_best_anchor": _plain_difference(self.to_anchor),
            "optimism": self.optimism,
            "mean_optimism": self.mean_optimism,
            "test": self.tested
            and {"trial": self.tested.trial, "read_at": self.tested.at, **plain_scores(self.tested.test, self.score)},
            "verdict": self.verdict,
        }


def confirmation(study: optuna.Study, *, seeds: int | None = None, by: str | None = None) -> Confirmation | None:
    """Return what the confirmation of a search says so far; None if it has not begun.

    Args:
        study: The search, of which ``dropopt confirm`` trained configurations again.
        seeds: The number of seeds that count. Default: that of the last confirmation.
        by: What the winner is chosen by, ``loss`` or ``accuracy``. Default: as in the last confirmation.

    Example:
        >>> import optuna
        >>> confirmation(optuna.create_study(study_name="new")) is None
        True
    """
    runs = find_runs(study, keys.CONFIRMS)
    if runs is None or not {keys.ENTRANTS, keys.SEEDS, keys.CHOSEN_BY} <= runs.user_attrs.keys():
        return None
    seeds = seeds or int(runs.user_attrs[keys.SEEDS])
    by = by or str(runs.user_attrs.get(keys.JUDGED_BY) or optimised(study))
    found = sorted(
        _configurations(study, runs, seeds, by), key=lambda one: (one.validation.seeds < seeds, one.mean.mean)
    )
    full = [one for one in found if one.validation.seeds >= seeds and not one.stopped]
    winner = full[0] if full else None
    anchor = next((one for one in full if one.anchor and one is not winner), None)
    to_anchor = paired(winner.validation.objective, anchor.validation.objective) if winner and anchor else None
    chosen = [one for one in found if one.chosen]
    ended = {run.configuration: f"seed {run.repeat + 1}, {why}" for run, why in failed(runs, seeds).items()}
    task = task_of(study)
    scale = Scale.of_task(task, by)
    return Confirmation(
        study=study.study_name,
        optimise=by,
        task=task,
        chosen_by=str(runs.user_attrs[keys.CHOSEN_BY]),
        seeds=seeds,
        configurations=tuple(found),
        winner=winner,
        anchor=anchor,
        to_anchor=to_anchor,
        optimism=_optimism(winner) if winner else None,
        mean_optimism=sum(map(_optimism, chosen)) / len(chosen) if chosen else None,
        tested=_tested(study, by),
        verdict=_failures(runs, winner, ended, scale) or _verdict(full, anchor, scale),
        failed=tuple(_unconfirmed(runs, seeds, {one.trial for one in found})),
    )


def _configurations(study: optuna.Study, runs: optuna.Study, seeds: int, by: str) -> list[Confirmed]:
    done: dict[int, dict[int, FrozenTrial]] = {}
    for run, trial in completed(runs).items():
        if run.repeat < seeds:
            done.setdefault(run.configuration, {})[run.repeat] = trial
    failures = {run.configuration: f"seed {run.repeat + 1} failed: {why}" for run, why in failed(runs, seeds).items()}
    out, trials = outs(runs, by), study.get_trials(deepcopy=False)
    failures = {number: why for number, why in out.items() if is_failure(why)} | failures
    raced = {number: why for number, why in out.items() if not is_failure(why)}
    found = []
    for entrant in entrants_of(runs):
        number = entrant.trial
        rows = dict(sorted(done.get(number, {}).items()))
        if not rows or number >= len(trials):
            continue
        objective = {repeat: judged(trial, by, runs) for repeat, trial in rows.items()}
        scores = Scores(objective, *_by_seed(rows, keys.BEST_LOSS, keys.ACCURACY, keys.VAL_ECE))
        found.append(
            Confirmed(
                trial=number,
                name=entrant.name,
                anchor=entrant.anchor,
                searched=judged(trials[number], by, study),
                validation=scores,
                mean=mean_of(list(scores.objective.values())),
                out=raced.get(number, ""),
                failure=failures.get(number, ""),
                seconds=sum(float(trial.user_attrs.get(keys.SECONDS, 0.0)) for trial in rows.values()),
            )
        )
    return found


def _unconfirmed(runs: optuna.Study, seeds: int, confirmed: Collection[int]) -> Iterator[Unconfirmed]:
    """The entrants that have failed, but those that are ``confirmed`` with some seed."""
    failures: dict[int, dict[int, FrozenTrial]] = {}
    for run, trial in failed_trials(runs, seeds).items():
        if run.configuration not in confirmed:
            failures.setdefault(run.configuration, {})[run.repeat] = trial
    for entrant in entrants_of(runs):
        if rows := failures.get(entrant.trial):
            which = "seed " + listed([repeat + 1 for repeat in sorted(rows)], most=seeds)
            which = f"all {seeds} seeds" if len(rows) == seeds else which
            known = rows[max(rows)].user_attrs
            message = str(known.get(keys.MESSAGE, "")).partition("\n")[0]
            why = dict.fromkeys(filter(None, (known.get(keys.REASON), message)))  # some messages are the reason
            yield Unconfirmed(entrant.trial, entrant.name, ": ".join([f"failed with {which}", *why]))


def _by_seed(rows: Mapping[int, FrozenTrial], *names: str) -> list[dict[int, float]]:
    """For each name, the attribute by seed."""
    return [
        {repeat: float(trial.user_attrs[name]) for repeat, trial in rows.items() if name in trial.user_attrs}
        for name in names
    ]


def _tested(study: optuna.Study, by: str) -> Tested | None:
    """The latest reading of the test split; None before the first, or while it is incomplete."""
    tests = find_runs(study, keys.TESTS)
    if tests is None or not (readings := readings_of(tests)):
        return None
    last = readings[-1]
    rows = {
        run.repeat: trial for run, trial in sorted(completed(tests).items()) if run.configuration == last.configuration
    }
    if unfinished(tests) or not rows:
        return None
    loss, accuracy, ece = _by_seed(rows, keys.TEST_LOSS, keys.TEST_ACCURACY, keys.TEST_ECE)
    task = task_of(study)
    objective = {seed: task.cost(loss[seed], value, by) for seed, value in accuracy.items()}
    return Tested(last.configuration, Scores(objective, loss, accuracy, ece), last.at)


def _optimism(one: Confirmed) -> float:
    return (one.mean.mean - one.searched) / abs(one.mean.mean) if one.mean.mean else 0.0


def _failures(runs: optuna.Study, winner: Confirmed | None, ended: Mapping[int, str], scale: Scale) -> str:
    """The verdict if every configuration but the winner failed, so that nothing is compared; empty otherwise."""
    names = {entrant.trial: entrant.name for entrant in entrants_of(runs)}
    others = [number for number in names if winner is None or number != winner.trial]
    if not others or not ended.keys() >= set(others):
        return ""
    why = f"{names[others[0]]}: {ended[others[0]]}"
    if winner is None:
        return f"every configuration failed with one of the seeds ({why}); a larger --top adds others of the search"
    return (
        f"{winner.name} is the only configuration that did not fail, so it is compared with none ({why}); its "
        f"{scale.name} is {_text(winner.mean, scale)} over {quantity(winner.mean.n, 'seed')}"
    )


def _verdict(full: Sequence[Confirmed], anchor: Confirmed | None, scale: Scale) -> str:
    """Say which configuration wins, and whether it is better than the best anchor, in one or two sentences.

    Of an anchor that wins they say instead whether dropout helps: an anchor with dropout is compared with no dropout,
    and no dropout with the best configuration that has dropout.
    """
    if not full:
        return "no configuration has been trained on all seeds yet"
    winner, way = full[0], "highest" if scale.maximise else "lowest"
    text = (
        f"{winner.name} has the {way} {scale.name}: {_text(winner.mean, scale)} over {quantity(winner.mean.n, 'seed')}"
    )
    if not winner.anchor:
        return text + (_against(winner, anchor, f"the best anchor, {anchor.name}", scale) if anchor else "")
    nothing = without_dropout(winner.name)
    rival = next((one for one in full if without_dropout(one.name) != nothing), None)
    if rival is not None:
        text += _against(winner, rival, f"the best with dropout, {rival.name}" if nothing else rival.name, scale)
    if nothing:
        return f"dropout does not help here: {text}"
    return f"{text}; no configuration of the search is better than this anchor"


def _against(winner: Confirmed, other: Confirmed, name: str, scale: Scale) -> str:
    """How far the winner is from another configuration, as the end of a sentence; empty if that is not known."""
    difference = paired(winner.validation.objective, other.validation.objective)
    if difference is None:
        return ""
    gap = difference.interval
    if gap.high < 0:
        where = "above" if scale.maximise else "below"
        amount, *ends = fixed(-gap.mean, -gap.high, -gap.low)
        return f"; it is {amount} (95% interval {' to '.join(ends)}) {where} {name}"
    amount, *ends = fixed(scale.change(gap.mean), *scale.changes(gap.low, gap.high), sign=True)
    return f"; it is not clearly better than {name} (difference {amount}, 95% interval {' to '.join(ends)})"


def _text(interval: Interval, scale: Scale) -> str:
    mean, *ends = fixed(scale.read(interval.mean), *scale.interval(interval.low, interval.high))
    return f"{mean} (95% interval {' to '.join(ends)})"


def plain_scores(scores: Scores, score: str) -> dict[str, Any]:
    """Return means with intervals, and the values by seed, for JSON; the metric has the name ``score``."""
    found: dict[str, Any] = {}
    for name, values in vars(scores).items():
        if values:
            word = metric_word(score) if name == "accuracy" else name
            found[word] = {**mean_of(list(values.values())).plain(), "by_seed": list(values.values())}
    return found


def _plain_difference(found: Difference | None) -> dict[str, Any] | None:
    return None if found is None else {**found.interval.plain(), "p": found.p}


def _plain(one: Confirmed, score: str) -> dict[str, Any]:
    return {
        "trial": one.trial,
        "name": one.name,
        "anchor": one.anchor,
        "searched": one.searched,
        "out": one.stopped or None,
        "seconds": one.seconds,
        **plain_scores(one.validation, score),
    }
