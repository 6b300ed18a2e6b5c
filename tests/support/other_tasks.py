"""Data, networks, losses and metrics that are not those of image classification; studies name these functions."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

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
