"""Numbers in the sentences about a study."""

import re
from dataclasses import replace
from math import inf

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from printed import printed

from dropopt.config import RunConfig
from dropopt.facts import Facts
from dropopt.study.command.notebook import StudyResult
from dropopt.study.show import words
from dropopt.study.show.snapshot import Snapshot
from dropopt.study.show.status import show_status
from dropopt.study.store import keys


@pytest.mark.parametrize("own", [True, False])
def test_the_recipe_names_no_batch_size_that_a_loader_overrides(own):
    """A loader with a sampler makes its own batches, of another size than ``train.batch_size``."""
    facts = Facts({"train": 9}, [1, 8, 8], 2, 0.5, 77, ["a"], 0, own_batches=own)
    recipe = {"epochs": 4, "optimizer": "sgd", "batch_size": 128}
    batches = "the loader's own batches" if own else "batches of 128"
    assert words.training(recipe, Facts.read(facts.plain())) == f"4 epochs, sgd, {batches}"
    assert words.training(recipe, None) == "4 epochs, sgd, batches of 128"


def test_a_network_to_which_no_dropout_is_added():
    """The places are counted and listed, unless there are none."""
    facts = Facts({"train": 9}, [1, 8, 8], 2, 0.5, 77, ["a", "b"], 0)
    assert words.network_words(facts) == "77 parameters; dropout at 2 places (a, b); no dropout of its own"
    assert words.network_words(replace(facts, places=[])) == "77 parameters; no dropout is added; no dropout of its own"
    inside = replace(facts, dropout_inside=2, dropout_at_places=1)
    assert words.network_words(inside).endswith("2 dropout layers, 1 of them at these places, where both drop")
    assert words.network_words(replace(inside, places=[])).endswith("added; it already contains 2 dropout layers")


@pytest.mark.parametrize("one", [True, False])
def test_what_is_counted_agrees_with_its_number(one):
    """One trial, epoch, image, channel, class, place or parameter is in the singular; any other number is not."""
    count = 1 if one else 2
    base = RunConfig.parse({"train": {"epochs": count}}).model_dump(mode="json")
    facts = Facts({"train": count}, [count, 8, 8], count, 1.0, count, ["conv"] * count, count)
    plan = {"n_trials": count, "sampler": "auto", "pruner": "median", "seed": 0}
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(study_name="s", storage=storage)
    for key, value in {keys.BASE: base, keys.FACTS: facts.plain(), keys.PLAN: plan}.items():
        study.set_user_attr(key, value)
    study.add_trials([create_trial(state=TrialState.PRUNED, intermediate_values={1: 1.0})] * count)
    study.add_trials([create_trial(state=TrialState.WAITING)] * count)
    shot = Snapshot.of(study)
    texts = [
        *dict(words.searched(shot)).values(),
        words.searched_space("compact", ["lr"] * count),
        words.saved(shot),
        repr(StudyResult("s", "memory", study.get_trials()[:count], None)),
        printed(lambda console: show_status(console, storage, "memory")),
    ]
    nouns = "trial|epoch|image|channel|class|parameter|place|dropout layer"
    found = re.findall(rf"\b{count} ({nouns})(e?s)?\b", " ".join(texts))
    assert {noun for noun, _ in found} == set(nouns.split("|"))
    assert {bool(plural) for _, plural in found} == {not one}


def test_anchors_that_were_tried_again_are_none_that_a_study_begins_with():
    """They are trained as a later trial is. An anchor that ran twice is one."""
    study = optuna.create_study()
    for name in ("no dropout", "element 0.1", "element 0.1", "no dropout, trained as trial 9"):
        study.add_trial(create_trial(value=0.5, user_attrs={keys.ANCHOR: name}))
    assert words.begins({}, study.trials) == "with 2 anchors"


@pytest.mark.parametrize(
    ("fall", "told"), [(0.04, ""), (0.06, "falls by about 6% at the last epoch"), (1.0, ""), (inf, "")]
)
def test_values_that_still_fall_are_told(fall, told):
    """By the median of the five best trials: one that falls more, or from 0 or infinity, says nothing."""
    study = optuna.create_study()
    study.set_user_attr(keys.BASE, RunConfig.parse({"train": {"epochs": 2}}).model_dump(mode="json"))
    for last, share in ((0.1, 0.5), (0.2, fall), (0.3, fall), (0.4, fall), (0.5, -0.5), (0.6, 0.5)):
        before = last / (1 - share) if share < 1 else share - 1
        study.add_trial(create_trial(value=last, intermediate_values={1: before, 2: last}))
    assert told in words.too_brief(Snapshot.of(study))
    assert bool(words.too_brief(Snapshot.of(study))) == bool(told)


@pytest.mark.parametrize(
    ("accuracies", "share", "guess", "told"),
    [
        *[((0.26, 0.2), 0.26, 0.0, True), ((0.2, 0.27), 0.26, 0.0, False), ((), 0.26, 0.0, False)],
        *[((-0.5,), 0.0, 0.0, False), ((0.2551,), 0.25, 0.255100001, True), ((0.2552,), 0.26, 0.2551, False)],
    ],
)
def test_networks_that_have_learned_nothing_are_told(accuracies, share, guess, told):
    """No leading trial is better than an answer that is always the largest class; other metrics have no such answer.

    What counts is the share of the class among the validation images, as far as the study knows it.
    """
    study = optuna.create_study()
    facts = Facts({"train": 80}, [1, 8, 8], 10, share, 5000, ["conv1"], 0, guess=guess)
    study.set_user_attr(keys.FACTS, facts.plain())
    for accuracy in accuracies:
        study.add_trial(create_trial(value=1 - accuracy, user_attrs={keys.ACCURACY: accuracy}))
    sentences = words.cautions(Snapshot.of(study))
    assert ["above 26%, that of always answering the largest class" in text for text in sentences] == [True] * told


def test_labels_that_no_network_tells_are_told():
    """An accuracy over several labels is compared with that of one value for each label."""
    study = optuna.create_study()
    study.set_user_attr(keys.FACTS, Facts({"train": 80}, [1, 8, 8], 0, 0.0, 5, ["conv1"], 0, guess=0.64).plain())
    study.add_trial(create_trial(value=0.6, user_attrs={keys.ACCURACY: 0.64}))
    (sentence,) = words.cautions(Snapshot.of(study))
    assert sentence.startswith("no accuracy of the best trials is above 64%, that of always giving the most frequent a")


def test_a_metric_of_which_more_is_better_still_rises():
    """The sentence names the metric that is shown, not what the storage holds."""
    study = optuna.create_study()
    task = {"metric": "own:dice", "direction": "maximize", "objective": "metric"}
    study.set_user_attr(keys.BASE, RunConfig.parse({"train": {"epochs": 2}, "task": task}).model_dump(mode="json"))
    for last in (0.1, 0.2, 0.3):
        study.add_trial(create_trial(value=last, intermediate_values={1: 2 * last, 2: last}))
    told = "the smoothed dice of the best trials still rises at the last epoch (1 - dice falls by about 50%); "
    assert words.too_brief(Snapshot.of(study)).startswith(told)
