"""Your own network and data: copy this file, then change the two functions and the name of the study.

    python studies/own_model.py

Any network that returns logits works: the engine itself finds the layers at which to drop features. This study takes
under a minute on two cores, and under 1 GB of memory for each of two processes. Without pruning, a study takes about
trials x epochs x the time of one epoch / processes.
"""

from sklearn.datasets import load_digits
from torch import nn

from dropopt.study import Study


def data():
    """Images (N, C, H, W) and labels (N,). Return the same data at each call; dropopt scales and splits them."""
    images, labels = load_digits(return_X_y=True)
    return images.reshape(-1, 1, 8, 8), labels


def model(channels, classes):
    """Any nn.Module. Parameters named channels, classes or image_size are filled in from the data."""
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
    n_trials=30,
)

if __name__ == "__main__":
    study.main()
