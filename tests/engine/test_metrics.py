"""What the training loop reports, and which of it the equations use."""

import math
import re

import numpy as np
import pytest
import torch

from dropopt.config import METHODS, EngineConfig
from dropopt.engine.metrics import Metrics, as_number, as_progress, used_metrics

ONLY = {f"w_{method}": 0.0 for method in METHODS}
CONTEXTUAL = ONLY | {"w_contextual": 1.0}


@pytest.mark.parametrize(
    ("settings", "used"),
    [
        (ONLY | {"w_adaptive": 1.0}, {"val_loss"}),
        (ONLY | {"w_adaptive": 1.0, "alpha": 0.0}, set()),
        (ONLY | {"w_pfid": 1.0}, set()),
        (ONLY | {"w_pfid": 1.0, "allocation": "feature"}, set()),
        (ONLY | {"w_pfid": 1.0, "allocation": "importance"}, {"val_loss"}),
        (ONLY | {"w_pfid": 1.0, "efficacy": "adaptive"}, {"val_loss", "train_loss"}),
        (CONTEXTUAL, {"val_accuracy"}),
        (CONTEXTUAL | {"performance": "loss"}, {"val_loss"}),
        (CONTEXTUAL | {"performance": "ratio"}, {"val_loss", "train_loss"}),
        (CONTEXTUAL | {"performance_psi": 0.0}, set()),
        (CONTEXTUAL | {"efficacy": "adaptive"}, {"val_accuracy", "val_loss", "train_loss"}),
        (ONLY | {"w_pfid": 1.0, "performance": "ratio"}, set()),
    ],
)
def test_metrics_that_the_equations_use(settings, used):
    """Eq. (2) uses the validation loss unless alpha is 0; eq. (9)-(11) the chosen measure of performance."""
    settings = {"performance_psi": -0.3} | settings
    assert used_metrics(EngineConfig(**settings)) == used


@pytest.mark.parametrize(
    ("kind", "reported", "performance"),
    [
        ("accuracy", {"val_accuracy": 0.7, "val_loss": 2.0, "train_loss": 4.0}, 0.7),
        ("loss", {"val_accuracy": 0.7, "val_loss": 2.0, "train_loss": 4.0}, 2.0),
        ("ratio", {"val_accuracy": 0.7, "val_loss": 2.0, "train_loss": 4.0}, 0.5),
        ("accuracy", {"val_accuracy": 0.0}, 1e-6),
        ("loss", {"val_loss": -3.0}, 1e-6),
        ("accuracy", {"val_loss": 2.0, "train_loss": 4.0}, None),
        ("loss", {"val_accuracy": 0.7, "train_loss": 4.0}, None),
        ("ratio", {"val_loss": 2.0}, None),
        ("ratio", {"train_loss": 2.0}, None),
        ("ratio", {"val_loss": 2.0, "train_loss": 0.0}, None),
    ],
)
def test_performance(kind, reported, performance):
    """P of eq. (9)-(11) is positive, and None until its metrics are reported."""
    assert Metrics().updated(0.5, **reported).performance(kind) == performance


def test_a_metric_that_is_not_given_keeps_its_value():
    """Progress is always new; an accuracy may exceed 1 by the rounding of a mean."""
    metrics = Metrics().updated(0.25, val_loss=1.0, train_loss=None).updated(0.5, val_loss=None, val_accuracy=1 + 1e-6)
    assert metrics == Metrics(progress=0.5, val_loss=1.0, val_accuracy=1.0)
    assert metrics.updated(0.75, val_accuracy=0).val_accuracy == 0
    for wrong, shown in ((1 + 2e-6, "1"), (-1e-9, "-1e-09"), (55, "55")):
        message = f"val_accuracy must be in [0, 1], got {shown}: divide a percentage by 100"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            metrics.updated(0.5, val_accuracy=wrong)


@pytest.mark.parametrize(
    "value", [3, np.float32(3), torch.tensor([3.0]), torch.tensor(3.0, requires_grad=True)], ids=str
)
def test_numbers_of_every_library(value):
    """They become plain floats."""
    assert type(as_number("x", value)) is float
    assert as_number("x", value) == 3


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("high", "loss must be a number, got 'high'"),
        (None, "loss must be a number, got None"),
        (torch.ones(2), "loss must be a number, got tensor([1., 1.])"),
        (math.nan, "loss must be finite, got nan"),
        (-math.inf, "loss must be finite, got -inf"),
    ],
)
def test_what_is_no_number_is_refused(value, message):
    """The message names the metric and its value."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        as_number("loss", value)


def test_progress():
    """A fraction of training, from the start to the end, of at least one epoch."""
    assert [as_progress(*given) for given in ((0, 1), (1, 1), (0.5, 4), (4, 4))] == [0, 1, 0.125, 1]
    assert as_progress(sum([0.1] * 30), 3) == 1  # 3.0000000000000013, as where a loop adds fractions of an epoch
    for epoch, epochs in ((5, 4), (4.01, 4), (-0.1, 4)):
        with pytest.raises(ValueError, match=rf"^epoch must be in \[0, {epochs}\], got {epoch}$"):
            as_progress(epoch, epochs)
    for epochs in (0, -3, 0.5):
        with pytest.raises(
            ValueError, match=rf"^epochs, those of the whole training, must be 1 or more, got {epochs}$"
        ):
            as_progress(0, epochs)
    with pytest.raises(ValueError, match=r"^epoch must be a number, got 'x'$"):
        as_progress("x", 4)
    with pytest.raises(ValueError, match=r"^epochs must be a number, got 'x'$"):
        as_progress(1, "x")
