"""What the confirmed arms say: paired differences to the best baseline, and a verdict in words."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import BaseStorage

from dropopt.config import ConfigError, TaskConfig
from dropopt.numbers import fixed
from dropopt.study.confirm.arms import Arm, arm_of_study, check_comparable
from dropopt.study.confirm.intervals import Difference, holm, mean_of, paired
from dropopt.study.confirm.results import Confirmation, Confirmed, Judged, Scores, confirmation, plain_scores
from dropopt.study.confirm.runs import find_runs
from dropopt.study.store.keys import CONFIRMS, SECONDS
from dropopt.study.store.queries import find_study, metric_word
from dropopt.study.store.retries import root
from dropopt.study.store.scale import Scale

#: Adjusted p values below this one are called a difference.
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Compute:
    """What an arm has cost."""

    trials: int
    epochs: int
    #: Of training, all processes together.
    seconds: float


@dataclass(frozen=True)
class ArmResult:
    """An arm with its winner on fresh seeds."""

    name: str
    study: str
    baseline: bool
    winner: Confirmed
    #: The winner's networks on the test split; None if the split was not read for them.
    test: Scores | None
    search: Compute
    confirm: Compute


@dataclass(frozen=True)
class Contrast:
    """An arm minus the reference, over the seeds that both have."""

    arm: str
    #: What is compared: the loss or the error on the test split, or on the validation split if the test was not read.
    objective: Difference
    #: The p value of that, adjusted for the number of arms (Holm).
    p_adjusted: float
    accuracy: Difference | None
    ece: Difference | None

    @property
    def better(self) -> bool:
        """Whether the arm is better than the reference."""
        return self.p_adjusted < SIGNIFICANT and self.objective.interval.mean < 0

    @property
    def worse(self) -> bool:
        """Whether the arm is worse than the reference."""
        return self.p_adjusted < SIGNIFICANT and self.objective.interval.mean > 0


@dataclass(frozen=True)
class Comparison(Judged):
    """The result of ``dropopt compare``."""

    seeds: int
    #: Whether differences are those on the test split.
    tested: bool
    #: From the lowest mean to the highest.
    arms: tuple[ArmResult, ...]
    #: The arm that the others are compared with: the baseline with the lowest mean on the validation split.
    reference: str
    contrasts: tuple[Contrast, ...]
    notes: tuple[str, ...]
    verdict: str

    @property
    def split(self) -> str:
        """The split on which the arms are compared."""
        return "test" if self.tested else "validation"

    def plain(self) -> dict[str, Any]:
        """Return the result as values for JSON."""
        return {
            "optimise": self.optimise,
            "metric": self.score,
            "seeds": self.seeds,
            "split": self.split,
            "arms": [_plain_arm(arm, self.score) for arm in self.arms],
            "reference": self.reference,
            "contrasts": [
                {
                    "arm": one.arm,
                    "difference": one.objective.interval.plain(),
                    "p": one.objective.p,
                    "p_adjusted": one.p_adjusted,
                    f"{metric_word(self.score)}_difference": one.accuracy and one.accuracy.interval.plain(),
                    "ece_difference": one.ece and one.ece.interval.plain(),
                }
                for one in self.contrasts
            ],
            "notes": list(self.notes),
            "verdict": self.verdict,
        }


def comparison(studies: Sequence[optuna.Study], *, reference: str | None = None) -> Comparison:
    """Compare searches that were confirmed, as ``dropopt compare`` does.

    Args:
        studies: The searches, two or more, each confirmed on the same seeds.
        reference: The name of the study to compare with. Default: the best of those without the engine.

    Returns:
        The differences to the reference, paired by seed, and a verdict.

    Raises:
        ConfigError: The studies differ in more than their dropout, or one has not been confirmed.

    Example:
        >>> import optuna
        >>> comparison([optuna.create_study(study_name="new")])
        Traceback (most recent call last):
        dropopt.config.ConfigError: study 'new' was not run by dropopt run, so it cannot be an arm
    """
    arms = [arm_of_study(study.study_name, study) for study in studies]
    notes = check_comparable(arms)
    results = []
    for study, arm in zip(studies, arms, strict=True):
        result = arm_result(study._storage, arm)
        if result is None:
            command = f"dropopt confirm --study {shlex.quote(study.study_name)}"
            raise ConfigError(f"study {study.study_name!r} is not confirmed; type: {command}")
        results.append(result)
    found = confirmation(studies[0])
    optimise = "loss" if found is None else found.optimise
    task = arms[0].base.task
    return compare_arms(results, optimise=optimise, reference=reference, notes=notes, task=task)


def arm_result(storage: BaseStorage, arm: Arm, *, seeds: int | None = None, by: str | None = None) -> ArmResult | None:
    """Return an arm with its winner; None if no configuration was trained on all seeds.

    Args:
        storage: The storage.
        arm: The arm.
        seeds: The number of seeds that count. Default: that of the last confirmation.
        by: What the winner is chosen by, ``loss`` or ``accuracy``. Default: as in the last confirmation.
    """
    study = find_study(storage, arm.study)
    runs, found = find_runs(study, CONFIRMS), confirmation(study, seeds=seeds, by=by)
    if runs is None or found is None or found.winner is None:
        return None
    return ArmResult(
        name=arm.name,
        study=arm.study,
        baseline=arm.baseline,
        winner=found.winner,
        test=_test(found),
        search=compute(study),
        confirm=compute(runs),
    )


def compute(study: optuna.Study) -> Compute:
    """Return what the trials of a study have cost. A trial and its retries, which inherit its reports, count as one."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.intermediate_values]
    epochs: dict[int, int] = {}
    for trial in trials:
        epochs[root(trial)] = max(epochs.get(root(trial), 0), len(trial.intermediate_values))
    seconds = sum(float(trial.user_attrs.get(SECONDS, 0.0)) for trial in trials)
    return Compute(len(epochs), sum(epochs.values()), seconds)


def compare_arms(
    arms: Sequence[ArmResult],
    *,
    optimise: str = "loss",
    reference: str | None = None,
    notes: Sequence[str] = (),
    task: TaskConfig | None = None,
) -> Comparison:
    """Compare confirmed arms.

    The test split is compared if it was read for the winner of every arm, else the validation split.

    Args:
        arms: The arms.
        optimise: What is minimised.
        reference: The name of the arm to compare with. Default: the baseline with the lowest mean on the validation
            split, or the first arm if none is a baseline.
        notes: What makes the comparison less fair.
        task: What the networks are trained for. Default: classification.

    Raises:
        ConfigError: No arm has the name ``reference``, or the arms have fewer than two seeds in common.
    """
    task = task or TaskConfig()
    scale = Scale.of_task(task, optimise)
    tested = all(arm.test is not None for arm in arms)
    base = _reference(arms, reference)
    scores = {arm.name: arm.test if tested and arm.test is not None else arm.winner.validation for arm in arms}
    contrasts = _contrasts(scores, base.name)
    ordered = sorted(arms, key=lambda arm: mean_of(list(scores[arm.name].objective.values())).mean)
    return Comparison(
        optimise=optimise,
        task=task,
        seeds=min(scores[arm.name].seeds for arm in arms),
        tested=tested,
        arms=tuple(ordered),
        reference=base.name,
        contrasts=contrasts,
        notes=tuple(notes),
        verdict=_verdict(base, contrasts, "test" if tested else "validation", scale, task.score),
    )


def _contrasts(scores: Mapping[str, Scores], base: str) -> tuple[Contrast, ...]:
    """Compare each arm with the arm ``base``, given the scores of each."""
    differences: dict[str, Difference] = {}
    for name in scores:
        if name == base:
            continue
        difference = paired(scores[name].objective, scores[base].objective)
        if difference is None:
            raise ConfigError(f"arms {name} and {base} have fewer than two seeds in common")
        differences[name] = difference
    adjusted = holm([difference.p for difference in differences.values()])
    return tuple(
        Contrast(
            arm=name,
            objective=difference,
            p_adjusted=p,
            accuracy=paired(scores[name].accuracy, scores[base].accuracy),
            ece=paired(scores[name].ece, scores[base].ece),
        )
        for (name, difference), p in zip(differences.items(), adjusted, strict=True)
    )


def _test(found: Confirmation) -> Scores | None:
    """The test scores of the winner, on the seeds that count; None if the test split was read for another result."""
    tested, winner = found.tested, found.winner
    if tested is None or winner is None or tested.trial != winner.trial:
        return None
    counted = winner.validation.objective.keys()
    scores = [{seed: value for seed, value in row.items() if seed in counted} for row in vars(tested.test).values()]
    return Scores(*scores) if len(scores[0]) == len(counted) else None


def _reference(arms: Sequence[ArmResult], name: str | None) -> ArmResult:
    if name is not None:
        chosen = [arm for arm in arms if arm.name == name]
        if not chosen:
            raise ConfigError(f"no arm is called {name!r}; the arms are: {', '.join(arm.name for arm in arms)}")
        return chosen[0]
    baselines = [arm for arm in arms if arm.baseline]
    return min(baselines, key=lambda arm: arm.winner.mean.mean) if baselines else arms[0]


def _verdict(base: ArmResult, contrasts: Sequence[Contrast], split: str, scale: Scale, score: str) -> str:
    """Say in words which arms are better than the reference."""
    measure = f"{split} {scale.name}"
    what = "the best baseline" if base.baseline else "the reference"
    better, worse = [one for one in contrasts if one.better], [one for one in contrasts if one.worse]
    rest = [one.arm for one in contrasts if not one.better and not one.worse]
    sentences = []
    if better:
        gains = "; ".join(_gain(one, measure, scale, score) for one in better)
        sentences.append(f"better than {what}, {base.name}: {gains}")
    else:
        sentences.append(f"no arm is better than {what}, {base.name}, in {measure}")
    if rest:
        sentences.append(f"not clearly different from it: {', '.join(rest)}")
    if worse:
        sentences.append(f"worse: {', '.join(one.arm for one in worse)}")
    return ". ".join(text[:1].upper() + text[1:] if index else text for index, text in enumerate(sentences))


def _gain(one: Contrast, measure: str, scale: Scale, score: str) -> str:
    gap, way = one.objective.interval, "higher" if scale.maximise else "lower"
    amount, *ends = fixed(-gap.mean, -gap.high, -gap.low)
    text = f"{one.arm} ({measure} {amount} {way}, 95% interval {' to '.join(ends)}"
    also = "" if score == scale.name else f"; {score} {_accuracy(one.accuracy)}"  # unless the metric is told already
    return f"{text}, p = {one.p_adjusted:.2g} after Holm's correction{also})"


def _accuracy(difference: Difference | None) -> str:
    if difference is None:
        return "not known"
    gap = difference.interval
    way = "higher" if gap.low > 0 else "lower" if gap.high < 0 else "not clearly different"
    return f"{way}, {gap.mean:+.4f}"


def _plain_arm(arm: ArmResult, score: str) -> dict[str, Any]:
    return {
        "name": arm.name,
        "study": arm.study,
        "baseline": arm.baseline,
        "winner": arm.winner.trial,
        "searched": arm.winner.searched,
        "validation": plain_scores(arm.winner.validation, score),
        "test": arm.test and plain_scores(arm.test, score),
        "search": vars(arm.search),
        "confirm": vars(arm.confirm),
    }
