"""Images and labels from arrays: a .npz file, or what a user's own function returns."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dropopt.config import ConfigError
from dropopt.explain import first_line, no_data, suggestion
from dropopt.numbers import quantity
from dropopt.training.data.source import Source
from dropopt.training.data.split import Split

#: Accepted aliases of the six arrays: those of Keras files, and plain words.
_ALIASES = {
    "x": ("x_train", "images", "train_images"),
    "y": ("y_train", "labels", "train_labels"),
    "x_validation": ("x_val", "validation_images"),
    "y_validation": ("y_val", "validation_labels"),
    "x_test": ("test_images",),
    "y_test": ("test_labels",),
}
#: What NumPy and its zip reader raise for damaged files.
_DAMAGED = (
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, MemoryError),
    *(SyntaxError, tokenize.TokenError),  # a header is a Python literal
)
#: What to do with samples or targets that are no images with classes.
_OTHERWISE = "for other {}, write a function that returns torch.utils.data.TensorDataset(x, y)"
#: Numbers of channels by which the layouts (N, H, W, C) and (N, C, H, W) are told apart.
_CHANNELS = (1, 2, 3, 4)


def read_npz(path: Path) -> Source:
    """Read a NumPy file with arrays x, y and, optionally, x_test, y_test, x_validation, y_validation, classes."""
    name = f"numpy:{path}"
    try:
        with path.open("rb") as stream:  # NumPy does not close a file that it cannot read
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ConfigError(f"{path} is a single array; expected a .npz file with x and y")
            return from_arrays(name, {key: _entry(file, key, path) for key in file.files})
    except FileNotFoundError:
        raise ConfigError(no_data(path, "file")) from None
    except _DAMAGED as error:
        raise ConfigError(f"{path} cannot be read: {first_line(error)}") from None
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} is not a .npz file: {first_line(error)}") from None


def from_arrays(name: str, arrays: Mapping[str, Any]) -> Source:
    """Check named arrays (x, y, ...) and number the classes in the order of their labels."""
    found = _renamed(name, arrays)
    if "x" not in found or "y" not in found:
        raise ConfigError(f"{name} must have x and y (or images and labels), got: {', '.join(arrays) or 'nothing'}")
    names, classes = _class_names(name, found)
    splits = {}
    for suffix in ("", "_validation", "_test"):
        if (f"x{suffix}" in found) != (f"y{suffix}" in found):
            raise ConfigError(f"{name}: x{suffix} and y{suffix} must be given together")
        if f"x{suffix}" in found:
            images = _images(name, f"x{suffix}", found[f"x{suffix}"])
            labels = _numbers(name, f"y{suffix}", found[f"y{suffix}"], classes)
            _check_alike(name, f"x{suffix}", found[f"x{suffix}"].dtype, found["x"].dtype)
            if len(images) != len(labels):
                given = f"x{suffix} has {quantity(len(images), 'image')}, y{suffix} {quantity(len(labels), 'label')}"
                raise ConfigError(f"{name}: {given}")
            splits[suffix] = Split(images, labels)
    # Integers of several widths: some splits are uint8, others float32.
    if len({split.tensor.dtype for split in splits.values()}) > 1:
        splits = {suffix: Split(split.tensor.float(), split.labels) for suffix, split in splits.items()}
    return Source(name, names, splits[""], splits.get("_validation"), splits.get("_test"))


def _entry(file: Any, key: str, path: Path) -> Any:
    try:
        return file[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise ConfigError(f"{path}: array {key!r} is damaged: {first_line(error)}") from None
        guess = (
            "images of several sizes?" if key.startswith(("x", "image")) else "names? convert them with .astype(str)"
        )
        raise ConfigError(f"{path}: array {key!r} holds Python objects ({guess}); expected numbers") from None


def _renamed(name: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Replace aliases by x, y, ..., and convert the values to NumPy arrays."""
    first = {alias: key for key, aliases in _ALIASES.items() for alias in (key, *aliases)} | {"classes": "classes"}
    found: dict[str, Any] = {}
    for key, value in arrays.items():
        if key not in first:
            raise ConfigError(f"{name}: unknown array {key!r}; {suggestion(str(key), [*_ALIASES, 'classes'])}")
        if first[key] in found:
            raise ConfigError(f"{name}: {first[key]} is given twice, also as {key!r}")
        try:
            found[first[key]] = _array(value)
        except ValueError:  # a ragged list
            raise ConfigError(f"{name}: {key} must be one array; all images must have one size") from None
        except (TypeError, RuntimeError) as error:  # NotImplementedError too: sparse, quantised or meta tensors
            raise ConfigError(f"{name}: {key} must be an array or a plain tensor: {first_line(error)}") from None
    return found


def _array(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return np.asarray(value)
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def _class_names(name: str, found: Mapping[str, Any]) -> tuple[tuple[str, ...], Any]:
    """Names of the classes, and the label of each in the arrays."""
    _check_labels(name, "y", found["y"])
    labels = np.unique(found["y"])
    if "classes" not in found:
        return tuple(_text(label) for label in labels.tolist()), labels
    if found["classes"].ndim != 1:
        raise ConfigError(f"{name}: classes must be a list of names, got an array of shape {found['classes'].shape}")
    names = tuple(_text(label) for label in found["classes"].tolist())
    if doubles := [one for one, count in Counter(names).items() if count > 1]:
        raise ConfigError(f"{name}: class names must differ, got {doubles[0]!r} twice")
    if not np.issubdtype(labels.dtype, np.integer) or (
        labels.size and not 0 <= labels.min() <= labels.max() < len(names)
    ):
        raise ConfigError(f"{name}: with classes given, labels must be integers in [0, {len(names) - 1}]")
    return names, np.arange(len(names))


def _images(name: str, key: str, array: Any) -> Tensor:
    """Convert (N, H, W), (N, H, W, C) or (N, C, H, W) to (N, C, H, W), uint8 or float32."""
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and _channels_come_last(*array.shape[1:]):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or 0 in array.shape:
        raise ConfigError(
            f"{name}: {key} must be (N, H, W), (N, H, W, C) or (N, C, H, W) and not empty, got {array.shape}"
            + ("" if 0 in array.shape else f"; {_OTHERWISE.format('samples')}")
        )
    if array.dtype == np.uint8 or array.dtype == np.bool_:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.uint8))
    if not np.issubdtype(array.dtype, np.number) or np.issubdtype(array.dtype, np.complexfloating):
        raise ConfigError(f"{name}: {key} must hold numbers, got {array.dtype}")
    with np.errstate(over="ignore"):  # infinity is reported below
        images = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(images).all():
        raise ConfigError(f"{name}: {key} holds values that are not finite")
    return torch.from_numpy(images)


def _channels_come_last(first: int, middle: int, last: int) -> bool:
    """Whether images of shape (first, middle, last) are (H, W, C).

    An axis of 1 to 4 is taken for the channels; else the two equal axes are taken for height and width. If neither
    decides, images are (C, H, W), PyTorch's layout.
    """
    if (first in _CHANNELS) != (last in _CHANNELS):
        return last in _CHANNELS
    return first == middle != last


def _check_alike(name: str, key: str, kind: Any, train: Any) -> None:
    """Refuse splits on different scales: test images in [0, 1] are black compared with training images up to 255."""
    kinds = {"b": "bool", "i": "integers", "u": "integers"}
    if kinds.get(kind.kind, "floats") != kinds.get(train.kind, "floats"):
        raise ConfigError(f"{name}: {key} is {kind}, x is {train}; give all images the same type and scale")


def _check_labels(name: str, key: str, labels: Any) -> None:
    if labels.ndim not in (1, 2) or (labels.ndim == 2 and labels.shape[1] != 1) or labels.dtype.kind not in "biuUS":
        raise ConfigError(
            f"{name}: {key} must be (N,) integers or names, got {labels.dtype} of shape {labels.shape}{_hint(labels)}"
        )


def _hint(labels: Any) -> str:
    """What to do with ``labels`` that are no class numbers."""
    if labels.dtype.kind == "O":
        return "; convert names with .astype(str), numbers with .astype(int)"
    if labels.dtype.kind not in "biuf":
        return ""
    if labels.ndim == 2 and (((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all()):
        return "; convert one-hot rows with .argmax(1)"
    if labels.ndim == 1 and (labels == np.round(labels)).all():
        return "; convert them with .astype(int)"
    return f"; {_OTHERWISE.format('targets')}"


def _numbers(name: str, key: str, labels: Any, classes: Any) -> Tensor:
    """Class numbers (N,) of labels (N,) or (N, 1)."""
    _check_labels(name, key, labels)
    labels = labels.reshape(-1)
    if unknown := sorted(set(labels.tolist()) - set(classes.tolist())):
        raise ConfigError(f"{name}: class {_text(unknown[0])!r} is in {key} but not in y")
    return torch.from_numpy(np.searchsorted(classes, labels).astype(np.int64))


def _text(label: Any) -> str:
    return label.decode(errors="replace") if isinstance(label, bytes) else str(label)
