"""How relevance is propagated through each kind of operation: one handler per kind, which applies zennit's rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from zennit.canonizers import MergeBatchNorm
from zennit.rules import Pass

from dropopt.engine.importance.lrp.rules import Op, Rules, run

#: Largest number of views between a gate and the product that it controls.
_VIEWS = 8

_broadcast: Callable[..., tuple[Tensor, ...]] = torch.broadcast_tensors

# -- one handler per kind of operation: (rules, function, args, kwargs) -> output; NotImplemented for the plain gradient


def _linear(rules: Rules, func: Any, args: Any, kwargs: Any) -> Any:
    (x, weight, bias), rest, left = _bound(("input", "weight", "bias"), args, kwargs)
    if not flows(x):  # only the weights depend on the network's input
        return NotImplemented
    op = Op(lambda t, w, b: func(t, w, b, *rest, **left), weight, bias)
    dense = func.__name__ == "linear"
    op.mergeable = x.ndim == 2 if dense else "transpose" not in func.__name__
    return run(x, op, rules.dense if dense else rules.convolution)


def _batch_norm(rules: Rules, func: Any, args: Any, kwargs: Any) -> Any:
    if "eps" not in kwargs:  # torch.batch_norm, whose arguments have another order than those of torch.nn.functional
        return NotImplemented
    x, *rest = args
    (mean, variance, weight), _, left = _bound(("running_mean", "running_var", "weight"), rest, kwargs)
    single = func.__name__ == "instance_norm"  # each sample has statistics of its own
    made_by = getattr(x.grad_fn, "op", None)
    if left["use_input_stats" if single else "training"]:
        variance = x.detach().var((*range(not single), *range(2, x.ndim)), correction=0)
    elif isinstance(made_by, Op) and made_by.mergeable:
        _merge(made_by, mean, variance, weight, left["bias"], left["eps"])
        return run(x, Op(lambda t: func(t, *rest, **kwargs)), Pass())
    return _affine(rules, func, args, kwargs, _per_feature(_slope(variance, left["eps"], weight), x))


def _layer_norm(rules: Rules, func: Any, args: Any, kwargs: Any) -> Any:
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    (x, shape, weight, _, eps), _, _ = _bound(names, args, kwargs)
    variance = x.detach().var(tuple(range(-len(shape), 0)), correction=0, keepdim=True)
    return _affine(rules, func, args, kwargs, _slope(variance, eps, weight))


def _group_norm(rules: Rules, func: Any, args: Any, kwargs: Any) -> Any:
    names = ("input", "num_groups", "weight", "bias", "eps")
    (x, groups, weight, _, eps), _, _ = _bound(names, args, kwargs)
    variance = x.detach().unflatten(1, (groups, -1)).flatten(2).var(2, correction=0)
    variance = variance.repeat_interleave(x.shape[1] // groups, 1)
    return _affine(rules, func, args, kwargs, _per_feature(_slope(variance, eps, weight), x))


def _slope(variance: Tensor, eps: float | None, weight: Tensor | None) -> Tensor:
    slope = (variance + (1e-5 if eps is None else eps)).rsqrt()
    return slope if weight is None else slope * weight


def _per_feature(values: Tensor, x: Tensor) -> Tensor:
    """Return (C,) or (N, C) values in a shape that broadcasts over ``x`` (N, C, ...)."""
    return values.view(-1, x.shape[1], *[1] * (x.ndim - 2))


def _affine(rules: Rules, func: Any, args: Any, kwargs: Any, slope: Tensor) -> Tensor:
    """A normalisation with its statistics held fixed: slope * x + shift; the shift absorbs relevance."""
    (x,), _, _ = _bound(("input",), args, kwargs)
    with torch.no_grad():
        shift = func(*args, **kwargs) - x * slope
    return run(x, Op(lambda t: t * slope + shift), rules.proportional)


def _merge(op: Op, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
    """Merge a BatchNorm into the layer before it, as zennit does, on copies."""
    batch_norm = SimpleNamespace(
        running_mean=mean.detach().clone(),
        running_var=variance.detach().clone(),
        weight=torch.ones_like(mean) if weight is None else weight.detach().clone(),
        bias=torch.zeros_like(mean) if bias is None else bias.detach().clone(),
        eps=eps,
    )
    MergeBatchNorm.merge_batch_norm((op,), batch_norm)
    op.mergeable = False  # only the first BatchNorm is merged


def _activation(rules: Rules, func: Any, args: Any, kwargs: Any) -> Any:
    """Elementwise functions of one tensor, and normalisations by its own scale: relevance passes unchanged."""
    (x,), rest, left = _bound(("input",), args, kwargs)
    if not flows(x):  # only a parameter of the function depends on the network's input
        return NotImplemented
    op = Op(lambda t: func(t.clone(), *rest, **left))
    op.gates = func.__name__.strip("_") in _GATES or _is_gate(x)
    output = run(x, op, Pass())
    return x.copy_(output) if _in_place(func) or left.get("inplace") else output


def _mean(rules: Rules, func: Any, args: Any, kwargs: Any) -> Any:
    """Operations that are linear in one tensor: relevance is split in proportion to the contributions."""
    (x,), rest, left = _bound(("input",), args, kwargs)
    return run(x, Op(lambda t: func(t, *rest, **left)), rules.proportional)


def _sum_of_two(rules: Rules, func: Any, args: Any, kwargs: Any) -> Any:
    (x, y), _, left = _bound(("input", "other"), args, kwargs)
    if not (flows(x) and flows(y)):
        return _product(rules, func, args, kwargs)
    alpha = left.get("alpha", 1)
    a, b = (-alpha, 1) if "rsub" in func.__name__ else (1, -alpha if "sub" in func.__name__ else alpha)
    op = Op(lambda t: a * t[..., 0] + b * t[..., 1])  # the factors inside, because relevance passes them unchanged
    output = run(torch.stack(_broadcast(x, y), -1), op, rules.proportional)
    return x.copy_(output) if _in_place(func) else output


def _product(rules: Rules, func: Any, args: Any, kwargs: Any) -> Any:
    """Signal times gate, and elementwise operations of a signal and a constant."""
    (x, y), _, left = _bound(("input", "other"), args, kwargs)
    with torch.no_grad():
        value = func(x, y, **left)
    signals = _signals(x, y, divides="div" in func.__name__)
    parts = []
    for signal in signals:
        op = Op(lambda _: value.clone())
        op.gates = len(signals) == 1 and _is_gate(signal)  # a gate that is scaled or shifted is still a gate
        parts.append(run(signal.expand(value.shape), op, Pass()))
    output = parts[0] if len(parts) == 1 else (parts[0] + parts[1]) / 2
    return x.copy_(output) if _in_place(func) else output


def _glu(rules: Rules, func: Any, args: Any, kwargs: Any) -> Any:
    """One half of the input is the signal, the sigmoid of the other half is its gate."""
    x, dim = args[0], kwargs["dim"]
    value = func(x.detach(), dim)
    return run(x.chunk(2, dim)[0], Op(lambda _: value), Pass())


def _contraction(rules: Rules, func: Any, args: Any, kwargs: Any) -> Any:
    """Matrix products: linear in the signal, so relevance is split in proportion to the contributions."""
    places = [i for i, a in enumerate(args) if isinstance(a, Tensor) and flows(a)]
    if len(places) not in (1, 2):
        return NotImplemented
    signals = [i for i in places if not _is_gate(args[i])] or places
    parts = [
        run(args[i], Op(lambda t, i=i: func(*args[:i], t, *args[i + 1 :], **kwargs)), rules.proportional)
        for i in signals
    ]
    return parts[0] if len(parts) == 1 else (parts[0] + parts[1]) / 2


def _attention(rules: Rules, func: Any, args: Any, kwargs: Any) -> Any:
    """Attention is linear in the values, with queries and keys as the gate; the packed form also returns the map."""
    (query, key, value), rest, left = _bound(("query", "key", "value"), args, kwargs)
    if not flows(value):
        return NotImplemented
    beside: list[Any] = []

    def function(t: Tensor) -> Tensor:
        output: Tensor | tuple[Tensor, ...] = func(query.detach(), key.detach(), t, *rest, **left)
        if isinstance(output, tuple):
            beside[:] = output[1:]
            return output[0]
        return output

    output = run(value, Op(function), rules.proportional)
    return (output, *beside) if beside else output


_GATES = frozenset({"sigmoid", "hardsigmoid", "softmax"})

_KINDS: dict[Callable[..., Any], str] = {
    _linear: "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d",
    _batch_norm: "batch_norm instance_norm",
    _layer_norm: "layer_norm",
    _group_norm: "group_norm",
    _activation: """relu relu6 elu selu celu gelu silu mish hardswish leaky_relu rrelu prelu softplus tanh hardtanh
        threshold sigmoid hardsigmoid logsigmoid softmax log_softmax softsign tanhshrink hardshrink softshrink clamp
        clamp_min clamp_max clip abs absolute neg negative exp log sqrt rsqrt square pow rpow normalize rms_norm
        local_response_norm""",
    _mean: """mean sum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
        lp_pool1d lp_pool2d lp_pool3d interpolate""",
    _sum_of_two: "add sub rsub subtract",
    _product: "mul multiply div rdiv divide true_divide",
    _glu: "glu",
    _contraction: "matmul rmatmul bmm mm einsum",
    _attention: "scaled_dot_product_attention multi_head_attention_forward",
}
HANDLERS = {name: handler for handler, names in _KINDS.items() for name in names.split()}


def flows(*values: Any) -> bool:
    """Whether relevance can flow to at least one of the values."""
    return any(v.requires_grad if isinstance(v, Tensor) else isinstance(v, list | tuple) and flows(*v) for v in values)


def _bound(names: Sequence[str], args: Any, kwargs: Any) -> tuple[list[Any], tuple[Any, ...], dict[str, Any]]:
    """Return the arguments with these names, positional or not (None if not given), and the remaining arguments."""
    left = dict(kwargs)
    values = [args[i] if i < len(args) else left.pop(name, None) for i, name in enumerate(names)]
    return values, args[len(names) :], left


def _in_place(func: Any) -> bool:
    name: str = func.__name__
    return name.endswith("_") and not name.endswith("__")  # also of operators such as +=


def _signals(x: Any, y: Any, *, divides: bool) -> list[Tensor]:
    """Return the factors of a product, or the dividend of a quotient, that receive its relevance."""
    flowing: list[Tensor] = [t for t in (x, y) if flows(t)]
    if len(flowing) < 2:
        return flowing
    if divides:
        return flowing[:1]
    signals = [t for t in flowing if not _is_gate(t)] or flowing
    largest = max(t.numel() for t in signals)
    return [t for t in signals if t.numel() == largest]


def _is_gate(x: Tensor) -> bool:
    """Whether ``x`` is the output of a gate, or a view of it."""
    node: Any = x.grad_fn
    for _ in range(_VIEWS):
        if node is None or hasattr(node, "op"):
            break
        copied = node.name().endswith("CopyBackwards")  # in place: its last input replaces the values
        before = [n for n, _ in node.next_functions[-1 if copied else 0 :] if n is not None]
        node = before[0] if len(before) == 1 else None
    return bool(node is not None and hasattr(node, "op") and node.op.gates)
