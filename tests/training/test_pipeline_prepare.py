"""prepare: a user's own network is rehearsed, so that errors show before the first trial."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from dropopt.config import ConfigError, RunConfig
from dropopt.engine.places.inside import OwnDropout, OwnFunction
from dropopt.facts import Facts
from dropopt.training import fit, prepare, train_run
from dropopt.training.data.dataset import Dataset
from dropopt.training.data.reading import Indexed, OwnBatches
from dropopt.training.data.split import Split
from dropopt.training.data.stream import Stream
from dropopt.training.facts import facts_of

OWN = """
import sys
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

def grey():
    return np.random.default_rng(0).random((60, 16, 16)), np.arange(60) % 3

def colour():
    return np.random.default_rng(0).random((60, 3, 16, 16)), np.arange(60) % 3

class Tutorial(nn.Module):
    '''The network of PyTorch's tutorial: functions, a pooling layer used twice, and a view.'''
    def __init__(self, channels, classes=3):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 3)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 3)
        self.fc1 = nn.Linear(16 * 2 * 2, 32)
        self.fc2 = nn.Linear(32, classes)
    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = x.view(-1, 16 * 2 * 2)
        return self.fc2(F.relu(self.fc1(x)))

class Extra(Tutorial):
    '''A network with more than tensors in its state.'''
    def get_extra_state(self):
        return {"version": 1}
    def set_extra_state(self, state):
        assert state == {"version": 1}

class Heads(Tutorial):
    def forward(self, x):
        out = super().forward(x)
        return (out, out) if self.training else out

class Raises(Tutorial):
    def forward(self, x):
        return super().forward(x) if not self.training else self.missing

class Normed(Tutorial):
    def __init__(self, channels):
        super().__init__(channels)
        self.fc1 = nn.Sequential(self.fc1, nn.BatchNorm1d(32))

class Probable(Tutorial):
    def forward(self, x):
        return super().forward(x).softmax(1)

class LogProbable(Tutorial):
    def forward(self, x):
        return super().forward(x).log_softmax(1)

def frozen(channels):
    return Tutorial(channels).requires_grad_(False)

def needs(channels, depth):
    return Tutorial(channels)

def leaves():
    sys.exit(0)
"""


@pytest.fixture(autouse=True)
def _module(own_module):
    own_module("own_net_test", OWN)


def run_of(network, images="grey", engine=(), **train):
    return RunConfig.parse(
        {
            "data": {"name": f"own_net_test:{images}"},
            "model": {"name": f"own_net_test:{network}" if ":" not in network else network},
            "engine": dict(engine),
            "train": {"epochs": 2, "batch_size": 16, **train},
        }
    )


@pytest.mark.parametrize(
    ("network", "images", "engine"),
    [
        ("Tutorial", "grey", {}),
        ("Tutorial", "colour", {"allocation": "importance", "importance": "lrp"}),
        ("Extra", "colour", {"kind": "dropout2d"}),
    ],
)
def test_own_networks_train_under_the_defaults(network, images, engine):
    """A network that flattens with view gets contiguous images, although they are kept in channels_last memory."""
    run = run_of(network, images, engine)
    prepared = prepare(run)
    assert prepared.sites["auto"]
    assert prepared.sites["block"] == []
    result, _, _ = train_run(run)
    assert len(result.history) == 2


@pytest.mark.parametrize(
    ("network", "settings", "said"),
    [
        ("Heads", {}, "the model must return logits in training as well, returned tuple"),
        (
            "Raises",
            {},
            "training it failed: AttributeError: 'Raises' object has no attribute 'missing' (FILE, line 43)",
        ),
        ("Tutorial", {"channels_last": True}, "training it failed: RuntimeError: view size is not compatible"),
        ("Normed", {"batch_size": 1}, "training it failed: ValueError: Expected more than 1 value per channel"),
        ("frozen", {}, "the model has no parameter that requires a gradient"),
        ("needs", {}, "needs 'depth'; available are channels, classes, image_size; give other arguments as options"),
        ("leaves", {}, "building it failed: SystemExit: 0 (FILE, line 65); it must not end the program"),
        ("torchvision:googlenet", {}, None),
        ("Tutorial", {"device": "cuda:77"}, "device must be one of auto, cpu"),
    ],
)
def test_errors_of_training_show_beforehand(tmp_path, network, settings, said):
    """Auxiliary heads, errors in a training pass, an unsuitable layout, batch or device: one line each."""
    run = run_of(network, **settings)
    if said is None:
        run = run.model_copy(update={"model": run.model.model_copy(update={"options": {"aux_logits": True}})})
        said = "returned GoogLeNetOutputs"
    with pytest.raises(ConfigError) as caught:
        prepare(run)
    assert said.replace("FILE", str(tmp_path / "own_net_test.py")) in str(caught.value)


@pytest.mark.parametrize(("network", "said"), [("Tutorial", False), ("Probable", True), ("LogProbable", False)])
def test_a_network_that_returns_probabilities_is_noted(network, said):
    """Cross-entropy takes logits: with probabilities it learns hardly anything. Of their logarithms it is the same."""
    note = "the network returns probabilities, where cross-entropy takes logits: remove its softmax"
    assert (note in prepare(run_of(network)).notices) is said


def test_a_rehearsal_does_not_change_the_run():
    run = run_of("Tutorial", engine={"r0": 0.3})
    alone, _, _ = train_run(run)
    prepare(run)
    again, _, _ = train_run(run)
    assert [report.val_loss for report in alone.history] == [report.val_loss for report in again.history]


def test_a_rehearsal_takes_one_epoch_and_does_not_judge_the_recipe(monkeypatch):
    """A learning rate at which training diverges is no error of the network; one epoch of two images is enough."""
    seen = []

    def watched(model, engine, data, config, **others):
        seen.append((config.epochs, len(data.train), len(data.validation)))
        return fit(model, engine, data, config, **others)

    monkeypatch.setattr("dropopt.training.pipeline.fit", watched)
    assert prepare(run_of("Tutorial", lr=1e30, schedule="constant", epochs=50)).sites["auto"]
    assert seen == [(1, 2, 2)]


def test_the_facts_describe_data_and_network():
    """Images of each split, the largest class, trainable parameters, places, and dropout layers that can drop."""
    split = Split(torch.zeros(4, 3, 2, 5), torch.tensor([0, 0, 0, 1]))
    data = Dataset("blank", ("a", "b"), train=split, validation=split.head(3), test=split.head(2))
    frozen = nn.Linear(4, 4).requires_grad_(False)
    facts = facts_of(data, nn.Sequential(nn.Linear(3, 2), frozen, nn.Dropout(0.5), nn.Dropout2d(0.0)), ["0"])
    expected = Facts({"train": 4, "validation": 3, "test": 2}, [3, 2, 5], 2, 0.75, 8, ["0"], 1, guess=1.0)
    assert facts == expected
    stream = Stream(Indexed("blank", None, torch.arange(40)), lambda batch: batch, split, classes=2)
    found = facts_of(replace(data, train=stream), nn.Linear(3, 2), ["0"])
    assert (found.images["train"], found.largest_share) == (40, 0.75)  # the share is that of the sample
    assert not found.own_batches
    stream = replace(stream, reader=OwnBatches("blank", DataLoader([0] * 6, batch_sampler=[[0, 1], [2]])))
    assert facts_of(replace(data, train=stream), nn.Linear(3, 2), ["0"]).own_batches
    two = Split((torch.zeros(4, 3), torch.zeros(4, 2, 2)), torch.zeros(4))
    data = Dataset("pairs", (), train=two, validation=two.head(3), test=two.head(2))
    named = {"1": [3], "2": [2, 2]}
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))
    own = OwnDropout("1", model[1], "p", 0.5), OwnFunction("dropout", "Net", 0.5)
    found = facts_of(data, model, ["0"], own)
    assert found == Facts(expected.images, [3], 0, 0.0, 8, ["0"], 2, 2, named, guess=1.0)


@pytest.mark.parametrize(
    ("train", "validation", "guess"),
    [
        ([0, 1, 1], [0, 0, 1, 0], 0.25),  # the largest class of the training split, among the validation images
        ([0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0], 0.25),  # as targets of binary cross-entropy
        ([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]], 0.75),  # a value for each label
        ([[[0, 2], [2, -100]]], [[[2, 0], [-100, 1]]], 1 / 3),  # masks, some pixels of which count nowhere
        ([[[-100, -100]]], [[[1, 0]]], 0.0),
        ([0.5, 2.0], [1.0, 0.5], 0.0),  # a regression
        ([10**15, 1, 1], [1, 1], 0.0),  # of whole numbers, with a loss of the user's own
    ],
)
def test_the_facts_say_how_accurate_a_constant_answer_is(train, validation, guess):
    """On the validation split, which has other shares of the classes than the training split."""
    splits = [Split(torch.zeros(len(part), 1, 2, 2), torch.tensor(part)) for part in (train, validation)]
    data = Dataset("blank", (), train=splits[0], validation=splits[1], test=splits[1])
    assert facts_of(data, nn.Linear(2, 2), ["0"]).guess == pytest.approx(guess)
