"""Data sets by name, downloaded if needed: MNIST-like ones from their own files, CIFAR and SVHN by torchvision."""

from __future__ import annotations

import gzip
import math
import os
import socket
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from dropopt.config import ConfigError
from dropopt.numbers import quantity
from dropopt.training.data.source import Source
from dropopt.training.data.split import Split

#: Names in settings, and torchvision's classes, for data sets of four IDX files each.
_MNIST_LIKE = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
#: Names of their classes, copied because importing torchvision takes two seconds.
_MNIST_CLASSES = {
    "mnist": ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"),
    "fashion-mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}
#: Names in settings, and torchvision's classes, for data sets whose files torchvision reads.
_OTHERS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "svhn": "SVHN"}

NAMES = (*_MNIST_LIKE, *_OTHERS)

#: Seconds without an answer after which a download is abandoned.
TIMEOUT = 30.0

_MNIST_FILES = tuple(f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))
_UBYTE = 8  # IDX's code for unsigned bytes


def read_named(name: str, root: Path) -> Source:
    """Read the data set ``name`` from ``root`` or the system's packages, or download it into ``root``."""
    return _read_mnist(name, root) if name in _MNIST_LIKE else _read_other(name, root)


# -- MNIST, Fashion-MNIST, KMNIST


def _read_mnist(name: str, root: Path) -> Source:
    folder = next((place for place in _mnist_places(name, root) if not _missing(place)), None)
    if folder is None:
        from torchvision import datasets

        folder = root / _MNIST_LIKE[name] / "raw"
        with _downloading(name, root, f"{folder} has no {_missing(folder)[0]}"):
            getattr(datasets, _MNIST_LIKE[name])(str(root), train=True, download=True)
    train, test = (
        Split(read_idx(_file(folder, f"{part}-images-idx3-ubyte"), 3)[:, None], _labels(folder, part))
        for part in ("train", "t10k")
    )
    for split, part in ((train, "train"), (test, "t10k")):
        if len(split.images) != len(split.labels):
            given = f"{quantity(len(split.images), 'image')} and {quantity(len(split.labels), 'label')}"
            raise ConfigError(f"{folder}: {part} has {given}; download the files again")
    return Source(name, _MNIST_CLASSES[name], train, test=test)


def _labels(folder: Path, part: str) -> Tensor:
    path = _file(folder, f"{part}-labels-idx1-ubyte")
    labels = read_idx(path, 1).long()
    if len(labels) and int(labels.max()) > 9:
        raise ConfigError(f"{path}: labels must be in [0, 9], got {int(labels.max())}")
    return labels


def _mnist_places(name: str, root: Path) -> list[Path]:
    """Folders that may hold the four files: torchvision's under ``root``, then those of Linux distributions."""
    shares = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    places = [root / _MNIST_LIKE[name] / "raw", root / name]
    return places + [Path(share) / "datasets" / name for share in shares.split(os.pathsep)]


def _missing(folder: Path) -> list[str]:
    return [name for name in _MNIST_FILES if not os.path.exists(_file(folder, name))]


def _file(folder: Path, name: str) -> Path:
    """Path of the plain file if it exists, else of the gzipped one."""
    plain = folder / name
    return plain if os.path.exists(plain) else folder / f"{name}.gz"


def read_idx(path: Path, ndim: int) -> Tensor:
    """Read the unsigned bytes of an IDX file with ``ndim`` dimensions, plain or gzipped."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    header = 4 * (ndim + 1)
    if len(data) < header or data[:4] != bytes((0, 0, _UBYTE, ndim)):
        raise ConfigError(f"{path} is not an IDX file of bytes with {ndim} dimensions")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", ndim, 4))
    if len(data) - header != math.prod(shape):
        raise ConfigError(
            f"{path} is truncated: {math.prod(shape)} values expected, {len(data) - header} found; "
            "delete it, so that it is unpacked or downloaded again"
        )
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=header).reshape(shape).copy())


# -- CIFAR and SVHN


def _read_other(name: str, root: Path) -> Source:
    from torchvision import datasets

    kind: Any = getattr(datasets, _OTHERS[name])
    with _downloading(name, root, f"{root} has no intact copy of it"):
        if name == "svhn":
            parts = [kind(str(root), split=split, download=True) for split in ("train", "test")]
            classes = tuple("0123456789")
        else:
            parts = [kind(str(root), train=train, download=True) for train in (True, False)]
            classes = tuple(parts[0].classes)
    train, test = (_split(part) for part in parts)
    return Source(name, classes, train, test=test)


def _split(part: Any) -> Split:
    images = part.data if part.data.shape[1] == 3 else part.data.transpose(0, 3, 1, 2)
    labels = part.labels if hasattr(part, "labels") else part.targets
    return Split(torch.from_numpy(np.ascontiguousarray(images)), torch.as_tensor(np.asarray(labels), dtype=torch.int64))


# -- downloads


@contextmanager
def _downloading(name: str, root: Path, state: str) -> Iterator[None]:
    """Let one process at a time download into ``root``; report any failure as one line that says what to do.

    Raises:
        ConfigError: If anything in the block fails; ``state`` says what is missing.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"), _socket_timeout(TIMEOUT):
            yield
    except (OSError, RuntimeError, EOFError, ValueError, HTTPException, tarfile.TarError, zlib.error) as error:
        reasons = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ConfigError(
            f"{name}: {state} and it cannot be downloaded ({reasons[-1] if reasons else type(error).__name__}); "
            "put its files there, or use data that need no network: digits, folder:PATH, numpy:FILE.npz"
        ) from None


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Limit how long sockets opened in the block wait for data.

    torchvision opens its downloads without a timeout and offers no argument for one: a silent server would block it
    for ever. Python's default timeout is the only way to set one. It is shared by the whole process, so it is
    restored even after a failure.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
