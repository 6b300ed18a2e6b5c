"""Random images as arrays, .npz files and folders, a pickle that acts, and the messages with which data are refused."""

import os

import numpy as np
import pytest
from PIL import Image

from dropopt.config import ConfigError, DataConfig
from dropopt.training import load_data

RNG = np.random.default_rng(0)


class MakesFolder:
    """Unpickling it creates a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def refused(name, **settings):
    """The message, of one line, with which ``name`` is refused."""
    with pytest.raises(ConfigError) as caught:
        load_data(DataConfig(name=name, **settings))
    message = str(caught.value)
    assert "\n" not in message
    return message


def images(n, *shape):
    return RNG.integers(0, 256, (n, *shape), dtype=np.uint8)


def npz(path, **arrays):
    np.savez(path, **arrays)
    return f"numpy:{path}"


def folder(root, classes=("cat", "dog"), n=5, size=(12, 10), mode="RGB"):
    """Write a folder with ``n`` random PNG files per class; return its name for settings."""
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            pixels = images(*size[::-1]) if mode == "L" else images(*size[::-1], 3)
            Image.fromarray(pixels).convert(mode).save(root / name / f"{i}.png")
    return f"folder:{root}"
