"""The dropout engine: where features are dropped, which ones, and how often. Independent of training and studies."""

from __future__ import annotations

import warnings
from types import UnionType
from typing import Literal, get_args, overload

from torch import Tensor, nn

from dropopt.config import Baseline, ConfigError, EngineConfig
from dropopt.engine.attached import remove_hook, sites_at
from dropopt.engine.baselines import BaselineEngine
from dropopt.engine.engine import DropoutEngine
from dropopt.engine.places.find import named_places, survey
from dropopt.engine.places.inside import OwnDropout, OwnFunction
from dropopt.engine.places.place import Example, Place, Selector
from dropopt.inputs import parts
from dropopt.numbers import listed

__all__ = [
    "BaselineEngine",
    "DropoutEngine",
    "Engine",
    "Inside",
    "OwnDropout",
    "OwnFunction",
    "attach",
    "detach",
    "named_places",
]

#: What :func:`attach` returns: the paper's engine, or a baseline with the same methods.
Engine = DropoutEngine | BaselineEngine

#: What to do with dropout that the network has at the same places.
Inside = Literal["keep", "replace", "error"]

_NO_COMPLEXITY = (
    "attach() was called without the complexity of the data, on which the contextual member depends, and uses 0.5; "
    "pass complexity=, for example dropopt.training.measure_complexity(train_loader), or set w_contextual=0"
)

_TENSORS = "a tensor, such as torch.stack(images), or a tuple or dictionary of tensors"
_UNSKIPPED = (
    "stochastic_depth drops nothing, because the outputs of all places have another shape than their inputs: choose "
    "other sites, such as residual blocks, or another kind"
)


@overload
def attach(
    model: nn.Module,
    config: EngineConfig,
    *,
    example: Example,
    complexity: float | None = None,
    sites: Selector | None = None,
    inside: Inside | None = None,
) -> DropoutEngine: ...


@overload
def attach(
    model: nn.Module,
    config: Baseline,
    *,
    example: Example,
    complexity: float | None = None,
    sites: Selector | None = None,
    inside: Inside | None = None,
) -> BaselineEngine: ...


def attach(
    model: nn.Module,
    config: EngineConfig | Baseline,
    *,
    example: Example,
    complexity: float | None = None,
    sites: Selector | None = None,
    inside: Inside | None = None,
) -> Engine:
    """Add dropout to a model without changing its class, its keys or its parameters.

    Args:
        model: any module. It is run once on ``example`` in eval mode; its parameters, statistics and training flags,
            and the random state, are left as they were.
        config: settings of the paper's engine, or of a baseline method at the same places.
        example: an input batch (N, C, H, W) such as the model is trained on; a tuple if it takes several arguments,
            or a dictionary if it takes them by name.
        complexity: D_complexity of eq. (9), the complexity of the data, in [0, 1], which ``dropopt train`` measures.
            Without it the contextual member uses 0.5, with a warning.
        sites: overrides ``config.sites``. It may also be a function (name, module) -> bool.
        inside: what happens to dropout that the network has of its own at the same places. ``"keep"``: both drop.
            ``"replace"``: layers are switched off until ``detach()``, and functions such as ``F.dropout`` are refused.
            ``"error"``: it is refused. Default: ``"keep"``, with a warning that names it.

    Returns:
        An engine. It is a context manager; on exit, or when ``detach()`` is called, it leaves the model as it was.

    Raises:
        ConfigError: if no module matches ``sites``, if a selected module cannot be a site (the message names it), if a
            place already has dropout of this package, if ``inside`` refuses the dropout that the network has of its
            own there, or if an argument has the wrong type.
        ValueError: if ``complexity`` is outside [0, 1].

    Example:
        >>> import dropopt, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
        >>> config = dropopt.EngineConfig(r0=0.3)
        >>> engine = dropopt.attach(model, config, example=torch.zeros(2, 1, 4, 4), complexity=0.5)
        >>> [row["site"] for row in engine.rates()]
        ['1']
        >>> engine.detach()
    """
    _check_arguments(model, config, example, inside)
    found = survey(model, config.sites if sites is None else sites, example)
    _refuse_taken(found.places)
    _check_own_dropout(model, found.own, inside)
    if complexity is None and isinstance(config, EngineConfig) and config.uses("contextual"):
        warnings.warn(_NO_COMPLEXITY, stacklevel=2)
    engine: Engine
    if isinstance(config, Baseline):
        engine = BaselineEngine(model, config, found)
        if not engine.sites and config.kind != "none":
            warnings.warn(_UNSKIPPED, stacklevel=2)
    else:
        engine = DropoutEngine(model, config, found, complexity=0.5 if complexity is None else complexity)
    if inside == "replace":
        engine.take_over(one for one in found.own if isinstance(one, OwnDropout))
    return engine


def detach(model: nn.Module) -> None:
    """Remove all dropout of this package from a model, also if its engine was not kept or the model is a copy.

    An engine that still exists is detached as by its own ``detach()``. Of others the hooks on the model are removed;
    what else they have changed stays: the hooks of ``watch`` on an optimizer, and dropout layers of the model that
    ``inside="replace"`` has switched off.

    Args:
        model: a model with an engine, or a copy of one, such as ``copy.deepcopy`` or ``torch.load`` makes.

    Raises:
        ConfigError: if the model has no dropout of this package, or is no module.

    Example:
        >>> import copy, dropopt, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2))
        >>> engine = dropopt.attach(model, dropopt.EngineConfig(), example=torch.zeros(2, 1, 4, 4), complexity=0.5)
        >>> twin = copy.deepcopy(model)
        >>> dropopt.detach(twin)
        >>> len(twin[0]._forward_hooks), len(model[0]._forward_hooks)
        (0, 1)
    """
    _require("model", model, nn.Module, "a torch.nn.Module")
    found = [(module, key, site) for module in model.modules() for key, site in sites_at(module).items()]
    if not found:
        raise ConfigError(f"{type(model).__name__} has no dropout of dropopt to detach")
    for module, key, site in found:
        engine = site.seen.engine and site.seen.engine()
        if engine is not None:
            engine.detach()
        remove_hook(module, key)


def _check_arguments(model: object, config: object, example: Example, inside: object) -> None:
    _require("model", model, nn.Module, "a torch.nn.Module")
    _require(
        "config",
        config,
        EngineConfig | Baseline,
        "a dropopt.EngineConfig or dropopt.Baseline, such as dropopt.load(FILE).engine",
    )
    for part in parts(example).values() if isinstance(example, tuple | dict) else (example,):
        _require("example", part, Tensor, _TENSORS)
    if inside is not None and inside not in get_args(Inside):
        raise ConfigError(f"inside must be one of {', '.join(get_args(Inside))}, got {inside!r}")


def _check_own_dropout(model: nn.Module, own: list[OwnDropout | OwnFunction], inside: Inside | None) -> None:
    """Warn of dropout that the network has where the engine drops, or raise ConfigError, as ``inside`` says."""
    name = type(model).__name__
    functions = [one for one in own if isinstance(one, OwnFunction)]
    if functions and inside == "replace":
        raise ConfigError(
            f"inside='replace' can switch off dropout layers only, and {name} calls {functions[0]}: "
            "use a layer such as nn.Dropout there, or pass inside='keep' to apply both"
        )
    if not own or inside in ("keep", "replace"):
        return
    already = (
        f"{name} has dropout of its own where the engine drops: {listed(own)}. Pass inside='replace' "
        "to switch it off while the engine is attached, or inside='keep' to apply both"
    )
    if inside == "error":
        raise ConfigError(already)
    warnings.warn(already, stacklevel=3)


def _require(name: str, value: object, kind: type | UnionType, allowed: str) -> None:
    if not isinstance(value, kind):
        raise ConfigError(f"{name} must be {allowed}, got {type(value).__name__}")


def _refuse_taken(places: list[Place]) -> None:
    for place in places:
        if sites_at(place.module):
            raise ConfigError(
                f"module {place.name!r} already has dropout of dropopt: call engine.detach(), or dropopt.detach(model) "
                "if the engine was not kept or the model is a copy"
            )
