"""What is read from autograd's graph."""

import pytest
import torch

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
