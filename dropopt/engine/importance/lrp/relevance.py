"""Layer-wise relevance propagation through any eager network, by zennit's rules.

zennit attaches its rules to modules. It requires a network in which every operation is a module that is used once,
and has canonisers for a few architectures. Here the operations are intercepted as they run: each becomes a small
module of its own, to which zennit's rule for its kind applies. This treats functional code, shared modules and
residual sums in any network as zennit treats modules, and does not modify the network.

    convolution, dense        z+ or epsilon, depending on the named rule; a BatchNorm directly after is merged
    other normalisations      epsilon, as affine maps with their statistics held fixed
    sums of two branches      in proportion to the contribution of each (zennit's ``Sum`` with ``Norm``)
    average pooling, means    in proportion to the contribution of each input
    activations, constants    relevance passes unchanged
    max pooling, indexing...  relevance follows the selected entries, as a gradient does
    gate times signal         all relevance to the signal. A gate is the output of a sigmoid or softmax, or the smaller
                              factor (squeeze-excitation); two equal factors get half each. Features inside a gate
                              therefore score 0
    attention                 the attention map is a gate: all relevance to the values. There is no agreed rule; this
                              one conserves relevance (Ali et al., 2022, "XAI for Transformers")

Biases absorb relevance, as in zennit. Operations inside a custom ``autograd.Function``, a scripted function or a
recurrent layer are not intercepted; there, relevance flows as the gradient does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from dropopt.config import ConfigError
from dropopt.engine.importance.lrp import EPSILON, RULE
from dropopt.engine.importance.lrp.handlers import HANDLERS, flows
from dropopt.engine.importance.lrp.rules import rules
from dropopt.engine.places.graph import walk


class RelevanceMode(TorchFunctionMode):
    """Context in which operations compute their usual values, but their graph propagates relevance, not gradients.

    After leaving the context, call ``backward`` on the output with the output itself as the gradient. Parameters must
    not require grad: an operation is intercepted where one of its arguments does.

    Args:
        rule: a key of ``rules.RULES``.
        epsilon: stabiliser of the denominators, relative to their mean size.

    Raises:
        ValueError: if there is no such rule.
    """

    def __init__(self, rule: str = RULE, epsilon: float = EPSILON) -> None:
        super().__init__()
        self.rules = rules(rule, epsilon)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        handler = HANDLERS.get(getattr(func, "__name__", "").strip("_"))
        # Without a checkpoint's own hooks, no checkpoint can run an operation again outside this mode.
        with saved_tensors_hooks(lambda t: t.detach(), lambda t: t):
            output = NotImplemented
            if handler is not None and torch.is_grad_enabled() and flows(*args, *kwargs.values()):
                output = handler(self.rules, func, args, kwargs)
            return func(*args, **kwargs) if output is NotImplemented else output


def refuse_reentrant(output: Tensor) -> None:
    """Raise ConfigError if a re-entrant checkpoint hid operations from the mode."""
    if any("CheckpointFunction" in node.name() for node in walk([output.grad_fn])):
        raise ConfigError(
            "importance 'lrp' cannot see through torch.utils.checkpoint with use_reentrant=True: set it to False"
        )
