"""Evidence and the readable model: what counts, how pruned trials compare, and whether intervals hold the truth."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console

from dropopt.config import METHODS, STAGES
from dropopt.study.blend.effects import learn, needed_trials
from dropopt.study.blend.evidence import Evidence
from dropopt.study.blend.gather import gather
from dropopt.study.blend.learned import export_evidence, learned, top_configurations
from dropopt.study.blend.mixture import scheffe
from dropopt.study.blend.names import NoBlendError
from dropopt.study.blend.ranks import normal_scores
from dropopt.study.blend.surrogate import Surrogate
from dropopt.study.show.efficacy import efficacy_report

NAMES = (("w_adaptive", "w_structured", "w_pfid"),)
UNIT = FloatDistribution(0, 1)


def trial(
    value: float | None = None,
    *,
    blend: Sequence[float] = (0.2, 0.3, 0.5),
    reports: Sequence[float] = (),
    state: TrialState | None = None,
    number: int = 0,
    **attrs: Any,
) -> FrozenTrial:
    params = dict(zip(NAMES[0], map(float, blend), strict=True))
    made = create_trial(
        params=params,
        distributions=dict.fromkeys(params, UNIT),
        value=value,
        state=state or (TrialState.PRUNED if value is None else TrialState.COMPLETE),
        intermediate_values=dict(enumerate(reports)),
        system_attrs=attrs,
    )
    made.number = number
    return made


def scores(trials: Sequence[FrozenTrial], maximise: bool = False) -> dict[int, float]:
    """Normal score by trial number."""
    for index, one in enumerate(trials):
        one.number = index
    table = gather(trials, NAMES, maximise=maximise)
    return dict(zip(table.number.tolist(), table.score.tolist(), strict=True))


def test_direction_ties_and_ranks() -> None:
    """Scores depend on ranks alone, follow the direction, and are 0 for identical values."""
    low = scores([trial(1.0), trial(2.0), trial(1e9)])
    assert low[0] > low[1] > low[2] == -low[0]
    assert low[1] == pytest.approx(0.0)
    high = scores([trial(1.0), trial(2.0), trial(1e9)], maximise=True)
    assert high[2] > high[1] > high[0]
    assert set(scores([trial(3.0)] * 1 + [trial(3.0) for _ in range(4)]).values()) == {0.0}


def test_not_finite_never_wins() -> None:
    """Infinities of either sign are worst, in either direction."""
    for maximise in (False, True):
        found = scores([trial(-math.inf), trial(math.inf), trial(5.0), trial(6.0)], maximise)
        assert max(found[0], found[1]) < min(found[2], found[3])


def test_infeasible_is_below_feasible() -> None:
    """A trial that broke a constraint is placed below every one that did not."""
    found = scores([trial(0.1, **{"constraints:size": 1.0}), trial(9.0, **{"constraints:size": -1.0}), trial(8.0)])
    assert found[0] < found[1] < found[2]


def test_pruned_compares_at_equal_steps() -> None:
    """A pruned trial whose last value looks good beside final values is judged where it stopped."""
    early_good = [0.1, 0.9, 1.0]  # a loss that rises: early values beat all final ones
    trials = [trial(v, reports=[e, v]) for v, e in zip((1.0, 1.1, 1.2), early_good, strict=True)]
    found = scores([*trials, trial(reports=[0.95]), trial(reports=[5.0])])
    assert found[4] == min(found.values())
    assert found[3] < found[0]
    ordered = sorted(found, key=lambda number: -found[number])
    assert ordered.index(3) >= 2


def test_pruned_never_tops_the_median() -> None:
    """Even the best early value is no better than the median of what finished."""
    trials = [trial(float(v), reports=[float(v)]) for v in range(1, 6)]
    found = scores([*trials, trial(reports=[0.0])])
    assert found[5] <= found[2]


def test_pruned_without_comparable_report_is_last() -> None:
    """A NaN report, no report, or a step that nobody else reported: nothing good can be said."""
    trials = [trial(1.0, reports=[1.0]), trial(2.0, reports=[2.0])]
    for odd in (trial(reports=[math.nan]), trial(), trial(reports=[0.0] * 9)):
        found = scores([*trials, odd])
        assert found[2] < min(found[0], found[1])


def test_failed_say_nothing_and_roots_count_once() -> None:
    """Failures leave the table as it was; of a chain of retries the first completion counts."""
    base = [trial(1.0, number=0), trial(2.0, number=1)]
    failed = trial(state=TrialState.FAIL, number=2)
    retries = [
        trial(reports=[9.0], number=3, failed_trial=2, retry_history=[2]),
        trial(0.5, number=4, failed_trial=2, retry_history=[2, 3]),
        trial(0.4, number=5, failed_trial=2, retry_history=[2, 3, 4]),
    ]
    assert len(gather([*base, failed], NAMES, maximise=False)) == 2
    table = gather([*base, failed, *retries], NAMES, maximise=False)
    assert sorted(table.number.tolist()) == [0, 1, 4]


def test_shares_and_absent_names() -> None:
    """Values are divided by their sum, an absent name has no share, and an all-zero blend is left out."""
    part = create_trial(params={"w_pfid": 0.2}, distributions={"w_pfid": UNIT}, value=1.0)
    part.number = 1
    table = gather([trial(1.0, blend=(1, 1, 0)), part, trial(1.0, blend=(0, 0, 0), number=2)], NAMES, maximise=False)
    assert {tuple(row) for row in table.blend[:, 0].tolist()} == {(0.5, 0.5, 0.0), (0.0, 0.0, 1.0)}


def random_study(
    count: int, effect: float = 1.0, seed: int = 0, *, shuffle: bool = False, pruned: float = 0.0
) -> optuna.Study:
    """Structured helps, pfid harms, lr matters."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rng = np.random.default_rng(seed)
    blends = rng.dirichlet(np.ones(3), size=count)
    lr = 10 ** rng.uniform(-4, 0, size=count)
    values = effect * (blends[:, 2] - blends[:, 1]) + 0.2 * np.log10(lr) ** 2 / 4 + rng.normal(size=count) * 0.2
    if shuffle:
        values = rng.permutation(values)
    study = optuna.create_study()
    kinds = CategoricalDistribution(["a", "b"])
    for index in range(count):
        params = dict(zip(NAMES[0], blends[index].tolist(), strict=True)) | {"lr": float(lr[index]), "kind": "a"}
        distributions = dict.fromkeys(NAMES[0], UNIT) | {"lr": FloatDistribution(1e-4, 1, log=True), "kind": kinds}
        cut = rng.uniform() < pruned
        study.add_trial(
            create_trial(
                params=params,
                distributions=distributions,
                value=None if cut else float(values[index]),
                state=TrialState.PRUNED if cut else TrialState.COMPLETE,
                intermediate_values={0: float(values[index]) + 1.0},
            )
        )
    return study


def test_order_does_not_matter() -> None:
    """The same trials in another order, under other numbers, give the same posterior to the last bit."""
    first = random_study(150, pruned=0.3)
    second = optuna.create_study()
    rows = first.get_trials()
    for index in np.random.default_rng(3).permutation(len(rows)):
        second.add_trial(rows[index])
    assert learned(first).efficacy == learned(second).efficacy
    tables = [gather(s.get_trials(), NAMES, maximise=False, limit=100) for s in (first, second)]
    assert (tables[0].blend == tables[1].blend).all()
    assert (Surrogate(tables[0]).weights == Surrogate(tables[1]).weights).all()


def test_finds_what_is_there() -> None:
    """A method that helps and one that harms are told apart, with intervals that say so."""
    found = learned(random_study(60))
    effects = {effect.name: effect for effect in found.efficacy.methods[0]}
    assert effects["w_structured"].sign == 1
    assert effects["w_pfid"].sign == -1
    assert effects["w_structured"].best > 0.95
    assert found.preferred["w_structured"] > 0.8
    assert "w_structured is best" in found.efficacy.verdict
    assert found.efficacy.matters > 0.99
    assert found.efficacy.caution == ""


def test_shuffled_outcomes_find_nothing() -> None:
    """With outcomes shuffled no claim is made, and no method is thought best by much."""
    for seed in range(5):
        found = learn(gather(random_study(60, seed=seed, shuffle=True).trials, NAMES, maximise=False))
        assert found.verdict.startswith("No effect found")
        assert found.caution == " (but no effect was found)"
        assert max(effect.best for effect in found.methods[0]) < 0.65


def test_thin_evidence_is_said() -> None:
    """With fewer trials than the polynomial has terms and five, or none at all, it says so."""
    need = needed_trials(NAMES)
    assert need == 11
    assert learned(random_study(need - 1)).efficacy.verdict == (
        "Too few trials: 10, and no claim is made with fewer than 11."
    )
    assert not learn(gather(random_study(need).trials, NAMES, maximise=False)).thin
    empty = learn(gather([], NAMES, maximise=False))
    assert empty.thin
    assert empty.methods[0][0].best == pytest.approx(1 / 3)


def test_intervals_cover_the_truth() -> None:
    """Where the model is right, 90% intervals hold 83 to 97% of true effects (110 effects; benchmark: 85 to 95%).

    The truth is the effect on the scale of scores: coefficients over the outcome's deviation.
    """
    hits = []
    for seed in range(11):
        rng = np.random.default_rng(seed)
        blends = rng.dirichlet(np.ones(4), size=80)
        linear, pairs = scheffe(blends)
        alone, together = rng.normal(size=4) * 0.4, rng.normal(size=6) * 0.25
        clean = linear @ alone + pairs @ together
        outcome = clean + rng.normal(size=80) * 0.6
        names = (tuple(f"w_{i}" for i in range(4)),)
        score = normal_scores(outcome)
        none = np.zeros((80, 0))
        table = Evidence(names, blends[:, None], score, score, none, (), np.ones(80), np.arange(80, dtype=np.int64), 80)
        found = learn(table)
        grid = np.random.default_rng(1).dirichlet(np.ones(4), size=4000)
        a, b = scheffe(grid)
        scale = math.sqrt(np.var(a @ alone + b @ together) + 0.36)

        def at(blend: np.ndarray, alone: np.ndarray = alone, together: np.ndarray = together) -> float:
            line, pair = scheffe(blend)
            return float(line @ alone + pair @ together)

        even, corner = np.full(4, 0.25), np.eye(4)
        truth = [(at((even + corner[i]) / 2) - at(even)) / scale for i in range(4)]
        truth += [
            (at((corner[i] + corner[j]) / 2) - (at(corner[i]) + at(corner[j])) / 2) / scale
            for i in range(4)
            for j in range(i + 1, 4)
        ]
        effects = [*found.methods[0], *found.pairs[0]]
        hits += [effect.low <= value <= effect.high for effect, value in zip(effects, truth, strict=True)]
    assert 0.83 <= np.mean(hits) <= 0.97


def test_report_and_data() -> None:
    """The report shows the verdict, every method and the trajectory; the data are strict JSON."""
    study = random_study(40)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(efficacy_report(study))
    text = console.export_text()
    assert all(name in text for name in NAMES[0])
    assert "Preferred blend" in text
    data = json.loads(json.dumps(learned(study).as_dict(), allow_nan=False))
    assert [point["trials"] for point in data["trajectory"]] == [5, 10, 15, 20, 25, 30, 35, 40]
    with pytest.raises(NoBlendError, match="no blend in this study"):
        efficacy_report(optuna.create_study())


def test_a_report_by_stage_fits_a_terminal() -> None:
    """Five methods in three stages: a table of preferred blends for each stage, no heading cut at 80 columns."""
    study, rng = optuna.create_study(), np.random.default_rng(0)
    names = [f"w_{method}_{stage}" for stage in STAGES for method in METHODS]
    shares = dict.fromkeys(names, UNIT)
    for value in range(12):
        params = dict(zip(names, rng.uniform(size=len(names)).tolist(), strict=True))
        study.add_trial(create_trial(params=params, distributions=shares, value=float(value)))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(efficacy_report(study))
    text = console.export_text()
    assert all(f"Preferred blend, {stage} (too few trials to rely on)" in text for stage in STAGES)
    assert text.count("w_contextual ") >= 3
    assert "\u2026" not in text.partition("Preferred blend")[2]


def test_export_and_top() -> None:
    """Exported evidence is JSON and makes a prior; top configurations are the best, each once."""
    study = random_study(30)
    best = study.best_trial
    study.add_trial(best)
    prior = json.loads(json.dumps(export_evidence(study)))
    table = gather([], NAMES, maximise=False, prior=prior)
    assert table.trials == 0
    assert table.weight.sum() == pytest.approx(10.0)
    more = gather(random_study(90).trials, NAMES, maximise=False, prior=prior)
    assert more.weight[more.number < 0].sum() == pytest.approx(1.0)
    top = top_configurations(study, 3)
    assert top[0] == best.params
    assert len({json.dumps(params) for params in top}) == 3
