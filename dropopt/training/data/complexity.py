"""D_complexity of eq. (9): how hard a data set is, as one number in [0, 1].

Normalised label entropy times (1 - cross-validated accuracy of a linear classifier on PCA features): 0 if a linear
classifier on a few components separates the classes, near 1 if many balanced classes look alike to it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dropopt.config import ConfigError
from dropopt.files import cache_folder, write_whole
from dropopt.inputs import Inputs, parts
from dropopt.numbers import quantity
from dropopt.training.data.split import Split
from dropopt.training.data.stratify import stratified

#: Images that the classifier sees: enough to know its accuracy within one or two percent.
SAMPLES = 3000
#: Side of the pooled images, which keeps PCA under a second.
SIDE = 12
COMPONENTS = 32
FOLDS = 3
#: Part of the cache's key: increase it when the definition changes.
VERSION = 1


def complexity(split: Split, classes: int) -> float:
    """D_complexity of a training split, eq. (9).

    Args:
        split: The training split.
        classes: Number of classes, at least two.

    Returns:
        A number in [0, 1]; the same split always gives the same number.
    """
    labels = split.labels.cpu()
    shares = torch.bincount(labels, minlength=classes).double() / len(labels)
    entropy = float(torch.special.entr(shares).sum()) / math.log(classes)
    return min(max(entropy * (1 - _accuracy(_as_one(split.images), labels)), 0.0), 1.0)


def measure_complexity(data: Tensor | Iterable[Any], labels: Tensor | None = None) -> float:
    """D_complexity of eq. (9) of training data, for ``dropopt.attach(..., complexity=...)``.

    ``dropopt train`` measures it on normalised images without augmentation. The same images in the same order give the
    same number.

    Args:
        data: Training samples (N, ...), or an iterable of batches (samples, labels), such as a DataLoader, which is
            read once. It is read without a change to torch's random state. Or a pair of samples and labels.
        labels: (N,) class numbers, from 0. None if ``data`` contains them.

    Returns:
        A number in [0, 1]: 0 if a linear classifier separates the classes.

    Raises:
        ConfigError: If there are no class numbers, or fewer than two classes.

    Example:
        >>> labels = torch.arange(30) % 2
        >>> images = labels.view(30, 1, 1, 1) + torch.rand(30, 1, 4, 4)
        >>> measure_complexity(images, labels)
        0.0
        >>> measure_complexity([(images[:15], labels[:15]), (images[15:], labels[15:])])
        0.0
    """
    if labels is None and isinstance(data, tuple | list) and len(data) == 2 and all(map(torch.is_tensor, data)):
        data, labels = data  # a pair, not two batches
    if labels is None or not isinstance(data, Tensor):
        with torch.random.fork_rng(devices=[]):
            pairs = [_pair(batch) for batch in data]
        if not pairs:
            raise ConfigError("the complexity cannot be measured: there are no batches")
        data, labels = (torch.cat([torch.as_tensor(part) for part in parts]) for parts in zip(*pairs, strict=True))
    if labels.ndim != 1 or labels.is_floating_point() or len(labels) != len(data):
        raise ConfigError(
            f"the complexity is measured with class numbers (N,), got {labels.dtype} of shape {tuple(labels.shape)} "
            f"for {quantity(len(data), 'sample')}; with other targets give complexity=0.5, as studies do"
        )
    numbers = labels.long()
    if not len(numbers) or int(numbers.min()) < 0:
        raise ConfigError("the complexity is measured with class numbers from 0, got none or a negative one")
    classes = int((torch.bincount(numbers) > 0).sum())
    if classes < 2:
        raise ConfigError(f"the complexity is measured on two or more classes, got {classes}")
    return complexity(Split(data.detach(), numbers), int(numbers.max()) + 1)


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    """Return the samples and the labels of a batch.

    Raises:
        ConfigError: If it is no pair of tensors, or a single sample.
    """
    with suppress(LookupError, TypeError):
        samples, labels = batch[0], batch[1]
        if all(map(torch.is_tensor, (samples, labels))) and labels.ndim and not torch.is_tensor(batch):
            return samples, labels
    single = isinstance(batch, tuple | list) and len(batch) == 2 and torch.is_tensor(batch[0])
    given = "single samples: give a DataLoader of the data set" if single else f"a batch of type {type(batch).__name__}"
    raise ConfigError(
        "the complexity is measured on batches (samples, labels) of tensors, such as those of a DataLoader, or on "
        f"measure_complexity(samples, labels); got {given}"
    )


def remembered_complexity(split: Split, classes: int, digest: str | None) -> float:
    """Return :func:`complexity`, cached on disk by the split's hash.

    Args:
        split: The training split.
        classes: Number of classes.
        digest: Hash of the split if it is known; computed otherwise.
    """
    path = cache_folder() / "complexity" / f"{digest or split.digest()}-{classes}-v{VERSION}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        value = json.loads(path.read_text())["complexity"]
        if isinstance(value, float) and 0 <= value <= 1:
            return value
    value = complexity(split, classes)
    with suppress(OSError):  # without a cache, the next process computes it again
        write_whole(path, json.dumps({"complexity": value}).encode())
    return value


def _accuracy(images: Tensor, labels: Tensor) -> float:
    """Cross-validated accuracy of linear discriminant analysis on PCA features of a stratified subsample."""
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from threadpoolctl import threadpool_limits

    enough = (torch.bincount(labels) >= FOLDS)[labels]  # a class needs an image in each fold
    images = images[enough]
    present, labels = torch.unique(labels[enough], return_inverse=True)
    kinds = len(present)
    if kinds < 2:
        return 1 / max(kinds, 1)
    if len(labels) > SAMPLES:
        count = max(SAMPLES, FOLDS * kinds)
        chosen = stratified(labels, count, least=FOLDS, spare=0, seed=0, purpose="complexity")
        images, labels = images[chosen], labels[chosen]
    features = _pooled(images.float()).flatten(1).double().numpy()
    if not np.ptp(features, axis=0).any():  # all images are equal
        return 1 / kinds
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    with threadpool_limits(1):  # on such small matrices, threads cost more than they gain
        components = PCA(min(COMPONENTS, *features.shape), svd_solver="covariance_eigh").fit_transform(features)
        classifier = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        scores = cross_val_score(classifier, components, labels.numpy(), cv=folds, error_score="raise")
    return float(scores.mean())


def _as_one(samples: Inputs) -> Tensor:
    """One tensor of samples: of several inputs, the pooled features of each, which have a deviation of 1."""
    if isinstance(samples, Tensor):
        return samples.cpu()
    columns = [_pooled(part.cpu().float()).reshape(len(part), -1) for part in parts(samples).values()]
    return torch.cat([column / column.std(correction=0).clamp(min=1e-6) for column in columns], 1)


def _pooled(samples: Tensor) -> Tensor:
    """Return samples (N, C, ...) with few positions: images of at most SIDE x SIDE, signals and volumes alike."""
    if samples.ndim == 4:
        return F.adaptive_avg_pool2d(samples, (min(SIDE, samples.shape[2]), min(SIDE, samples.shape[3])))
    if samples.ndim == 3:
        return F.adaptive_avg_pool1d(samples, min(SIDE**2, samples.shape[2]))
    if samples.ndim == 5:
        side = round(SIDE ** (2 / 3))
        first, second, third = (min(side, length) for length in samples.shape[2:])
        return F.adaptive_avg_pool3d(samples, (first, second, third))
    return samples
