"""Effects: intervals that contain the truth, invariances, pruned trials, and answers in words."""

import json
import re
from functools import partial

import numpy as np
import optuna
import pytest
from effects_problems import problem, study_of, true_costs, true_indices
from optuna.trial import TrialState, create_trial

import dropopt.study
from dropopt.config import ConfigError
from dropopt.study.effects import model
from dropopt.study.effects.effects import effects_of, needed_trials, study_effects
from dropopt.study.effects.factors import factors_of
from dropopt.study.effects.importance import indices
from dropopt.study.effects.model import fit
from dropopt.study.effects.questions import QUESTIONS


def test_intervals_contain_the_truth():
    """Of the true indices and costs of random objectives, 80% or more are in their intervals (benchmark: about 94%).

    Half of the studies are sampled by TPE, with a third of the trials pruned.
    """
    hits = []
    for kind in ("additive", "conditional"):
        for seed, (sampler, pruned) in enumerate([("tpe", 0.35), ("random", 0.0)]):
            task = problem(kind, seed)
            effects = study_effects(study_of(task, sampler, 60, seed, pruned=pruned))
            names = [factor.name for factor in task.factors]
            first, total = true_indices(task, 2**14)
            for effect in effects.factors:
                index = names.index(effect.name)
                pairs = [(total[index], effect.importance.total), (first[index], effect.importance.first)]
                if effect.factor.kind == "choice":
                    costs = true_costs(task, index, 2**10)
                    levels = effect.profile.levels
                    reference = next(i for i, level in enumerate(levels) if level.best.low == level.best.high == 0)
                    pairs += list(zip(costs - costs[reference], (level.best for level in levels), strict=True))
                hits += [estimate.low - 0.02 <= truth <= estimate.high + 0.02 for truth, estimate in pairs]
    assert np.mean(hits) >= 0.8


def test_a_choice_that_explains_everything():
    """Its importance is near 1 although TPE hardly varies it any more; the inert numbers have intervals at 0."""
    study = study_of(problem("one choice", 0), "tpe", 60, 0)
    assert optuna.importance.get_param_importances(study)["c"] < 0.1  # by Optuna's PED-ANOVA
    assert optuna.importance.get_param_importances(study, evaluator=dropopt.study.EffectsEvaluator())["c"] > 0.8
    found = fit(study.trials, maximise=False)
    totals = dict(zip((factor.name for factor in found.design.factors), indices(found)[1], strict=True))
    assert all(np.quantile(totals[f"x{i}"], 0.05) < 0.01 for i in range(5))


def _changed(trials, change):
    """The trials with other values and reports."""
    changed = []
    for trial in trials:
        facts = {"state": trial.state, "params": trial.params, "distributions": trial.distributions}
        facts["value"] = None if trial.state != TrialState.COMPLETE else change(trial.value)
        reports = {step: change(value) for step, value in trial.intermediate_values.items()}
        changed.append(create_trial(**facts, intermediate_values=reports))
        changed[-1].number = trial.number
    return changed


def test_negated_and_permuted_trials_give_the_same():
    """Maximising the negative is minimising, and the order of the trials does not matter, also of equal ones."""
    trials = study_of(problem("conditional", 0), "random", 24, 0, pruned=0.35).trials
    same = _changed(trials, lambda value: round(value, 1))
    first = effects_of(same, maximise=False)
    order = np.random.default_rng(0).permutation(len(same))
    assert effects_of([same[i] for i in order], maximise=False).factors == first.factors
    other = effects_of(_changed(same, lambda value: -value), maximise=True)
    assert other.factors == first.factors
    assert other.answers == first.answers
    assert any(trial.state == TrialState.PRUNED for trial in trials)
    assert first.trials == 24 > first.complete


def _loss(trial):
    """A loss with known answers: 0.3 is the best rate, element is worse, and the rate should fall."""
    rate, alpha = trial.suggest_float("r0", 0.0, 0.7), trial.suggest_float("alpha", -1, 1)
    pattern = trial.suggest_categorical("pattern", ["element", "channel", "spatial"])
    lr = trial.suggest_float("lr", 1e-3, 1.0, log=True)
    height = 5 * (rate - 0.3) ** 2 + 0.4 * (pattern == "element") + 0.3 * (alpha - 0.6) ** 2
    noise = np.random.default_rng(trial.number).normal(scale=0.04)
    return float(np.exp(height + 0.2 * (np.log10(lr) + 1.5) ** 2 + noise))


def _study(loss, n_trials):
    """A study at random."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(loss, n_trials=n_trials)
    return study


def test_answers_in_words():
    """Each question is answered with the numbers that the objective has."""
    effects = study_effects(_study(_loss, 70))
    which, much, where, when, whether = effects.answers
    assert effects.ratio
    assert 0.02 < effects.noise.value < 0.08
    assert "element costs" in which.text
    (rate,) = (effect.profile for effect in effects.factors if effect.name == "r0")
    assert rate.optimum.low <= 0.3 <= rate.optimum.high
    assert much.text.startswith("A rate (r0) of 0.")
    assert "is best; 0 costs" in much.text
    assert "fall with depth, or stay constant" in where.text
    assert "fall during training" in when.text
    assert re.match(r"Dropout helps: without it, the objective value is [\d.]+% \(90%: ", whether.text)
    assert rate.without.low <= np.expm1(0.45) <= rate.without.high
    assert json.loads(json.dumps(effects.as_dict()))["answers"]["whether"]["found"]


def test_thin_evidence_is_said():
    """With too few trials no claim is made, and the number that is missing is given."""
    study = _study(_loss, 4)
    for count in (4, 9):
        effects = study_effects(study)
        assert effects.thin
        assert effects.answers[0].text == (
            f"Too few trials to say: {count}, and no claim is made with fewer than 13 ({13 - count} more)."
        )
        assert [answer.question for answer in effects.answers if not answer.found] == list(QUESTIONS)
        assert bool(effects.factors) == (count > 4)
        study.optimize(_loss, n_trials=5)
    assert not study_effects(study).thin
    assert needed_trials(factors_of(study.trials)) == 13


def test_nothing_is_claimed_of_noise():
    """Outcomes that are noise give no claims, but numbers of trials or that it hardly matters."""
    rng = np.random.default_rng(0)
    effects = study_effects(_study(lambda trial: _loss(trial) * 0 + float(np.exp(0.1 * rng.normal())), 40))
    assert not any(answer.found for answer in effects.answers)
    assert "more trials" in effects.answers[0].text
    assert effects.answers[4].text.startswith("Not known: ")


@pytest.mark.parametrize(
    ("response", "said"),
    [
        # A high rate costs much with most values of the other setting, and nothing with the best one.
        (
            lambda rate, other: 5 * rate * (other - 0.1),
            "r0: on average over the other settings, 0.7 costs COST compared with 0.1;",
        ),
        # Each rate is as good as any other if the other setting matches it, and both ends are worse on average.
        (
            lambda rate, other: 4 * (rate - other) ** 2,
            "r0: on average over the other settings, 0.1 costs COST and 0.7 costs COST compared with 0.4;",
        ),
        # No rate is better on average or with the best value of the other setting.
        (lambda rate, other: 3 * (rate - 0.4) * (other - 0.4), "Not known: the best value of r0 "),
    ],
)
def test_a_parameter_can_matter_and_its_best_value_be_unknown(response, said):
    """A value is called best only if it is so with the best values of the other settings."""
    rng = np.random.default_rng(0)

    def loss(trial):
        rate, other = trial.suggest_float("r0", 0.1, 0.7), trial.suggest_float("other", 0.1, 0.7)
        return float(np.exp(response(rate, other) + 0.02 * rng.normal()))

    effects = study_effects(_study(loss, 60))
    assert effects.factors[0].importance.noisy.low > 0.3
    text = re.sub(r"(a factor of )?[\d.]+%? \(90%: [\d.]+%? to [\d.]+%?\)", "COST", effects.answers[1].text)
    assert text.startswith(said)


def test_baselines_and_other_studies():
    """A study of baselines has a kind that turns dropout off; another study only has importances."""

    def loss(trial):
        kind = trial.suggest_categorical("kind", ["none", "dropout"])
        return 1.0 if kind == "none" else 2.0 + trial.suggest_float("p", 0.1, 0.7)

    effects = study_effects(_study(loss, 20))
    assert effects.answers[4].text.startswith("Dropout does not help here: without it, the objective value is")
    assert [answer.text for answer in effects.answers[2:4]] == ["Not searched in this study."] * 2
    with pytest.raises(ConfigError, match="one objective"):
        study_effects(optuna.create_study(directions=["minimize", "minimize"]))
    assert study_effects(optuna.create_study()).factors == ()


def test_constant_and_infinite_outcomes():
    """Equal outcomes have no effects, and values that are not finite or huge do not spoil the others."""
    uniform = optuna.distributions.FloatDistribution(0, 1)
    rng = np.random.default_rng(0)

    def trial(number, value):
        made = create_trial(value=value, params={"r0": rng.uniform()}, distributions={"r0": uniform})
        made.number = number
        return made

    equal = effects_of([trial(i, 1.0) for i in range(12)], maximise=False)
    assert not any(answer.found for answer in equal.answers)
    odd = [float("inf"), 1e300, -1.0] + [float(i) for i in range(12)]
    assert np.isfinite(effects_of([trial(i, value) for i, value in enumerate(odd)], maximise=False).noise.value)


def test_the_evaluator_shares_out_a_blend():
    """In proportion to what each share explains alone; unknown parameters are refused.

    Given the share of another method, the mean of the third share is half of the rest: a quarter of its variance.
    """

    def loss(trial):
        weights = [trial.suggest_float(name, 0.001, 1) for name in ("w_adaptive", "w_structured", "w_pfid")]
        return weights[2] / sum(weights) + 0 * trial.suggest_float("lr", 0, 1)

    study, evaluator = _study(loss, 30), dropopt.study.EffectsEvaluator()
    importances = partial(optuna.importance.get_param_importances, study, evaluator=evaluator)
    found = importances()
    assert next(iter(found)) == "w_pfid"
    assert found["lr"] < 0.05
    shares = [found[name] / (1 - found["lr"]) for name in ("w_adaptive", "w_structured", "w_pfid")]
    assert shares == pytest.approx([1 / 6, 1 / 6, 2 / 3], abs=0.05)
    assert importances(params=["lr"], target=lambda trial: trial.params["lr"])["lr"] > 0.95
    with pytest.raises(ConfigError, match="no trial suggested other; known: w_adaptive"):
        evaluator.evaluate(study, params=["other"])
    with pytest.raises(ConfigError, match="at least 5 complete trials"):
        evaluator.evaluate(optuna.create_study())


def test_long_studies_are_thinned_at_random(monkeypatch):
    """A long study is thinned for speed, without regard to the outcome."""
    seen, kept = [], model.coefficients

    def coefficients(design, points, *rest):
        seen.append(len(set(points.values[0])))
        return kept(design, points, *rest)

    monkeypatch.setattr(model, "CHAIN_ROWS", 20)
    monkeypatch.setattr(model, "ROWS", 30)
    monkeypatch.setattr(model, "coefficients", coefficients)
    study = study_of(problem("additive", 0), "random", 50, 0)
    one = study.trials[0]
    pruned = {"state": TrialState.PRUNED, "intermediate_values": one.intermediate_values}
    study.add_trial(create_trial(**pruned, params=one.params, distributions=one.distributions))
    found = fit(study.trials, maximise=False)
    assert set(seen) == {30}
    assert (found.trials, found.complete) == (51, 50)
