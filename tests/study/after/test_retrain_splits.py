"""Training with a configuration reports the right split, and the recipe that was requested."""

import math

import other_tasks
import pytest
import torch
from torch.nn import functional as F

from dropopt.config import RunConfig, TrainConfig
from dropopt.export import Exported
from dropopt.standalone.card import Score
from dropopt.standalone.file import read_model
from dropopt.study.after.retrain import configured, retrain, save_model, save_weights
from dropopt.study.run.errors import StudyError

OWN = """
import torch
from torch import nn
from torch.nn import functional as F
from dropopt.training import Dataset, Split

def split(n, wrong):
    shown = torch.arange(n) % 4
    labels = torch.where(torch.arange(n) < wrong, (shown + 1) % 4, shown)
    return Split(F.one_hot(shown, 4).float()[:, :, None, None].expand(n, 4, 2, 2).contiguous(), labels)

def data():
    return Dataset("known", tuple("abcd"), train=split(64, 0), validation=split(40, 4), test=split(60, 15))

def network():
    return nn.Sequential(nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4))
"""


def trained(run, provenance=None, **options):
    """The result of a training that prints its notices and reports no epoch, unless ``options`` say otherwise."""
    given = {"threads": 1, "on_notice": print, "on_epoch": lambda report: None}
    return retrain(run, provenance or {}, **given | options)


def changed(run, **train):
    return configured(Exported(run, {}), train)


@pytest.fixture
def run(own_module):
    """A run on data whose best possible accuracy is 1 in training, 0.9 in validation and 0.75 in the test split."""
    own_module("known_splits", OWN)
    return RunConfig.parse(
        {
            "data": {"name": "known_splits:data"},
            "model": {"name": "known_splits:network"},
            "engine": {"kind": "none"},
            "train": {"epochs": 12, "batch_size": 16, "lr": 0.05, "device": "cpu"},
        }
    )


def test_validation_and_test_are_estimated_on_their_own_splits(run):
    """Accuracy, loss and size of each estimate are those of its split, recomputed from the weights."""
    reports = []
    done = trained(run, on_epoch=reports.append)
    import known_splits  # found now that the current folder is on the import path

    model = known_splits.network()
    model.load_state_dict(done.weights)
    for estimate, split, accuracy in (
        (done.validation, known_splits.data().validation, 0.9),
        (done.test, known_splits.data().test, 0.75),
    ):
        assert (estimate.n, estimate.accuracy) == (len(split), accuracy)
        with torch.no_grad():
            loss = F.cross_entropy(model(split.images), split.labels).item()
        assert math.isclose(estimate.loss, loss, rel_tol=1e-5)
    assert len(reports) == len(done.result.history) == 12


def test_options_override_the_recipe_and_nothing_else(run):
    """Requested training settings replace those of the file; data, network, engine and other settings stay."""
    new = changed(run, epochs=3, lr=0.2)
    assert new.train == TrainConfig(**run.train.model_dump() | {"epochs": 3, "lr": 0.2})
    assert new.model_copy(update={"train": run.train}) == run


def test_notices_and_failures(run, tmp_path):
    """Other data than those of the study are reported, a loss that diverges is an error of the study, and so on."""
    short, notices = changed(run, epochs=1), []
    for provenance in ({"data_fingerprint": {"train": "x"}}, {}):
        done = trained(short, provenance, threads=2, on_notice=notices.append)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    whole = done.data.fingerprint
    for known in (whole, {"test": whole["test"]}):  # the second is that of a confirmation, whose seeds share no more
        trained(short, {"data_fingerprint": known}, on_notice=notices.append)
    assert [notice for notice in notices if notice not in done.data.notices] == [
        "the data differ from those of the study, so the study may have trained on images of this test split"
    ]
    assert (done.run, done.weights.keys()) == (short, done.network.state_dict().keys())
    with pytest.raises(StudyError, match="loss"):
        trained(changed(run, lr=1e30))
    save_weights(done.weights, tmp_path / "best.pt")
    assert torch.load(tmp_path / "best.pt", weights_only=True).keys() == done.weights.keys()
    with pytest.raises(StudyError, match=r"^the weights cannot be written to \S+best\.pt/a\.pt: (Not a dir|File ex)"):
        save_weights(done.weights, tmp_path / "best.pt" / "a.pt")


def test_an_accuracy_is_a_share_of_images_where_each_has_one_class():
    """Not of pixels, and no other metric; a standard error is reported only for such a share."""
    network = {"model": {"name": "other_tasks:mask_network"}, "engine": {"kind": "none"}}
    train = {"epochs": 1, "batch_size": 16, "lr": 0.01, "device": "cpu"}
    for other, shares in (
        ({}, True),
        ({"task": {"metric": "loss"}}, False),
        (network | {"data": {"name": "other_tasks:masks"}}, False),
    ):
        run = RunConfig.parse({"data": {"subset": 60}, "train": train, **other})
        done = trained(run)
        assert (done.validation.shares, done.test.shares) == (shares, shares)


def test_a_check_of_the_data_comes_before_the_training(run):
    """It gets the data of the training, and its error ends the command before an epoch is trained."""
    seen, epochs = [], []
    short = changed(run, epochs=1)
    done = trained(short, check=seen.append, on_epoch=epochs.append)
    assert [data.fingerprint for data in seen] == [done.data.fingerprint]
    assert len(epochs) == 1

    def refuse(data):
        raise StudyError("no")

    with pytest.raises(StudyError, match=r"^no$"):
        trained(short, check=refuse, on_epoch=epochs.append)
    assert len(epochs) == 1


def test_a_task_of_ones_own_judges_the_training():
    """Its loss and metric are those of both splits, and its objective chooses the epoch."""
    task = {"loss": "other_tasks:halved", "metric": "other_tasks:worst", "direction": "minimize", "objective": "metric"}
    names = {"data": {"name": "other_tasks:regression"}, "model": {"name": "other_tasks:image_network"}}
    train = {"epochs": 3, "batch_size": 16, "lr": 0.02, "device": "cpu"}
    run = RunConfig.parse({**names, "task": task, "train": train, "engine": {"kind": "none"}})
    done = trained(run)
    for found, split in ((done.validation, done.data.validation), (done.test, done.data.test)):
        with torch.no_grad():
            outputs = done.network.eval()(split.images)
        assert found.accuracy == pytest.approx(other_tasks.worst(outputs, split.labels).item(), rel=1e-5)
        assert found.loss == pytest.approx(other_tasks.halved(outputs, split.labels).item(), rel=1e-5)
        assert not found.shares
    costs = [report.objective for report in done.result.history]
    assert done.result.best_epoch == costs.index(min(costs)) + 1


def test_a_model_file_holds_the_whole_training(tmp_path):
    """The configuration, the scores of both splits, the provenance, the weights and the drop rates."""
    train = {"epochs": 2, "batch_size": 16, "lr": 0.1, "device": "cpu"}
    run = RunConfig.parse({"data": {"subset": 60}, "train": train, "engine": {"r0": 0.3}})
    done = trained(run)
    save_model(done, {"study": "mine", "trial": 7}, tmp_path / "m.safetensors")
    found = read_model(tmp_path / "m.safetensors")
    assert (found.card.run, found.card.provenance) == (run, {"study": "mine", "trial": 7})
    scores = {"validation": done.validation, "test": done.test}
    assert found.card.metrics == {name: Score.of(one.accuracy, one.loss, one.n) for name, one in scores.items()}
    assert found.card.best_epoch == done.result.best_epoch
    assert found.card.data["sha256"] == done.data.fingerprint
    assert found.weights.keys() == done.weights.keys()
    assert all(torch.equal(value, done.weights[name]) for name, value in found.weights.items())
    assert found.rates.keys() == done.result.rates.keys() != set()
    for site, rates in done.result.rates.items():
        assert found.rates[site].keys() == rates.keys()
        assert all(torch.allclose(found.rates[site][name], value.float()) for name, value in rates.items())
