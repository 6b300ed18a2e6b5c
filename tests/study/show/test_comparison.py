"""A comparison as tables and as a figure: the numbers of its arms and contrasts."""

from dataclasses import replace

import pytest
from confirmed_arms import arm
from printed import printed

from dropopt.config import TaskConfig
from dropopt.study.confirm.comparison import Compute, compare_arms
from dropopt.study.confirm.intervals import mean_of
from dropopt.study.show.comparison import SCOPE, figure, show_comparison

ARMS = [
    arm("base", [0.40, 0.41, 0.43], baseline=True),
    arm("near", [0.39, 0.42, 0.44]),
    arm("far", [0.30, 0.315, 0.32]),
]


@pytest.mark.parametrize(
    ("task", "way"),
    [({}, "higher"), ({"metric": "mine:dice"}, "higher"), ({"metric": "mine:worst", "direction": "minimize"}, "lower")],
)
def test_the_figure_has_the_means_with_their_intervals_and_each_seed(task, way):
    """Of the loss and of the metric, whose heading says which way is better; baselines are grey."""
    found = compare_arms(ARMS, task=TaskConfig(**task))
    picture = figure(found)
    headings = [note.text for note in picture.layout.annotations]
    assert [heading.partition("(")[2] for heading in headings] == ["lower is better)", f"{way} is better)"]
    for axis in (picture.layout.yaxis, picture.layout.yaxis2):
        below, above = axis.range
        assert above < 0 < len(ARMS) - 1 < below, "the first arm is at the top"
    traces = iter(picture.data)
    for measure in ("loss", "accuracy"):
        for row, one in enumerate(found.arms):
            values = list(getattr(one.winner.validation, measure).values())
            mean = mean_of(values)
            points, bar = next(traces), next(traces)
            assert list(points.x) == values
            assert all(0 < y - row < 0.5 for y in points.y), "beside the mean, which they would hide"
            assert (bar.x[0], bar.y[0]) == (mean.mean, row)
            assert bar.x[0] + bar.error_x.array[0] == pytest.approx(mean.high)
            assert (bar.marker.color == "grey") == one.baseline


def test_the_table_of_costs_has_the_search_and_then_the_confirmation():
    """Of each arm: the number of trials and their time."""
    search, confirm = Compute(7, 70, 61.0), Compute(1, 10, 3725.0)
    found = compare_arms([replace(one, search=search, confirm=confirm) for one in ARMS], task=TaskConfig())
    text = printed(lambda console: show_comparison(console, found))
    lines = [" ".join(line.replace("│", "|").split()) for line in text.splitlines()]
    assert sum("7 trials, 1:01 | 1 trial, 1:02:05" in line for line in lines) == len(ARMS), lines


@pytest.mark.parametrize(("task", "by", "sign"), [({}, "loss", 1), ({"metric": "mine:dice"}, "accuracy", -1)])
def test_the_table_has_the_differences_and_the_corrected_p(task, by, sign):
    """A difference of a metric is that of the metric; both ends of its interval have its sign."""
    found = compare_arms(ARMS, optimise=by, task=TaskConfig(**task))
    text = " ".join(printed(lambda console: show_comparison(console, found)).split())
    assert SCOPE in text
    for one in found.contrasts:
        gap = one.objective.interval
        low, high = sorted((sign * gap.low, sign * gap.high))
        assert (
            f"{one.arm} | {sign * gap.mean:+.4f} ({low:+.4f} to {high:+.4f}) | {one.p_adjusted:.2g} |"
            in text.replace("│", "|")
        )
        assert one.p_adjusted != one.objective.p or one.arm == "near"
