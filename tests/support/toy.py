"""A data set of four noisy classes, a small network and a recipe that trains in a fraction of a second."""

from dataclasses import asdict, replace

import torch

from dropopt.config import ModelConfig, TrainConfig
from dropopt.engine import attach
from dropopt.training import Dataset, Split, build_model, fit

CLASSES = 4


def toy(n=90, side=8, channels=2, seed=0):
    """Noisy images of four classes in three splits."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, channels, side, side, generator=draw)

    def split(count):
        labels = torch.arange(count) % CLASSES
        images = centres[labels] + torch.randn(count, channels, side, side, generator=draw)
        return Split(images.contiguous(memory_format=torch.channels_last), labels)

    return Dataset("toy", tuple("abcd"), split(n), split(40), split(40))


def network(seed=0, **options):
    config = ModelConfig(name="small", options={"widths": (8, 8), "head": 16, **options})
    return build_model(config, channels=2, classes=CLASSES, image_size=8, seed=seed)


def recipe(**settings):
    return TrainConfig(**{"epochs": 4, "batch_size": 16, "lr": 0.05, **settings})


def train(engine=None, data=None, on_epoch=None, checkpoint=None, seed=0, **settings):
    """Train a fresh network; return the result and its weights."""
    data = data or toy()
    model = network(seed)
    config = recipe(seed=seed, **settings)
    if engine is None:
        result = fit(model, None, data, config, on_epoch, checkpoint=checkpoint)
    else:
        with attach(model, engine, example=data.train.images[:2], complexity=0.5) as attached:
            result = fit(model, attached, data, config, on_epoch, checkpoint=checkpoint)
    return result, model.state_dict()


def timeless(history):
    """Reports as dictionaries, with the time of each epoch set to 0."""
    return [asdict(replace(report, seconds=0.0)) for report in history]


def assert_same(first, second):
    """Assert that two trainings agree bit for bit: results, drop rates, reports and weights."""
    (result, weights), (other, others) = first, second
    assert timeless(result.history) == timeless(other.history)
    assert replace(result, history=[]) == replace(other, history=[])
    assert {site: list(rates) for site, rates in result.rates.items()} == {s: list(r) for s, r in other.rates.items()}
    for site, rates in result.rates.items():
        assert all(torch.equal(rate, other.rates[site][name]) for name, rate in rates.items()), site
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        assert torch.equal(value, others[name]), name


def stop_after(epoch):
    """A function for ``on_epoch`` that interrupts the training after an epoch."""

    def stop(report):
        if report.epoch == epoch:
            raise Stop

    return stop


class Stop(Exception):
    """Raised in on_epoch."""
