"""What the benchmark about evidence has confirmed: the arms on each data set, and their table."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import closing

from rich.box import MARKDOWN
from rich.table import Table

from dropopt.study.confirm.arms import arm_of_study
from dropopt.study.confirm.comparison import ArmResult, arm_result
from dropopt.study.confirm.intervals import holm, mean_of, paired
from dropopt.study.store.opening import Opened
from dropopt.study.store.queries import find_study, searches
from dropopt.study.store.url import resolve

#: The arm that the others are compared with.
REFERENCE = "dropout2d"
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


def confirmed(storages: Sequence[str], arms: Collection[str] | None = None) -> dict[str, dict[str, ArmResult]]:
    """The arms in ``storages`` that were confirmed and tested, by data set and name: all, or those in ``arms``."""
    found: dict[str, dict[str, ArmResult]] = {}
    for given in storages:
        with closing(Opened(resolve(given), create=False)) as opened:
            for name in searches(opened.storage):
                data, _, arm = name.partition("-")
                if arms is not None and arm not in arms:
                    continue
                result = arm_result(opened.storage, arm_of_study(arm, find_study(opened.storage, name)))
                if result is not None and result.test is not None:
                    found.setdefault(data, {})[arm] = result
    known = [*DATA, *sorted(found.keys() - DATA.keys())]
    return {data: found[data] for data in known if data in found}


def table(data: str, arms: Mapping[str, ArmResult]) -> Table:
    """The scores of the arms on a data set, from the lowest test loss, and the paired differences to the reference."""
    tests = {name: one.test for name, one in arms.items() if one.test is not None}
    order = sorted(tests, key=lambda name: mean_of(list(tests[name].loss.values())).mean)
    reference = tests[REFERENCE].loss if REFERENCE in tests else {}
    gaps = {name: paired(tests[name].loss, reference) for name in order if name != REFERENCE}
    known = {name: gap for name, gap in gaps.items() if gap is not None}
    adjusted = dict(zip(known, holm([gap.p for gap in known.values()]), strict=True))
    columns = (DATA.get(data, data), "test loss", "test accuracy", "ECE", f"loss compared with {REFERENCE}")
    result = Table(*columns, "validation loss", box=MARKDOWN)
    for name in order:
        difference = ""
        if name in known:
            gap, p = known[name].interval, adjusted[name]
            chance = f"p = {p:.2g}" if p >= 0.0001 else "p < 0.0001"
            difference = f"{gap.mean:+.4f} ({gap.low:+.4f} to {gap.high:+.4f}), {chance}"
        scores = tests[name]
        means = [_mean(values) for values in (scores.loss, scores.accuracy, scores.ece)]
        result.add_row(ARMS.get(name, name), *means, difference, _mean(arms[name].winner.validation.loss))
    return result


def _mean(values: dict[int, float]) -> str:
    found = mean_of(list(values.values()))
    return f"{found.mean:.4f} +- {(found.high - found.low) / 2:.4f}"
