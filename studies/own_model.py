"""Your own network and data, as functions in a script: copy this file, change the two and the study's name.

    python studies/own_model.py

A network of any shape will do: the engine finds its places by itself. This one costs half a minute on two cores
and under 1 GB of memory for each of two processes; yours costs trials x epochs x what an epoch of it takes.
"""

from sklearn.datasets import load_digits
from torch import nn

from dropopt.study import Study


def data():
    """Images (N, C, H, W) and labels (N,), the same at each call; scaling and splitting are done for you."""
    digits = load_digits()
    return digits.images[:, None], digits.target


def model(channels, classes):
    """Any nn.Module; ask for channels, classes or image_size, and get them."""
    return nn.Sequential(
        *(nn.Conv2d(channels, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.Conv2d(24, 48, 3, padding=1, stride=2), nn.BatchNorm2d(48), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * 48, classes)),
    )


study = Study(
    name="own_model",
    data=data,
    model=model,
    train={"epochs": 20, "batch_size": 64},
    n_trials=20,
)

if __name__ == "__main__":
    study.main()
