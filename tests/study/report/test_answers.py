"""The answers of a report: what the study says about each question, and what its best trials do."""

from types import SimpleNamespace

import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import create_trial

from dropopt.study.effects.words import Answer
from dropopt.study.report.answers import answers
from dropopt.study.store.history import History, history_of
from dropopt.study.store.keys import HISTORY


def trial(number, rates, **params):
    """A trial with the ``rates`` of its places, after epochs 2, 4, 6 and so on."""
    epochs = tuple(2 * (row + 1) for row in range(len(next(iter(rates.values()), ()))))
    kinds = {name: CategoricalDistribution([value]) for name, value in params.items()}
    kept = {HISTORY: History(rate_epochs=epochs, rates=rates).plain()}
    made = create_trial(value=0.5, params=params, distributions=kinds, system_attrs=kept)
    made.number = number
    return made


def told(trials, said=("a", "b", "c", "d", "e")):
    questions = ("which", "how much", "where", "when", "whether")
    shot = SimpleNamespace(
        leader=trials[0],
        ranked=trials,
        history=history_of(trials[0]),
        effects=SimpleNamespace(
            answers=[Answer(question, text, True) for question, text in zip(questions, said, strict=True)]
        ),
    )
    return dict(answers(shot))


@pytest.mark.parametrize(
    ("rates", "much", "where", "when"),
    [
        (
            {"conv1": (0.1, 0.3), "conv2": (0.4, 0.4), "fc": (0.0, 0.0)},
            "Trial 7 drops 0.200 on average over layers and epochs.",
            "Most at layer conv2 (0.400 on average), least at layer fc (0.000).",
            "The mean rate rises from 0.167 after epoch 2 to 0.233 after epoch 4.",
        ),
        (
            {"conv1": (0.3, 0.2, 0.1), "conv2": (0.304, 0.2, 0.104)},
            "Trial 7 drops 0.201 on average over layers and epochs.",
            "All 2 layers have nearly the same rate, 0.200 to 0.203.",
            "The mean rate falls from 0.302 after epoch 2 to 0.102 after epoch 6.",
        ),
        (
            {"conv1": (0.2, 0.201)},
            "Trial 7 drops 0.201 on average over layers and epochs.",
            "",
            "The mean rate hardly changes: 0.200 after epoch 2, 0.201 after epoch 4.",
        ),
        (
            {"conv1": (0.2, 0.2), "conv2": (0.2, 0.2)},
            "Trial 7 drops 0.200 on average over layers and epochs.",
            "All 2 layers have nearly the same rate, 0.200.",
            "The mean rate hardly changes: 0.200 after epoch 2, 0.200 after epoch 4.",
        ),
        ({"conv1": (0.2,)}, "Trial 7 drops 0.200 on average over layers and epochs.", "", ""),
        ({"conv1": (0.0, 0.0), "conv2": (0.0, 0.0)}, "Trial 7, the best one, has no dropout.", "", ""),
        ({}, "", "", ""),
    ],
)
def test_the_rates_of_the_best_trial_are_told(rates, much, where, when):
    """Over layers and over epochs, behind the answer of the study; nothing is told of rates that it does not have."""
    found = told([trial(7, rates)])
    assert found == {
        "Which dropout": "a",
        "How much": f"b {much}".strip(),
        "Where": f"c {where}".strip(),
        "When": f"d {when}".strip(),
        "Whether at all": "e",
    }


def test_the_five_best_trials_are_compared():
    """By the mean rates of those that have rates; without any, by what was searched, if it is a number."""
    trials = [trial(number, {"conv": (0.1 * (number + 1),)}) for number in range(6)]
    found = told([trials[1], trials[0], trial(8, {}), *trials[2:]])["How much"]
    assert found.endswith("on average over layers and epochs; the mean rates of the 4 best trials are 0.100 to 0.400.")
    searched = [trial(number, {}, r0=rate) for number, rate in enumerate(["low", 0.2, 0.1, None, 0.4, 0.7])]
    assert told(searched)["How much"] == "b r0 is 0.2 in the best trial; 0.1 to 0.4 in the best ones."
    assert told([trial(0, {}, p=0.25)])["How much"] == "b p is 0.25 in the best trial; 0.25 to 0.25 in the best ones."


def test_an_answer_that_several_questions_have_is_told_once():
    """With their names in front; what the best trial does follows at each question."""
    found = told([trial(7, {"conv": (0.2,)})], said=("same", "same", "c", "same", "e"))
    assert list(found.items()) == [
        ("Which dropout, how much, when", "same"),
        ("How much", "Trial 7 drops 0.200 on average over layers and epochs."),
        ("Where", "c"),
        ("Whether at all", "e"),
    ]
