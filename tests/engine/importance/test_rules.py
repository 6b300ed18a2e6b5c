"""zennit's rules with the operations around them: batch norms that are merged, attention, and denominators."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from one_operation import in_proportion, numbers, passed, redistributed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dropopt.config import ConfigError
from dropopt.engine.importance.lrp.relevance import RelevanceMode, refuse_reentrant
from dropopt.engine.importance.lrp.rules import Op, rules

X, W, B, MEAN, VAR = numbers(3, 4), *(numbers(4, seed=seed) for seed in (3, 4, 5)), numbers(4, seed=6).exp()
TOKENS = [numbers(2, 5, 6, seed=seed) for seed in (9, 10, 11)]


def plus(x: Tensor, weight: Tensor, bias: Tensor, r: Tensor) -> Tensor:
    """z+ of a dense layer."""
    return torch.stack([redistributed(weight, *each, True) for each in zip(x, [bias] * len(x), r, strict=True)])


RUNNING = {"use_input_stats": False}
VECTORS, DENSE, OFFSET = numbers(5, 6, seed=13), numbers(4, 6, seed=14), numbers(4, seed=15)
LAYERS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "dense": (lambda x: F.linear(x, DENSE, OFFSET), True),
    "convolution": (lambda x: F.conv1d(x[..., None], DENSE[..., None], OFFSET), True),
    "transposed": (lambda x: F.conv_transpose1d(x[..., None], DENSE.T[..., None], OFFSET), False),
}


@pytest.mark.parametrize("affine", [{"weight": W, "bias": B}, {"bias": B}, {"weight": W}, {}], ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_batch_norm_is_merged_into_the_layer_before_it(layer: str, affine: dict[str, Tensor]) -> None:
    """z+ then sees the weights and the bias of both; a transposed convolution and its norm are two layers."""
    operation, merged = LAYERS[layer]
    function, options = (F.batch_norm, affine) if layer == "dense" else (F.instance_norm, {**affine, **RUNNING})

    def normed(x: Tensor) -> Tensor:
        return function(operation(x), MEAN, VAR, **options, eps=0.3)

    y, r, (found,) = passed(normed, VECTORS, rule="z_plus")
    torch.testing.assert_close(y, normed(VECTORS))
    scale, shift = affine.get("weight", torch.ones(4)) / (VAR + 0.3).sqrt(), affine.get("bias", torch.zeros(4))
    y, r, before = y.detach().flatten(1), r.flatten(1), VECTORS @ DENSE.T + OFFSET
    if merged:
        expected = plus(VECTORS, DENSE * scale[:, None], (OFFSET - MEAN) * scale + shift, r)
    else:
        expected = plus(VECTORS, DENSE, OFFSET, before * scale / y * r)
    torch.testing.assert_close(found, expected)


def test_only_the_first_batch_norm_is_merged() -> None:
    """A second one, or one whose features are not those of the layer, is a layer of its own."""

    def twice(x: Tensor) -> Tensor:
        return F.batch_norm(F.batch_norm(F.linear(x, DENSE, OFFSET), MEAN, VAR, W, B), MEAN, VAR, W, B)

    y, r, (found,) = passed(twice, VECTORS, rule="z_plus")
    scale = W / (VAR + 1e-5).sqrt()
    inner = (VECTORS @ DENSE.T + OFFSET - MEAN) * scale + B
    expected = plus(VECTORS, DENSE * scale[:, None], (OFFSET - MEAN) * scale + B, inner * scale / y.detach() * r)
    torch.testing.assert_close(found, expected)

    def tokens(x: Tensor) -> Tensor:
        return F.batch_norm(F.linear(x[:, None].expand(-1, 4, -1), DENSE, OFFSET), MEAN, VAR, W, B)

    y, r, (found,) = passed(tokens, VECTORS, rule="z_plus")
    before = (VECTORS @ DENSE.T + OFFSET)[:, None]
    back = before * scale[:, None] / y.detach() * r
    torch.testing.assert_close(found, sum(plus(VECTORS, DENSE, OFFSET, back[:, token]) for token in range(4)))


def test_a_layer_before_two_batch_norms_takes_the_first() -> None:
    """The second one would be merged into weights that contain the first."""

    def fork(x: Tensor) -> Tensor:
        y = F.linear(x, DENSE, OFFSET)
        return F.batch_norm(y, MEAN, VAR, W, B) + F.batch_norm(y, VAR, VAR, B, W)

    y, r, (found,) = passed(fork, VECTORS, rule="z_plus")
    torch.testing.assert_close(y, fork(VECTORS))
    before, scale, other = VECTORS @ DENSE.T + OFFSET, W / (VAR + 1e-5).sqrt(), B / (VAR + 1e-5).sqrt()
    back = ((before - MEAN) * scale + B + before * other) / y.detach() * r
    expected = plus(VECTORS, DENSE * scale[:, None], (OFFSET - MEAN) * scale + B, back)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("operation", [lambda x: 3 - x, lambda x: 2 / x, lambda x: x + 1, lambda x: x * 2, torch.relu])
def test_an_operation_leaves_its_input_alone(operation: Callable[[Tensor], Tensor]) -> None:
    """Unless it works in place."""
    x = X.clone().requires_grad_() * 1
    with RelevanceMode():
        operation(x)
    assert torch.equal(x, X)


def test_parameters_of_an_operation_need_no_gradient() -> None:
    """The rules differentiate by the input alone."""
    assert not any(parameter.requires_grad for parameter in Op(F.linear, DENSE, B).parameters())


@pytest.mark.parametrize("reentrant", [False, True])
def test_reentrant_checkpoints_are_refused_anywhere(reentrant: bool) -> None:
    """On any path of the graph, also behind one that ends."""
    x = X.clone().requires_grad_()
    output = torch.cat((checkpoint(torch.exp, x, use_reentrant=reentrant), x * 2))
    message = "^importance 'lrp' cannot see through torch.utils.checkpoint with use_reentrant=True: set it to False$"
    with pytest.raises(ConfigError, match=message) if reentrant else nullcontext():
        refuse_reentrant(output)


@pytest.mark.parametrize("transposed", [False, True])
def test_packed_attention_is_linear_in_the_values(transposed: bool) -> None:
    """nn.MultiheadAttention: queries and keys get nothing, and the attention map is returned as well."""
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(6, 2, batch_first=not transposed).double().requires_grad_(False)
    query, key, value = (t.transpose(0, 1) if transposed else t for t in TOKENS)
    (y, attention), r, found = passed(lambda q, k, v: layer(q, k, v), query, key, value)
    torch.testing.assert_close((y, attention), layer(query, key, value))
    expected = in_proportion(lambda v: layer(query, key, v)[0])(value, y.detach(), r)
    for one, other in zip(found, (0 * query, 0 * key, expected), strict=True):
        torch.testing.assert_close(one, other)
    (y, nothing), _, _ = passed(lambda v: layer(query, key, v, need_weights=False), value)
    torch.testing.assert_close(y, layer(query, key, value)[0])
    assert nothing is None


def test_a_unit_that_is_exactly_zero_counts_as_positive() -> None:
    """Its relevance goes to the positive contributions."""
    w = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    _, r, (found,) = passed(lambda x: F.linear(x, w), torch.ones(1, 2, dtype=torch.float64), rule="z_plus")
    torch.testing.assert_close(found, torch.tensor([[float(r), 0.0]], dtype=torch.float64))


@pytest.mark.parametrize("shape", [(3, 4, 2), (3, 4), (3,)])
def test_denominators_are_stabilised_relative_to_their_sample(shape: tuple[int, ...]) -> None:
    """Epsilon times the mean size within the sample is added with the sign of the denominator, at least 1e-30."""
    z = numbers(*shape, seed=16)
    z[0] = 0
    rule = rules("epsilon", 0.1).proportional
    denominator = 1 / rule.gradient_mapper(torch.ones_like(z), [z])
    for index in np.ndindex(shape):
        sample = z[index[0]] if len(shape) > 1 else z
        step = max(0.1 * float(sample.abs().mean()), 1e-30)
        expected = float(z[index]) + (step if z[index] >= 0 else -step)
        assert float(denominator[index]) == pytest.approx(expected, rel=1e-12)
