"""Data sets that are read anew in each epoch."""

from __future__ import annotations

import numpy as np
import other_tasks
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from dropopt.config import ConfigError, DataConfig, RunConfig, TrainConfig
from dropopt.training import Split, load_data, prepare, train_run
from dropopt.training.data import read_torch, stream
from dropopt.training.data.stream import Stream
from dropopt.training.feed import feed_of

TRAIN = {"epochs": 2, "batch_size": 16, "lr": 0.05, "device": "cpu"}


def load(name, **settings):
    return load_data(DataConfig(name=f"other_tasks:{name}", **settings))


def seen(data, epoch, **settings):
    """The training images of an epoch."""
    feed = feed_of(data.train, TrainConfig(**TRAIN | settings), torch.device("cpu"))
    return torch.cat([images for images, _ in feed.epoch(epoch)])


def test_steady_data_stay_in_memory_and_streaming_them_changes_nothing():
    results = []
    for in_memory in (None, False):
        settings = {"name": "other_tasks:steady", "in_memory": in_memory}
        run = RunConfig.parse(
            {"data": settings, "model": {"name": "other_tasks:image_network"}, "train": TRAIN | {"augment": ["flip"]}}
        )
        prepare(run)
        result, _, data = train_run(run)
        assert isinstance(data.train, Split if in_memory is None else Stream)
        results.append([(report.train_loss, report.val_loss, report.rates) for report in result.history])
    assert results[0] == results[1]


def test_data_larger_than_memory_are_not_loaded(monkeypatch):
    monkeypatch.setattr(read_torch, "_memory", lambda: 8.0 * 1000)
    monkeypatch.setattr(stream, "SAMPLES", 8)
    data = load("steady")
    assert "they would take" in data.notices[0]
    assert len(data.train.sample) == 8
    assert len(seen(data, 1)) == len(data.train) == other_tasks.N
    streamed = load("steady", in_memory=False)
    assert isinstance(streamed.validation, Stream)
    assert sum(len(batch) for batch in streamed.validation.batches(7)) == 20


def test_a_class_that_the_sample_lacks_counts(monkeypatch):
    """Without names, the labels of all samples tell the number of classes, not those of the sample alone."""
    images, labels = torch.arange(12.0)[:, None, None, None].expand(12, 1, 4, 4), torch.arange(12) % 2
    monkeypatch.setattr(other_tasks, "pair", lambda: (TensorDataset(images, labels),) * 2, raising=False)
    monkeypatch.setattr(other_tasks.pair, "__module__", "other_tasks")
    monkeypatch.setattr(stream, "SAMPLES", 8)
    data = load("pair", in_memory=False)
    assert data.classes == ("0", "1")
    sampled = stream.sample_of(data.train.reader).images[:, 0, 0, 0].tolist()
    labels[next(index for index in range(12) if index not in sampled)] = 2
    assert load("pair", in_memory=False).classes == ("0", "1", "2")


def test_workers_of_a_loader_are_used_and_repeat(monkeypatch):
    """Workers draw the same in the same epoch, in spite of ``persistent_workers``; batches have the study's size."""
    data = load("augmented_by_workers")
    assert data.train.reader.workers["num_workers"] == 2
    first, second, other = seen(data, 1), seen(data, 2), seen(data, 1, seed=1)
    assert torch.equal(seen(data, 2), second)
    assert not torch.equal(first.sort(0).values, second.sort(0).values)
    assert not torch.equal(first.sort(0).values, other.sort(0).values)


def test_generators_of_their_own_are_reported(monkeypatch):
    """A training with transforms that cannot be seeded runs, and the notes say that it cannot be repeated."""

    class Own(other_tasks.Augmented):
        def __getitem__(self, index):
            return self.images[index] + np.float32(np.random.default_rng().random()), index % 2

    monkeypatch.setattr(other_tasks, "unseeded", lambda: DataLoader(Own(), batch_size=8, shuffle=True), raising=False)
    monkeypatch.setattr(other_tasks.unseeded, "__module__", "other_tasks")
    data = load("unseeded")
    assert any("cannot be repeated bit for bit" in notice for notice in data.notices)
    assert data.fingerprint["train"] == load("unseeded").fingerprint["train"]


def test_in_memory_is_for_data_sets_of_pytorch():
    with pytest.raises(ConfigError, match=r"data.in_memory is for PyTorch data sets and loaders; leave it out"):
        load("tensors", in_memory=False)
