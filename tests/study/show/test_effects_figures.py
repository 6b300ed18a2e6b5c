"""The effects of a study as figures and as text for the terminal."""

import re
from dataclasses import replace

import optuna
import pytest
from printed import printed

from dropopt.study import effects_figure, efficacy_report, importance_figure, study_effects
from dropopt.study.show.effects_figures import ON_PAGE
from dropopt.study.show.effects_report import costs
from dropopt.study.show.style import HEIGHT, LINE_HEIGHT, logarithmic_axis


@pytest.fixture(scope="module")
def study():
    """A study without a blend: a rate, a learning rate and a choice."""

    def loss(trial):
        rate, lr = trial.suggest_float("r0", 0.0, 0.7), trial.suggest_float("lr", 0.01, 1.0, log=True)
        return 1 + 4 * (rate - 0.3) ** 2 + 0.2 * lr + 0.3 * (trial.suggest_categorical("kind", ["a", "b"]) == "a")

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(loss, n_trials=20)
    return study


@pytest.fixture(scope="module")
def effects(study):
    return study_effects(study)


def _ends(values, error):
    """The ends of the bars of an error."""
    return [
        (value - below, value + above)
        for value, below, above in zip(values, error.arrayminus, error.array, strict=True)
    ]


def test_importances_have_intervals(effects):
    """A bar for each parameter, the most important first, with its interval, and the part alone inside it."""
    total, alone = importance_figure(effects).data
    assert list(total.y) == [effect.name for effect in effects.factors]
    assert list(total.x) == sorted(total.x, reverse=True)
    shown = [effect.importance.total for effect in effects.factors]
    assert _ends(total.x, total.error_x) == [pytest.approx((one.low, one.high)) for one in shown]
    assert all(inner <= outer for inner, outer in zip(alone.x, total.x, strict=True))


def test_costs_are_drawn_for_each_parameter(effects):
    """A band and a line for a number, markers for a choice; the axis of a logarithmic range is logarithmic."""
    picture = effects_figure(effects)
    assert [note.text for note in picture.layout.annotations] == [effect.name for effect in effects.factors]
    kinds = [effect.factor.kind for effect in effects.factors]
    assert len(picture.data) == sum(2 if kind == "number" else 1 for kind in kinds)
    traces = iter(picture.data)
    for effect in effects.factors:
        costs = [level.best for level in effect.profile.levels]
        ends, middle = [(cost.low, cost.high) for cost in costs], [cost.value for cost in costs]
        if effect.factor.kind == "number":
            band, line = next(traces), next(traces)
            half = len(band.y) // 2
            assert list(line.y) == middle
            assert list(band.x[:half]) == list(reversed(band.x[half:])) == list(line.x)
            assert list(zip(reversed(band.y[half:]), band.y[:half], strict=True)) == ends
        else:
            markers = next(traces)
            assert list(markers.y) == middle
            assert _ends(markers.y, markers.error_y) == [pytest.approx(one) for one in ends]
            assert [colour == "grey" for colour in markers.marker.color] == [low <= 0 for low, _ in ends]
    axes = {
        effect.name: picture.layout["xaxis" + (str(i + 1) if i else "")] for i, effect in enumerate(effects.factors)
    }
    assert (axes["lr"].type, axes["r0"].type) == ("log", None)
    assert axes["kind"].tickangle is None


def test_long_names_of_choices_are_turned_to_stay_in_their_card():
    """Beside each other they would overlap, and turned to the right the last one would leave the card."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    kinds = ["dropout", "dropout2d", "dropblock", "stochastic_depth"]
    study.optimize(lambda trial: 1 + kinds.index(trial.suggest_categorical("kind", kinds)), n_trials=20)
    picture = effects_figure(study_effects(study))
    assert picture.layout.xaxis.tickangle < 0


def test_without_effects_the_figures_say_so():
    """Too few trials give empty figures with the reason."""
    effects = study_effects(optuna.create_study())
    for picture in (importance_figure(effects), effects_figure(effects)):
        assert "Too few trials: 0 (0 complete)" in picture.layout.title.text


def test_the_report_answers_without_a_blend(study):
    """The report has the five answers and the table; there is nothing about a blend."""
    text = printed(lambda console: console.print(efficacy_report(study)))
    for title in ("Which dropout: ", "How much: ", "Where, when: Not searched", "Whether at all: Dropout helps: "):
        assert title in text
    assert "Which parameter matters" in text
    assert re.search(r"^How much +A rate of 0\.\d+ is best +$", text, re.MULTILINE), "the answer in short"
    assert "blend" not in text


def test_the_costs_fit_into_a_card_of_the_page(effects):
    """A card has a fixed height; the titles of the panels lie below the subtitle, and the rows are apart."""
    picture = effects_figure(effects, ON_PAGE)
    lines = picture.layout.title.text.count("<br>")
    margin = picture.layout.margin
    assert picture.layout.height == HEIGHT
    assert margin.t >= 50 + LINE_HEIGHT * lines + 28
    upper, lower = picture.layout.yaxis.domain, picture.layout.yaxis3.domain
    assert (upper[0] - lower[1]) * (HEIGHT - margin.t - margin.b) >= 60 - 1e-6
    assert len(effects_figure(effects, 1).layout.annotations) == 1


def test_ticks_of_a_logarithmic_axis_are_numbers_in_full():
    """Plotly would write 0.02 as 2; a range of a few powers of ten has one tick for each."""
    assert logarithmic_axis([0.01, 0.1, 0.4])["tickvals"] == [0.01, 0.02, 0.05, 0.1, 0.2]
    assert logarithmic_axis([1e-5, 1e-2])["tickvals"] == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2])
    assert logarithmic_axis([1e-5, 1e-2])["ticktext"] == ["1e-05", "0.0001", "0.001", "0.01"]


def test_costs_are_explained_where_an_answer_has_one(effects):
    """A report without a finding does not explain the unit of findings."""
    unknown = replace(effects, answers=tuple(replace(answer, found=False) for answer in effects.answers))
    known = replace(unknown, answers=(*unknown.answers[1:], replace(unknown.answers[0], found=True)))
    assert costs(known).startswith("A cost is how much higher")
    assert costs(unknown) == ""
