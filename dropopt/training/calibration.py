"""Calibration: a temperature for the logits, and how far confidence and accuracy differ."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Number of bins of confidence, as in Guo et al. (2017).
BINS = 15

_COLDEST, _HOTTEST = 0.05, 20.0


def temperature_of(logits: Tensor, labels: Tensor) -> float:
    """Fit the temperature T of softmax(logits / T).

    The method is that of Guo et al., *On calibration of modern neural networks* (2017). The targets are smoothed by
    1 / (N + 2) as in Platt scaling, so that a network without errors among few images is not taken to be certain.

    Args:
        logits: (N, K).
        labels: (N,) class numbers.

    Returns:
        T in [0.05, 20]; above 1 if the network is too confident.

    Example:
        >>> logits = torch.tensor([[9.0, 0.0]] * 4)
        >>> temperature_of(logits, torch.tensor([0, 0, 0, 1])) > 1
        True
    """
    from scipy.optimize import minimize_scalar

    scores = logits.detach().double().cpu()
    count, classes = scores.shape
    smoothing = 1 / (count + 2)
    targets = torch.full_like(scores, smoothing / classes)
    targets[torch.arange(count), labels.cpu()] += 1 - smoothing

    def loss(log_temperature: float) -> float:
        return -float((targets * torch.log_softmax(scores / math.exp(log_temperature), 1)).sum()) / count

    found = minimize_scalar(loss, bounds=(math.log(_COLDEST), math.log(_HOTTEST)), method="bounded")
    return math.exp(float(found.x))


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Expected calibration error: the mean difference of confidence and accuracy over bins of confidence.

    Args:
        probabilities: (N, K).
        labels: (N,) class numbers.

    Returns:
        A number in [0, 1]; 0 if, of the images with confidence c, the share c is classified correctly.

    Example:
        >>> probabilities = torch.tensor([[0.75, 0.25]] * 4)
        >>> [calibration_error(probabilities, labels) for labels in (torch.tensor([0, 0, 0, 1]), torch.zeros(4))]
        [0.0, 0.25]
    """
    confidence, chosen = probabilities.double().cpu().max(1)
    right = (chosen == labels.cpu()).double()
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, confidence - right)
    return float(gaps.abs().sum()) / len(right)
