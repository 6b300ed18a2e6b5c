"""Layer-wise relevance propagation through any eager network, by zennit's rules.

zennit attaches its rules to modules, so it asks for a network in which every operation is a module used once, and
brings canonisers for a few architectures. Here the operations themselves are intercepted as they run: each becomes
a small module of its own, propagated by zennit's rule for its kind. So functional code, shared modules and residual
sums in any network are treated as zennit would treat modules, and the network itself is not touched.

    convolution, dense        z+ or epsilon, as the named rule says; a BatchNorm right behind is merged into it
    other normalisations      epsilon, as the affine map that they are once their statistics are known
    sums of two branches      in proportion to what each contributed (zennit's ``Sum`` with ``Norm``)
    average pooling, means    in proportion likewise
    activations, constants    relevance passes through unchanged
    max pooling, indexing...  relevance follows the entries that were chosen, as a gradient does
    gate times signal         all to the signal. A gate came out of a sigmoid or softmax, or is the smaller factor
                              (squeeze-excitation); of two equal factors each gets half. So features inside a gate
                              score 0, and none stands out among them
    attention                 the attention map is such a gate: all to the values. There is no agreed rule; this
                              one conserves relevance (Ali et al., 2022, "XAI for Transformers")

Biases absorb relevance, as in zennit. What happens inside a custom ``autograd.Function``, a scripted function or a
recurrent layer is not seen: there, relevance flows as the gradient would.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from dropopt.config import ConfigError
from dropopt.engine.importance.lrp.ops import HANDLERS, flows
from dropopt.engine.importance.lrp.rules import EPSILON, RULE, rules

__all__ = ["EPSILON", "RULE", "RelevanceMode", "refuse_reentrant"]


class RelevanceMode(TorchFunctionMode):
    """Context in which operations run as always, and the graph that they leave carries relevance, not gradients.

    Call ``backward`` on the output after leaving it, seeded with the output's own values. Parameters must not require
    grad: an operation is intercepted where a tensor that does is among its arguments. ``rule`` is a key of
    ``lrp_rules.RULES``; raises ValueError for another.
    """

    def __init__(self, rule: str = RULE, epsilon: float = EPSILON) -> None:
        super().__init__()
        self.rules = rules(rule, epsilon)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        handler = HANDLERS.get(getattr(func, "__name__", "").strip("_"))
        # Nothing is saved through a checkpoint's hooks, so no checkpoint runs an operation again unseen.
        with saved_tensors_hooks(lambda t: t.detach(), lambda t: t):
            if handler is None or not torch.is_grad_enabled() or not flows(*args, *kwargs.values()):
                return func(*args, **kwargs)
            return handler(self.rules, func, args, kwargs)


def refuse_reentrant(output: Tensor) -> None:
    """Raise ConfigError where a re-entrant checkpoint hides operations from the mode."""
    seen: set[Any] = set()
    nodes: list[Any] = [output.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if "CheckpointFunction" in node.name():
            raise ConfigError(
                "importance 'lrp' cannot see through torch.utils.checkpoint with use_reentrant=True: set it to False"
            )
        nodes.extend(n for n, _ in node.next_functions)
