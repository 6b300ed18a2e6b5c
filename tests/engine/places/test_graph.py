"""What is read from autograd's graph, and the feature dimension where sizes alone decide."""

import pytest
import torch
from torch import nn

from dropopt.engine.places.find import find_places
from dropopt.engine.places.graph import is_residual

LEAF = torch.ones(2, 3, requires_grad=True)
COMPUTED = LEAF.exp()


@pytest.mark.parametrize(
    ("output", "residual"),
    [
        (COMPUTED + LEAF.sin(), True),
        ((COMPUTED + LEAF.sin()).relu().clone().view(3, 2), True),
        ((COMPUTED + LEAF.sin()).relu().clone().view(3, 2).abs(), False),  # further away than any network has it
        (COMPUTED.relu().clone().abs().exp().sin(), False),
        (COMPUTED + LEAF, False),  # a bias
        (COMPUTED + torch.ones(2, 3), False),
        (COMPUTED * LEAF.sin(), False),
        (COMPUTED @ LEAF.sin().T, False),
        (torch.ones(2), False),
    ],
)
def test_a_residual_sum_adds_two_computed_tensors(output, residual):
    """At most three operations of one input follow it."""
    assert is_residual(output.grad_fn) is residual


def test_the_module_before_decides_and_not_the_one_after():
    """The features of an activation are those of the layer before it, even if the next layer fits another dimension."""
    model = nn.Sequential(nn.Conv1d(3, 6, 4), nn.ReLU(), nn.Linear(5, 5), nn.Flatten(), nn.Linear(30, 4))
    (place,) = find_places(model, "1", torch.randn(2, 3, 8))
    assert (place.axis, place.features) == (1, 6)
