"""Images from files or arrays, prepared as the training prepared its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dropopt.config import ConfigError
from dropopt.numbers import quantity
from dropopt.standalone.card import Inputs
from dropopt.training.data.from_source import resize
from dropopt.training.data.read_image import SUFFIXES, Pixels, read_image
from dropopt.training.data.read_many import attempt, readable
from dropopt.training.data.system_files import is_system

#: Weights of red, green and blue in a grey value, by ITU-R BT.601.
_LUMA = (0.299, 0.587, 0.114)


def image_files(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The image files among ``paths``. A folder stands for the images in it, at any depth, sorted by name.

    Raises:
        ConfigError: A path does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    for given in map(Path, paths):
        if given.is_dir():
            inside = sorted(_inside(given))
            if not inside:
                raise ConfigError(f"{given} has no image files ({', '.join(SUFFIXES)})")
            found += inside
        elif given.exists():
            found.append(given)
        else:
            raise ConfigError(f"{given}: no such file or folder")
    return found


def _inside(folder: Path) -> list[Path]:
    found = []
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_system(name)]
        found += [Path(here, name) for name in names if not is_system(name)]
    return [path for path in found if path.suffix.lower() in SUFFIXES]


def from_files(
    paths: Sequence[Path], inputs: Inputs, on_unreadable: Callable[[Path, ConfigError], None] | None = None
) -> tuple[list[Path], Tensor]:
    """Read image files as a batch for the network.

    If the training read image files, each file is resized while it is decoded, as there. If it had arrays of one size,
    each file is decoded at its own size, and then resized as ``image_size`` resizes arrays.

    Args:
        paths: The files.
        inputs: What the network takes.
        on_unreadable: Called with each file that cannot be prepared, which is then left out. By default there is an
            error about all such files.

    Returns:
        The files that were read, and the batch (N, C, H, W) of their images.

    Raises:
        ConfigError: A file cannot be decoded, or brought to the scale of the training's images.
    """
    if not inputs.mean:
        raise ConfigError(
            "this network was trained on data that a function of yours had normalised, so image files cannot be "
            "prepared for it; give StandaloneModel.predict the tensors that this function makes"
        )
    if inputs.channels not in (1, 3):
        raise ConfigError(
            f"this network takes images of {quantity(inputs.channels, 'channel')}, which image files do not have"
        )
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow releases the interpreter's lock while it decodes
        results = pool.map(attempt(lambda path: _read(path, inputs)), paths)
        found = list(readable(paths, results, on_unreadable=on_unreadable))
    if not found:
        return [], torch.empty(0, inputs.channels, inputs.height, inputs.width)
    read, images = zip(*found, strict=True)
    return list(read), normalised(torch.stack(images), inputs)


def from_array(images: Any, inputs: Inputs) -> Tensor:
    """Prepare images (N, C, H, W) or (N, H, W) in the units of the training's source as a batch for the network.

    Raises:
        ConfigError: The shape or the type does not fit.
    """
    tensor = images if isinstance(images, Tensor) else torch.from_numpy(np.ascontiguousarray(images))
    if tensor.ndim == 3 and inputs.channels == 1:
        tensor = tensor[:, None]
    if tensor.ndim != 4 or tensor.shape[1] != inputs.channels or not tensor.numel() or tensor.is_complex():
        raise ConfigError(
            f"images must be (N, {inputs.channels}, H, W) and not empty, got {tuple(tensor.shape)} of {tensor.dtype}"
        )
    tensor = tensor.detach().cpu()
    return normalised(_sized(tensor if tensor.dtype == torch.uint8 else tensor.float(), inputs), inputs)


def normalised(images: Tensor, inputs: Inputs) -> Tensor:
    """(images - mean) / std by channel, in float32 and with the operations of the training."""
    if not inputs.mean:
        return images.float()
    mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (inputs.mean, inputs.std))
    return images.float().clone().sub_(mean).div_(std)


def _read(path: Path, inputs: Inputs) -> Tensor:
    """One image file (C, H, W), in the units and of the type of the training's source."""
    pixels = read_image(path, (inputs.height, inputs.width) if inputs.pixels.files else None)
    image = torch.from_numpy(pixels.array)
    if inputs.channels == 1:
        image = image[:1] if pixels.grey else _grey(image)
    image = _scaled(path, image, pixels, inputs)
    return image if inputs.pixels.files else _sized(image[None], inputs)[0]


def _grey(image: Tensor) -> Tensor:
    grey = (image.float() * torch.tensor(_LUMA)[:, None, None]).sum(0, keepdim=True)
    return grey.round().to(torch.uint8) if image.dtype == torch.uint8 else grey


def _scaled(path: Path, image: Tensor, pixels: Pixels, inputs: Inputs) -> Tensor:
    white, whole = inputs.pixels.white, inputs.pixels.whole
    if pixels.white == white:
        return image if whole else image.float()
    if pixels.white is None or white is None:
        scales = f"this file is white at {pixels.white or 'an unknown value'}, the training's images at "
        raise ConfigError(
            f"{path}: {scales}{white or 'an unknown value'}, so the two scales cannot be compared; give "
            "StandaloneModel.predict an array in the training's units"
        )
    scaled = image.float() * (white / pixels.white)
    return scaled.round().clamp(0, white).to(torch.uint8) if whole else scaled


def _sized(images: Tensor, inputs: Inputs) -> Tensor:
    size = (inputs.height, inputs.width)
    return images if tuple(images.shape[2:]) == size else resize("images", images, size)
