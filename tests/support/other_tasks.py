"""Data, networks, losses and metrics that are not those of image classification; studies name these functions."""

import random

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, WeightedRandomSampler

N = 60


def _draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def signals():
    """1-D signals (2, 30) of three classes, as train and validation data sets."""
    labels = torch.arange(N) % 3
    samples = 4 * _draw(N, 2, 30) + labels[:, None, None]
    return TensorDataset(samples[:40], labels[:40]), TensorDataset(samples[40:], labels[40:])


def regression():
    """Images with a number each, as loaders."""
    images = _draw(N, 1, 6, 6)
    data = TensorDataset(images, images.mean((1, 2, 3)) * 6)
    return {"train": DataLoader(data, batch_size=16), "val": DataLoader(data, batch_size=16)}


def masks():
    """Images with masks of two classes, as one data set."""
    images = _draw(N, 1, 8, 8)
    return TensorDataset(images, (images[:, 0] > 0).long())


def partial_masks():
    """The same, where every third image and half of each other one are without a class."""
    images, targets = masks().tensors
    targets[::3], targets[:, 4:] = -100, -100
    return TensorDataset(images, targets)


def bright():
    """Images of two classes, as arrays: dark and bright ones."""
    images = _draw(N, 1, 8, 8).numpy()
    return images, (images.mean((1, 2, 3)) > 0).astype(int)


def volumes():
    """Volumes (1, 6, 6, 6) with three labels that do not exclude each other."""
    samples = _draw(N, 1, 6, 6, 6)
    return TensorDataset(samples, (samples.flatten(1)[:, :3] > 0).float())


def signal_network(channels, classes, image_size):
    """A 1-D network."""
    assert image_size == (30,)
    head = (nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, classes))
    return nn.Sequential(nn.Conv1d(channels, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), *head)


def image_network(channels, classes):
    """A small 2-D network."""
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(32, classes),
    )  # fmt: skip


def mask_network(channels, classes):
    """A fully convolutional network."""
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, classes, 1)
    )  # fmt: skip


def volume_network(channels, classes):
    """A 3-D network."""
    return nn.Sequential(
        nn.Conv3d(channels, 8, 3), nn.BatchNorm3d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, classes)
    )  # fmt: skip


def halved(outputs, targets):
    """A loss of one's own: half the squared error."""
    return (outputs.squeeze(1) - targets).square().mean() / 2


def worst(outputs, targets):
    """A metric to minimise: the largest error."""
    return (outputs.squeeze(1) - targets).abs().max()


def overlap(outputs, targets):
    """A metric to maximise: intersection over union of class 1."""
    found = outputs.argmax(1) == 1
    wanted = targets == 1
    return (found & wanted).sum() / (found | wanted).sum()


def _pairs():
    labels = torch.arange(N) % 2
    images = _draw(N, 1, 8, 8) + 0.3 * labels[:, None, None, None]
    return images, _draw(N, 5), labels


class _Samples(Dataset):
    """Samples that ``sample`` makes of an image, a vector and a label."""

    def __init__(self, sample):
        self.sample, self.tensors = sample, _pairs()

    def __len__(self):
        return N

    def __getitem__(self, index):
        return self.sample(*(part[index] for part in self.tensors))


def two_inputs():
    """Images and vectors, by position."""
    return _Samples(lambda image, vector, label: ((image, vector), label))


def named_inputs():
    """Images, vectors and whole numbers, by name, as a loader."""
    data = _Samples(
        lambda image, vector, label: ({"picture": image, "vector": vector, "place": index_of(vector)}, label)
    )
    return DataLoader(data, batch_size=16)


def index_of(vector):
    """A whole number, as for an embedding."""
    return (vector[:1] > 0).long()


class TwoBranches(nn.Module):
    """A branch for images and one for vectors; ``place`` is embedded."""

    def __init__(self, channels, classes, image_size):
        super().__init__()
        assert image_size in (((8, 8), ()), {"picture": (8, 8), "vector": (), "place": ()})
        values = list(channels.values() if isinstance(channels, dict) else channels)
        assert values[:2] == [1, 5]
        self.images = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.vectors = nn.Sequential(nn.Linear(5, 8), nn.ReLU())
        self.places = nn.Embedding(2, 8)
        self.head = nn.Linear(16, classes)

    def forward(self, picture, vector, place=None):
        """Logits of both branches together."""
        found = self.vectors(vector)
        if place is not None:
            found = found + self.places(place[:, 0])
        return self.head(torch.cat([self.images(picture).flatten(1), found], 1))


def two_branches(channels, classes, image_size):
    return TwoBranches(channels, classes, image_size)


class Augmented(Dataset):
    """Images with random transforms, drawn as many transforms draw them: by torch, NumPy and Python."""

    classes = ("dark", "bright")

    def __init__(self, random=True, count=N):
        self.random, self.count = random, count
        self.images = 0.2 * _draw(count, 1, 8, 8) + (torch.arange(count) % 2)[:, None, None, None]

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = self.images[index]
        if self.random:
            image = image + 0.1 * torch.randn(1) + 0.1 * np.random.rand() + 0.1 * random.random()
            image = image.float()
        return image, index % 2


def augmented():
    """Random training images, steady ones to validate and test."""
    return Augmented(), Augmented(random=False, count=20), Augmented(random=False, count=20)


def steady():
    """The same without random transforms."""
    return Augmented(random=False), Augmented(random=False, count=20), Augmented(random=False, count=20)


def augmented_by_workers():
    """A loader with two workers, which go on between epochs."""
    train, *others = augmented()
    loader = DataLoader(train, batch_size=5, shuffle=True, num_workers=2, persistent_workers=True)
    return loader, *others


def weighted():
    """A loader that draws the samples of one class only."""
    _, *others = steady()
    train = Augmented(random=False)
    chosen = WeightedRandomSampler([float(index % 2) for index in range(N)], 40)
    return DataLoader(train, batch_size=10, sampler=chosen), *others


def lone():
    """One data set with random transforms, for all splits."""
    return Subset(Augmented(), range(50))


def lone_weighted():
    """One loader with a sampler of its own."""
    return weighted()[0]


def tensors():
    """Images and labels."""
    return torch.zeros(8, 1, 4, 4), torch.arange(8) % 2
