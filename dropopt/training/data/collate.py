"""Tensors of what PyTorch data sets and loaders give: pairs of a sample and a target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dropopt.config import ConfigError
from dropopt.inputs import Inputs, each, gathered, parts
from dropopt.training.data.read_image import in_rgb
from dropopt.training.data.split import Split

#: Names of the target in samples that are dictionaries, as those of Hugging Face data sets are.
_TARGETS = ("label", "labels", "fine_label", "target", "targets", "class", "y")


def stacked(name: str, samples: Sequence[Any]) -> Split:
    """Stack pairs (sample, target) to a split.

    Raises:
        ConfigError: They are not pairs of numbers, or have several shapes.
    """
    pairs = [_pair(name, sample) for sample in samples]
    inputs = [_inputs(name, sample) for sample, _ in pairs]
    _check_shapes(name, inputs)
    targets = [tensor(target, f"{name}: ") for _, target in pairs]
    for number, target in enumerate(targets):
        if target.shape != targets[0].shape:
            shapes = " and ".join(str(tuple(one.shape)) for one in (targets[0], target))
            raise ConfigError(f"{name} has targets of shapes {shapes} (number {number}); give all of them one shape")
    return Split(_numbers(gathered(torch.stack, inputs)), _integers(torch.stack(targets)))


def joined(name: str, batches: Iterable[Any]) -> Split:
    """Join batches (samples, targets) to a split.

    Raises:
        ConfigError: See :func:`stacked`.
    """
    return together(name, [_batch(name, batch) for batch in batches])


def together(name: str, splits: Sequence[Split]) -> Split:
    """Join splits.

    Raises:
        ConfigError: There are none, or they have several shapes.
    """
    if not splits:
        raise ConfigError(f"{name} has no batches")
    _check_shapes(name, [each(lambda part: part[0], one.images) for one in splits])
    labels = torch.cat([one.labels for one in splits])
    return Split(gathered(torch.cat, [one.images for one in splits]), labels)


def tensor(value: Any, where: str = "") -> Tensor:
    """A tensor of what a data set returned; ``where`` begins messages. Images of PIL become (C, H, W)."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        advice = "; turn names and words into numbers" if array.dtype.kind in "US" else ""
        raise ConfigError(
            f"{where}a data set must give tensors, arrays, numbers or images, gives {_kind(value)}{advice}"
        )
    if _is_image(value):
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    found = torch.from_numpy(np.array(array))
    return found.float() if found.dtype == torch.float64 else found


def _in_colours(value: Any) -> Any:
    """An image of PIL with a palette in the colours of the palette; other values as they are.

    Only for samples: in a mask with a palette, the numbers are the classes.
    """
    return in_rgb(value) if _is_image(value) and value.mode in ("P", "PA") else value


def _is_image(value: Any) -> bool:
    """Whether a value is an image of PIL."""
    return hasattr(value, "getbands")


def _batch(name: str, batch: Any) -> Split:
    samples, targets = _pair(name, batch)
    return Split(_numbers(_inputs(name, samples)), _integers(tensor(targets, f"{name}: ")))


def _pair(name: str, sample: Any) -> tuple[Any, Any]:
    if isinstance(sample, tuple | list) and len(sample) == 2:
        return sample[0], sample[1]
    fault = f"{name} must give pairs (sample, target), gives {_kind(sample)}"
    if isinstance(sample, Mapping) and len(sample) > 1:
        target = next((key for key in _TARGETS if key in sample), list(sample)[-1])
        first = next(key for key in sample if key != target)
        fault += f"; return (sample[{first!r}], sample[{target!r}])"
    several = "; for a network with several inputs give ((x1, x2), target) or ({'a': x1, 'b': x2}, target)"
    raise ConfigError(fault + several * (isinstance(sample, tuple | list | Mapping) and len(sample) > 1))


def _inputs(name: str, sample: Any) -> Inputs:
    """The tensors of a sample: one, or several in a tuple or a mapping."""
    if isinstance(sample, Mapping):
        return {str(key): tensor(_in_colours(part), f"{name}: ") for key, part in sample.items()}
    if isinstance(sample, tuple | list) and not all(isinstance(part, int | float) for part in sample):
        return tuple(tensor(_in_colours(part), f"{name}: ") for part in sample)
    return tensor(_in_colours(sample), f"{name}: ")


def _numbers(samples: Inputs) -> Inputs:
    """Bytes stay bytes in samples of one tensor; of several, whole numbers stay whole, for embeddings."""
    if isinstance(samples, Tensor):
        return samples if samples.dtype == torch.uint8 else samples.float()
    whole = (torch.int8, torch.int16, torch.int32, torch.int64)
    return each(lambda part: part.long() if part.dtype in whole else part.float(), samples)


def _integers(targets: Tensor) -> Tensor:
    return targets.float() if targets.is_floating_point() else targets.long()


def _check_shapes(name: str, samples: Sequence[Inputs]) -> None:
    first = {key: part.shape for key, part in parts(samples[0]).items()}
    for number, sample in enumerate(samples):
        found = {key: part.shape for key, part in parts(sample).items()}
        if found != first:
            shapes = " and ".join(_shapes(one) for one in (first, found))
            raise ConfigError(f"{name} has samples of {shapes} (number {number}); resize them in its transform")


def _shapes(shapes: Mapping[str, torch.Size]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in shapes.values())


def _kind(value: Any) -> str:
    size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return type(value).__name__ + size
