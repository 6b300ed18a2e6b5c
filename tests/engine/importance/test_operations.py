"""Each intercepted operation by itself: its value, and the relevance of its inputs, against formulas in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from one_operation import in_proportion, numbers, passed, pulled
from torch import Tensor
from torch.nn import functional as F

from dropopt.engine.importance.lrp.handlers import HANDLERS
from dropopt.engine.importance.lrp.relevance import RelevanceMode

X, Y, SMALL = numbers(3, 4, 5, 6), numbers(3, 4, 5, 6, seed=1), numbers(4, 1, 1, seed=2)
W, B, MEAN, VAR = numbers(4, seed=3), numbers(4, seed=4), numbers(4, seed=5), numbers(4, seed=6).exp()
SQUARE, KERNEL = numbers(6, 6, seed=7), numbers(2, 4, 3, 2, seed=8)


def unchanged(x: Tensor, *others: Tensor) -> Tensor:
    return others[-1]


def returned(operation: Callable[..., Any]) -> Callable[..., Tensor]:
    """An operation for its effect on the first argument."""
    return lambda x, *others: (operation(x, *others), x)[1]


PER_MAP, LAST = W.view(4, 1, 1), numbers(5, 6, seed=12)
#: With statistics of their own: the operation, its input, the dimensions of the statistics, epsilon and the weight.
NORMS: dict[str, tuple[Callable[[Tensor], Tensor], Tensor, Any, float, Any]] = {
    "batch": (lambda x: F.batch_norm(x, MEAN.clone(), VAR.clone(), W, B, True, 0.1, 0.3), X, (0, 2, 3), 0.3, PER_MAP),
    "batch, vectors": (lambda x: F.batch_norm(x, None, None, W, B, training=True, eps=0.3), X[..., 0, 0], 0, 0.3, W),
    "instance": (lambda x: F.instance_norm(x, None, None, W, B, eps=0.3), X, (2, 3), 0.3, PER_MAP),
    "instance, signals": (lambda x: F.instance_norm(x), X[..., 0], 2, 1e-5, 1),
    "layer": (lambda x: F.layer_norm(x, (5, 6), LAST, Y[0, 0], 0.3), X, (2, 3), 0.3, LAST),
    "layer, by name": (
        lambda x: torch.layer_norm(input=x, normalized_shape=(6,), weight=LAST[0], eps=0.3), X, 3, 0.3, LAST[0]
    ),
    "layer, plain": (lambda x: torch.layer_norm(x, (6,)), X, 3, 1e-5, 1),
    "group": (lambda x: F.group_norm(x, 2, W, B, 0.3), X.transpose(2, 3), "groups", 0.3, PER_MAP),
    "group, signals": (lambda x: torch.group_norm(x, 2), X[..., 0], "groups", 1e-5, 1),
    "group, by name": (
        lambda x: torch.group_norm(input=x, num_groups=2, weight=W, bias=B, eps=0.3), X, "groups", 0.3, PER_MAP
    ),
}  # fmt: skip
LINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "batch norm": lambda x: F.batch_norm(x, MEAN, VAR, W, B, eps=0.3),
    "batch norm, plain": lambda x: F.batch_norm(x, MEAN, VAR),
    "batch norm of vectors": lambda x: F.batch_norm(x[..., 0, 0], MEAN, VAR, W),
    "batch norm after an activation": lambda x: F.batch_norm(x.neg(), MEAN, VAR, W, B, eps=0.3),
    "instance norm, running": lambda x: F.instance_norm(x, MEAN, VAR, W, B, use_input_stats=False, eps=0.3),
    "dense": lambda x: F.linear(x, SQUARE[:2], B[:2]),
    "dense, by name": lambda x: F.linear(bias=B[:2], input=x, weight=SQUARE[:2]),
    "convolution": lambda x: F.conv2d(x, KERNEL, None, 2, 1),
    "convolution, by name": lambda x: F.conv2d(x, weight=KERNEL, stride=2, padding=1, bias=B[:2]),
    "transposed convolution": lambda x: F.conv_transpose2d(x, KERNEL.transpose(0, 1), B[:2], 2),
    "mean": lambda x: x.mean((2, 3), keepdim=True),
    "mean, by name": lambda x: torch.mean(input=x, dim=1),
    "sum": lambda x: x.sum(-1),
    "pooling": lambda x: F.avg_pool2d(x, 2, stride=1),
    "adaptive pooling": lambda x: F.adaptive_avg_pool2d(x, 2),
    "interpolation": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "product with a matrix": lambda x: x @ SQUARE,
    "product with a matrix, by name": lambda x: torch.mm(x[0, 0], mat2=SQUARE),
    "product of a matrix": lambda x: SQUARE[:, :5] @ x,
    "einsum": lambda x: torch.einsum("nchw,wv->ncv", x, SQUARE),
    "attention's values": lambda x: F.scaled_dot_product_attention(Y, Y, x),
    "attention's values, by name": lambda x: F.scaled_dot_product_attention(query=Y, key=Y, value=x, scale=0.1),
}
UNCHANGED: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu in place": returned(F.relu_),
    "relu in place, by an argument": returned(lambda x: F.relu(x, inplace=True)),
    "sigmoid, by name": lambda x: torch.sigmoid(input=x),
    "softmax": lambda x: x.softmax(1),
    "leaky relu": lambda x: F.leaky_relu(x, 0.3),
    "clamp": lambda x: x.clamp(-0.5, max=0.5),
    "clamp in place": returned(lambda x: x.clamp_(0.2)),
    "power": lambda x: x**3,
    "exponential": lambda x: 2.0**x,
    "negative": lambda x: -x,
    "constant added": lambda x: 1 + x + Y,
    "constant subtracted": lambda x: x - 2,
    "subtracted from a constant": lambda x: 3 - x,
    "scaled": lambda x: 2 * x * SMALL,
    "divided": lambda x: x / 3 / Y,
    "constant divided": lambda x: 2 / x,
    "rounded": lambda x: torch.div(x, 0.3, rounding_mode="floor"),
    "scaled in place": returned(lambda x: x.mul_(2).div_(SMALL).add_(1).sub_(3)),
    "operators in place": returned(lambda x: [x.__iadd__(1), x.__isub__(2), x.__imul__(3), x.__itruediv__(4)]),
    "copied": lambda x: x.clone(),
}


def sum_of(a: float, b: float) -> Callable[..., tuple[Tensor, Tensor]]:
    """Relevance of x and y in a x + b y: in proportion to both terms, summed over dimensions that were broadcast."""
    return lambda x, other, y, r: (a * x / y * r, (b * other / y * r).sum_to_size(other.shape))


def half(x: Tensor, other: Tensor, y: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    return r / 2, r / 2


def first(x: Tensor, other: Tensor, y: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    return r.sum_to_size(x.shape), torch.zeros_like(other)


def both_in_proportion(x: Tensor, other: Tensor, y: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    return x * pulled(lambda t: t @ other, x, r / y) / 2, other * pulled(lambda t: x @ t, other, r / y) / 2


PAIRS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[Tensor, Tensor], Any]] = {
    "sum": (lambda x, y: x + y, (X, Y), sum_of(1, 1)),
    "sum, broadcast": (lambda x, y: x + y, (X, SMALL), sum_of(1, 1)),
    "weighted sum": (lambda x, y: torch.add(x, y, alpha=2), (X, Y), sum_of(1, 2)),
    "weighted sum, by name": (lambda x, y: torch.add(input=x, other=y, alpha=3), (X, Y), sum_of(1, 3)),
    "difference": (lambda x, y: x - y, (X, Y), sum_of(1, -1)),
    "weighted difference": (lambda x, y: torch.sub(x, y, alpha=3), (X, Y), sum_of(1, -3)),
    "reversed difference": (lambda x, y: torch.rsub(x, y, alpha=2), (X, Y), sum_of(-2, 1)),
    "sum in place": (returned(lambda x, y: x.add_(y, alpha=2)), (X, Y), sum_of(1, 2)),
    "difference in place": (returned(lambda x, y: x.sub_(y)), (X, SMALL), sum_of(1, -1)),
    "product": (lambda x, y: x * y, (X, Y), half),
    "product, by name": (lambda x, y: torch.mul(input=x, other=y), (X, Y), half),
    "product in place": (returned(lambda x, y: x.mul_(y)), (X, Y), half),
    "product with few factors": (lambda x, y: y * x, (X, SMALL), first),
    "product with a gate": (lambda x, y: y.sigmoid() * x, (X, Y), first),
    "product with a scaled factor": (lambda x, y: (2 * x) * y, (X, Y), half),
    "product with a gate in place": (lambda x, y: x * y.sigmoid_(), (X, Y), first),
    "product of gates": (lambda x, y: x.sigmoid() * y.sigmoid(), (X, Y), half),
    "product with a view of a gate": (lambda x, y: x * y.sigmoid().view(-1)[None].view(3, 4, 5, 6), (X, Y), first),
    "product with a changed gate": (lambda x, y: x * (1 + 2 * y.sigmoid()).relu(), (X, Y), first),
    "product with a dropped gate": (lambda x, y: F.dropout(y.softmax(1), 0.0) * x, (X, Y), first),
    "product with joined gates": (
        lambda x, y: torch.cat((x, x), 1) * torch.cat((y.sigmoid(), y.sigmoid()), 1),
        (X, Y),
        lambda x, y, z, r: ((r[:, :4] + r[:, 4:]) / 2,) * 2,
    ),
    "quotient": (lambda x, y: x / y, (X, Y), first),
    "quotient of few": (lambda x, y: x / y, (SMALL, Y), first),
    "quotient in place": (returned(lambda x, y: x.div_(y)), (X, Y), first),
    "halves": (lambda x, y: F.glu(torch.cat((x, y), 1), 1), (X, Y), first),
    "halves of the last dimension": (lambda x, y: F.glu(torch.cat((x, y), -1)), (X, Y), first),
    "matrices": (lambda x, y: x @ y, (X, Y.mT), both_in_proportion),
    "gated matrix": (
        lambda x, y: x.softmax(-1) @ y,
        (X, Y.mT),
        lambda x, y, z, r: (torch.zeros_like(x), y * pulled(lambda t: x.softmax(-1) @ t, y, r / z)),
    ),
}
GRADIENT: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "largest": (lambda x: F.max_pool2d(x, 2), X),
    "selected": (lambda x: x[:, ::2], X),
    "exponent": (lambda x: torch.pow(2.0, x), X),
    "weights of a layer": (lambda x: F.linear(X, x), SQUARE),
    "kernels of a layer": (lambda x: F.conv2d(X, x, B[:2]), KERNEL),
    "slopes of an activation": (lambda x: F.prelu(X, x), W),
    "keys of attention": (lambda x: F.scaled_dot_product_attention(Y, x, Y), X),
    "three factors": (lambda x: torch.einsum("nchw,nchw,nchw->n", x, x, x), X),
    "torch's batch_norm": (lambda x: torch.batch_norm(x, W, B, MEAN, VAR, False, 0.1, 0.3, False), X),
    "a function without a name": (
        lambda x: RelevanceMode().__torch_function__(functools.partial(torch.cumsum, dim=1), (), (x,)),
        X,
    ),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_normalisation_is_affine(name: str) -> None:
    """Its statistics are fixed, its weight counts, and its shift absorbs relevance."""
    operation, x, dims, eps, weight = NORMS[name]
    y, r, (found,) = passed(operation, x)
    torch.testing.assert_close(y, operation(x))
    if dims == "groups":
        sides = x.reshape(len(x), 2, -1).var(2, correction=0).repeat_interleave(2, 1)
        variance = sides.view(*sides.shape, *[1] * (x.ndim - 2))
    else:
        variance = x.var(dims, correction=0, keepdim=True)
    torch.testing.assert_close(found, x * (variance + eps).rsqrt() * weight / y.detach() * r)


@pytest.mark.parametrize("name", LINEAR)
def test_an_operation_that_is_linear_in_one_tensor(name: str) -> None:
    """Relevance is split in proportion to the contributions; a bias absorbs its own."""
    operation = LINEAR[name]
    y, r, (found,) = passed(operation, X)
    torch.testing.assert_close(y, operation(X))
    torch.testing.assert_close(found, in_proportion(operation)(X, y.detach(), r))


@pytest.mark.parametrize("name", UNCHANGED)
def test_an_elementwise_operation_passes_relevance_on(name: str) -> None:
    """Functions of one tensor, and those with constants, also in place and by the names of their arguments."""
    operation = UNCHANGED[name]
    y, r, (found,) = passed(operation, X)
    torch.testing.assert_close(y, operation(X.clone()))
    torch.testing.assert_close(found, r)


@pytest.mark.parametrize("name", PAIRS)
def test_an_operation_of_two_tensors(name: str) -> None:
    """Sums in proportion; of products the signal; of quotients the dividend; of matrices in proportion."""
    operation, inputs, expected = PAIRS[name]
    y, r, found = passed(operation, *inputs)
    torch.testing.assert_close(y, operation(*(x.clone() for x in inputs)))
    for one, other in zip(found, expected(*inputs, y.detach(), r), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", GRADIENT)
def test_what_is_not_intercepted_passes_the_gradient(name: str) -> None:
    """Operations without a rule, and those that only parameters enter from the network's input."""
    operation, x = GRADIENT[name]
    y, r, (found,) = passed(operation, x)
    torch.testing.assert_close(y, operation(x))
    torch.testing.assert_close(found, pulled(operation, x, r))


def test_every_handled_operation_exists() -> None:
    """Each intercepted name is a function of torch, which detects misspelt names."""
    for name in HANDLERS:
        assert any(hasattr(home, form) for home in (torch, F, Tensor) for form in (name, f"__{name}__")), name
