"""Which configurations are confirmed: the model is better than the best values, and anchors are added."""

import math

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from scipy.optimize import minimize
from scipy.special import ndtri
from scipy.stats import multivariate_normal, rankdata

from dropopt.config import ConfigError, RunConfig
from dropopt.study.confirm.candidates import BY_MODEL, BY_VALUE, choose_candidates
from dropopt.study.confirm.encoding import encoded
from dropopt.study.confirm.posterior import expected_scores
from dropopt.study.store.keys import ACCURACY, ANCHOR, BEST_LOSS, CLASSES, CONFIG, PORTFOLIO

SPACE = {
    "lr": FloatDistribution(0.01, 1.0, log=True),
    "r0": FloatDistribution(0.0, 0.7),
    "pattern": CategoricalDistribution(["element", "channel"]),
    **{f"w_{method}": FloatDistribution(0, 1) for method in ("adaptive", "pfid", "spatial")},
}
CONFIGURATION = RunConfig().model_dump(mode="json")


def trial(value, state=TrialState.COMPLETE, anchor="", **params):
    attributes = {CONFIG: CONFIGURATION} | ({ANCHOR: anchor} if anchor else {})
    return create_trial(
        params=params,
        distributions={name: SPACE[name] for name in params},
        value=value,
        state=state,
        user_attrs=attributes,
        intermediate_values={1: 1.0 if value is None else value},
    )


def study(*trials):
    made = optuna.create_study()
    made.set_user_attr(CLASSES, 10)
    for one in trials:
        made.add_trial(one)
    return made


def truth(params):
    curve = 0.6 * (params["r0"] - 0.3) ** 2 + 0.05 * (math.log10(params["lr"]) + 1) ** 2
    return 0.3 + curve + 0.05 * (params["pattern"] == "channel")


def noisy_trials(seed, count=40, noise=0.05):
    """Trials of a search that narrows down, with the noise of seeds."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(count):
        width = 1.0 if index < count // 2 else 0.3
        params = {
            "lr": float(0.1 * 10 ** (width * rng.uniform(-1, 1))),
            "r0": float(0.35 + 0.35 * width * rng.uniform(-1, 1)),
            "pattern": str(rng.choice(["element", "channel"])),
        }
        found.append(trial(truth(params) + noise * rng.normal(), **params))
    return found


def test_the_posterior_mean_finds_better_configurations_than_the_best_values():
    """On an objective with known truth, averaged over six searches with noise."""
    by_value, by_model = [], []
    for seed in range(6):
        trials = noisy_trials(seed)
        values = np.array([one.value for one in trials])
        exact = np.array([truth(one.params) for one in trials])
        by_value.append(exact[np.argsort(values)[:5]].mean())
        by_model.append(exact[np.argsort(-expected_scores(trials, -values))[:5]].mean())
    assert np.mean(by_model) < np.mean(by_value)


def test_expected_scores_are_those_of_a_gaussian_process():
    """Written out: the likeliest settings within the bounds, the mean of the ranks' scores, and half of the rest.

    The order of the trials does not matter.
    """
    trials = noisy_trials(0, 20, noise=0.02)
    values, columns = np.array([one.value for one in trials]), encoded(trials)
    score = ndtri((rankdata(-values) - 0.5) / 20)
    assert score.mean() == pytest.approx(0)
    own = score / score.std()

    def covariances(logs):
        signal, *lengths, noise = np.exp(logs)
        apart = np.sqrt(5 * ((columns[:, None] - columns[None]) ** 2 / np.square(lengths)).sum(axis=-1))
        smooth = signal * (1 + apart + apart**2 / 3) * np.exp(-apart)
        return smooth, smooth + noise * np.eye(20)

    found = minimize(
        lambda logs: -multivariate_normal(cov=covariances(logs)[1]).logpdf(own),
        np.log([1.0, *[1.0] * columns.shape[1], 0.3]),
        bounds=np.log([(0.1, 10.0), *[(0.3, 30.0)] * columns.shape[1], (0.02, 2.0)]),
    )
    smooth, whole = covariances(found.x)
    mean = smooth @ np.linalg.solve(whole, score)
    np.testing.assert_allclose(expected_scores(trials, -values), mean + 0.5 * (score - mean), atol=1e-3)
    order = np.random.default_rng(0).permutation(20)
    permuted = expected_scores([trials[number] for number in order], -values[order])
    np.testing.assert_allclose(permuted, expected_scores(trials, -values)[order], atol=1e-3)


def test_equal_outcomes_have_equal_scores():
    """Also if one of them was behind a pruned trial for a while: two wins and one, of which they share the sum."""
    ends = {0.2: 0.3, 0.8: 0.3, 0.4: 0.5}
    trials = [create_trial(value=end, intermediate_values={1: early, 2: end}) for early, end in ends.items()]
    trials.append(create_trial(state=TrialState.PRUNED, intermediate_values={1: 0.6}))
    found = expected_scores(trials, np.array([-0.3, -0.3, -0.5, -math.inf]))
    np.testing.assert_allclose(found, ndtri([3 / 4, 3 / 4, 1 / 4, 1 / 4]))


def test_a_trial_that_learns_slowly_and_ends_well_is_chosen():
    """Also if the parameters explain nothing: the end of a complete trial counts, not its early reports."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(24):
        complete = number < 7
        end = [0.42, 0.48, 0.52, 0.55, 0.6, 0.7, 0.8][number] if complete else 0.9
        early = 1.6 if number == 0 else 1.0 + 0.3 * rng.uniform()
        found.append(
            create_trial(
                params={"r0": float(rng.uniform(0, 0.7)), "lr": float(rng.uniform(0.01, 1))},
                distributions={name: SPACE[name] for name in ("r0", "lr")},
                value=end,
                state=TrialState.COMPLETE if complete else TrialState.PRUNED,
                intermediate_values={1: early, 2: early - 0.1} | ({3: end} if complete else {}),
            )
        )
    outcome = np.array([-one.value if one.state == TrialState.COMPLETE else -math.inf for one in found])
    assert 0 in np.argsort(-expected_scores(found, outcome))[:2]


def test_pruned_trials_have_their_place_by_their_last_report():
    """Trials with the same parameters score what their ranks say: of two pruned ones, the one ahead is better."""
    ends = {0.3: TrialState.COMPLETE, 0.5: TrialState.COMPLETE, 0.6: TrialState.PRUNED, 0.9: TrialState.PRUNED}
    trials = [
        create_trial(value=end if state == TrialState.COMPLETE else None, state=state, intermediate_values={1: end})
        for end, state in ends.items()
    ]
    found = expected_scores(trials, np.array([-0.3, -0.5, -math.inf, -math.inf]))
    np.testing.assert_allclose(found, ndtri([7 / 8, 5 / 8, 3 / 8, 1 / 8]))


def test_parameters_are_encoded():
    """Logarithms, shares of a blend, one column for each choice, and the middle for what is inactive."""
    blend = {"w_adaptive": 0.2, "w_pfid": 0.2}
    block = {"block": IntDistribution(1, 5)}
    first = create_trial(params={"lr": 0.1, **blend}, distributions={k: SPACE[k] for k in ("lr", *blend)}, value=1.0)
    second = create_trial(
        params={"lr": 1.0, "w_adaptive": 0.9, "w_pfid": 0.1, "block": 5, "pattern": "element"},
        distributions={k: SPACE[k] for k in ("lr", *blend, "pattern")} | block,
        value=1.0,
    )
    without = create_trial(params={"lr": 0.1}, distributions={"lr": SPACE["lr"]}, value=1.0)
    table = encoded([first, second, without])
    # The shares of the two methods, block, lr, and pattern: element.
    middle = [0.5, 0.5, 0.5, 0.5, 0.0]
    np.testing.assert_allclose(table, [middle, [0.9, 0.1, 1.0, 1.0, math.sqrt(0.5)], middle])
    assert encoded([first, first]).shape == (2, 0)


def test_few_trials_are_chosen_by_value():
    """The best values come first, then the anchors; a diverged trial is not confirmed."""
    made = study(
        trial(0.5, anchor="no dropout", lr=0.1, r0=0.0),
        trial(0.4, lr=0.1, r0=0.1),
        trial(0.3, lr=0.1, r0=0.2),
        trial(0.3, lr=0.1, r0=0.2),
        trial(1e5, anchor="element 0.1", lr=0.9, r0=0.1),
        trial(None, TrialState.PRUNED, lr=0.2, r0=0.3),
    )
    found = choose_candidates(made, 2)
    assert found.chosen_by == BY_VALUE
    assert [(one.trial, one.name, one.searched) for one in found.all] == [
        (2, "trial 2", 0.3),
        (1, "trial 1", 0.4),
        (0, "no dropout", 0.5),
    ]
    assert [one.trial for one in choose_candidates(made, 1, anchors=False).all] == [2]


def test_a_trial_of_a_portfolio_is_named():
    """By its place in the file and its dropout, beside its number. It is no anchor."""
    one = trial(0.5, lr=0.1, r0=0.2, pattern="channel")
    one.user_attrs[PORTFOLIO] = "portfolio 3"
    found = choose_candidates(study(one, trial(0.6, anchor="element 0.1", lr=0.1, r0=0.1)), 2).all
    assert [one.name for one in found] == ["trial 0 (portfolio 3: channel, r0 0.2)", "element 0.1"]
    assert not found[0].anchor


def test_the_best_of_several_anchors_without_dropout():
    """One is trained as the best trial is. The race never drops the better one."""
    control = "no dropout, trained as trial 1"
    made = study(
        trial(0.5, anchor="no dropout", lr=0.1), trial(0.4, lr=0.2, r0=0.1), trial(0.45, anchor=control, lr=0.2)
    )
    found = choose_candidates(made, 1)
    assert [one.name for one in found.all] == ["trial 1", control, "no dropout"]
    assert found.nothing is found.all[1]
    assert choose_candidates(made, 1, anchors=False).nothing is None


def test_trials_may_be_judged_by_accuracy():
    """A search by the loss, confirmed by the accuracy: both the order and the value of the search are 1 - accuracy."""
    scores = [(0.3, 0.80), (0.4, 0.90), (0.5, 0.85)]
    trials = [trial(loss, lr=0.1, r0=0.1 * number) for number, (loss, _) in enumerate(scores)]
    for one, (loss, accuracy) in zip(trials, scores, strict=True):
        one.user_attrs |= {BEST_LOSS: loss, ACCURACY: accuracy}
    found = choose_candidates(study(*trials), 2, by="accuracy")
    assert [(one.trial, one.searched) for one in found.all] == [(1, pytest.approx(0.1)), (2, pytest.approx(0.15))]
    assert [one.trial for one in choose_candidates(study(*trials), 2).all] == [0, 1]


def test_many_trials_are_chosen_by_the_model():
    """The best expected scores are chosen, not the best values. Pruned trials are evidence, but are not chosen."""
    made = study(*noisy_trials(0, 12, noise=0.1), trial(None, TrialState.PRUNED, lr=0.011, r0=0.69, pattern="channel"))
    found = choose_candidates(made, 3)
    assert found.chosen_by == BY_MODEL
    values = np.array([one.value or math.inf for one in made.trials])
    scores = expected_scores(made.trials, -values)
    expected = [number for number in np.argsort(-scores, kind="stable").tolist() if number != 12][:3]
    assert [one.trial for one in found.all] == expected
    assert expected != np.argsort(values)[:3].tolist()


def test_a_study_without_results_cannot_be_confirmed():
    """The message says what to do."""
    with pytest.raises(ConfigError, match=r"has no completed trial that could be confirmed \(none yet\); run"):
        choose_candidates(study(), 5)


@pytest.mark.parametrize("last", [0, 1])
def test_a_parameter_of_two_kinds_is_encoded(last):
    """A word in place of a number, or the reverse, counts as absent: another program may have added the trial."""
    number = create_trial(params={"x": 0.5}, distributions={"x": FloatDistribution(0, 2)}, value=0.0)
    other = create_trial(params={"x": 2.0}, distributions={"x": FloatDistribution(0, 2)}, value=0.0)
    word = create_trial(params={"x": "a"}, distributions={"x": CategoricalDistribution(["a", "b"])}, value=0.0)
    table = encoded([other, word, number] if last == 0 else [other, number, word])
    assert table.ravel().tolist() == pytest.approx([1, 0.5, 0.25] if last == 0 else [0, 0, math.sqrt(0.5)])
