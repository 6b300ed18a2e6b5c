"""What the benchmark about evidence has confirmed: the arms on each data set, and their table."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from evidence_tasks import ACCURACY, DRAW, LOSS
from rich.box import MARKDOWN
from rich.table import Table

from dropopt.study.confirm.arms import arm_of_study
from dropopt.study.confirm.comparison import arm_result
from dropopt.study.confirm.intervals import holm, mean_of, paired
from dropopt.study.confirm.results import Scores
from dropopt.study.store.opening import Opened
from dropopt.study.store.queries import find_study, searches
from dropopt.study.store.url import resolve

#: The arm that the others are compared with, and the one in a table of arms without it.
REFERENCE, OTHERWISE = "dropout2d", "dropout"
#: The arms in the order of the figure, and what they are called.
ARMS = {
    "shipped": "the search of dropopt run",
    "own": "engine, own patterns, learned weights",
    "own_uniform": "engine, own patterns, equal weights",
    "averaged": "engine, averaged rates, learned weights",
    "default_own": "engine at its defaults, own patterns",
    "default_four": "engine at its defaults, own patterns of its four methods",
    "default": "engine at its defaults",
    "adaptive": "adaptive dropout alone",
    "structured": "structured dropout alone",
    "contextual": "contextual dropout alone",
    "pfid": "PFID dropout alone",
    "spatial": "spatially aware dropout alone",
    "dropblock": "DropBlock",
    "stochastic_depth": "stochastic depth",
    "dropout2d": "Dropout2d",
    "dropout": "Dropout",
    "none": "no dropout",
}
#: The data sets in the order of the figure, and what they are called; other names are shown as they are.
DATA = {
    "digits": "digits",
    "digits.vgg": "digits, vgg",
    "digits.resnet9": "digits, resnet9",
    "mnist": "MNIST, 1,000 images",
    "letters": "letters of fonts, 1,000 images",
    "emoji": "emoji, 1,000 images",
    "fashion": "Fashion-MNIST, 2,000 images",
    "cifar10": "CIFAR-10, 2,000 images",
    "photos": "clothing photographs, 2,000 images",
    "clothing": "clothing photographs, 2,000 images",
}


@dataclass(frozen=True)
class Outcome:
    """The scores of an arm's winner, by seed, or by draw once several are put together."""

    #: Whether the arm is plain dropout or none.
    baseline: bool
    test: Scores
    validation: Scores


def confirmed(storages: Sequence[str], arms: Collection[str] | None = None) -> dict[str, dict[str, Outcome]]:
    """The arms in ``storages`` that were confirmed and tested, by data set and name: all, or those in ``arms``."""
    found: dict[str, dict[str, Outcome]] = {}
    for given in storages:
        with closing(Opened(resolve(given), create=False)) as opened:
            for name in searches(opened.storage):
                data, _, arm = name.partition("-")
                if arms is not None and arm not in arms:
                    continue
                result = arm_result(opened.storage, arm_of_study(arm, find_study(opened.storage, name)))
                if result is not None and result.test is not None:
                    outcome = Outcome(result.baseline, result.test, result.winner.validation)
                    found.setdefault(data, {})[arm] = outcome
    known = [*DATA, *sorted(found.keys() - DATA.keys())]
    return {data: found[data] for data in known if data in found}


def over_draws(found: Mapping[str, Mapping[str, Outcome]]) -> dict[str, dict[str, Outcome]]:
    """Put the draws of each data set together: the scores of an arm are then its means over seeds, by draw."""
    drawn: dict[str, dict[str, dict[int, Outcome]]] = {}
    for task, arms in found.items():
        data, _, draw = task.partition(DRAW)
        for arm, outcome in arms.items():
            drawn.setdefault(data, {}).setdefault(arm, {})[int(draw or 0)] = outcome
    return {data: {arm: _by_draw(draws) for arm, draws in arms.items()} for data, arms in drawn.items()}


def table(data: str, arms: Mapping[str, Outcome]) -> Table:
    """The scores of the arms on a data set, the best one first, and the paired differences to a reference.

    Both are by what the searches optimised, the test loss or the test accuracy.
    """
    task, _, draw = data.partition(DRAW)
    name = task.removesuffix(f".{ACCURACY}")
    by = LOSS if name == task else ACCURACY
    scores = {arm: getattr(outcome.test, by) for arm, outcome in arms.items()}
    order = sorted(arms, key=lambda arm: mean_of(list(scores[arm].values())).mean, reverse=by == ACCURACY)
    reference = REFERENCE if REFERENCE in arms else OTHERWISE
    gaps = {arm: paired(scores[arm], scores.get(reference, {})) for arm in order if arm != reference}
    known = {arm: gap for arm, gap in gaps.items() if gap is not None}
    adjusted = dict(zip(known, holm([gap.p for gap in known.values()]), strict=True))
    title = f"{DATA.get(name, name)}, draw {draw}" if draw else DATA.get(name, name)
    columns = (title, "test loss", "test accuracy", "ECE", f"{by} compared with {reference}")
    result = Table(*columns, f"validation {by}", box=MARKDOWN)
    for arm in order:
        difference = ""
        if arm in known:
            gap, p = known[arm].interval, adjusted[arm]
            chance = f"p = {p:.2g}" if p >= 0.0001 else "p < 0.0001"
            difference = f"{gap.mean:+.4f} ({gap.low:+.4f} to {gap.high:+.4f}), {chance}"
        test, validation = arms[arm].test, arms[arm].validation
        means = [_mean(values) for values in (test.loss, test.accuracy, test.ece)]
        result.add_row(ARMS.get(arm, arm), *means, difference, _mean(getattr(validation, by)))
    return result


def _by_draw(draws: Mapping[int, Outcome]) -> Outcome:
    def means(kind: Literal["test", "validation"]) -> Scores:
        scores: dict[int, Scores] = {draw: getattr(one, kind) for draw, one in draws.items()}
        measures = ("objective", "loss", "accuracy", "ece")
        return Scores(*({draw: fmean(getattr(one, it).values()) for draw, one in scores.items()} for it in measures))

    return Outcome(any(one.baseline for one in draws.values()), means("test"), means("validation"))


def _mean(values: Mapping[int, float]) -> str:
    found = mean_of(list(values.values()))
    return f"{found.mean:.4f} +- {(found.high - found.low) / 2:.4f}"
