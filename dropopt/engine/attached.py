"""Attached: the base class of engines, which adds hooks to a model and removes them."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from dropopt.config import ConfigError
from dropopt.engine.places.find import Survey
from dropopt.engine.places.inside import OwnDropout
from dropopt.engine.places.layers import is_adapted
from dropopt.engine.places.place import Place
from dropopt.modules import in_sampling_mode
from dropopt.numbers import listed

#: What to do instead of a step after :meth:`Attached.detach`, from which on training is without dropout.
ATTACH_AGAIN = (
    "to train on with it, call dropopt.attach(model, ...) again and load the state_dict() from before; to train on "
    "without it, leave out step"
)


class Seen:
    """In which modes the module of a place ran since the last step.

    Compiled code is not seen: it would have to be compiled again for each change.
    """

    def __init__(self) -> None:
        #: The engine that has the place; None in a copy of the model alone.
        self.engine: weakref.ref[Attached[Any]] | None = None
        #: Whether the module ran in training mode, and whether it ran in eval mode while the model was training.
        self.ran_in_training = self.stayed_in_eval = False

    def note(self, module: nn.Module) -> bool:
        """Return whether ``module`` trains, and remember it.

        Layers that a conversion to quantized weights has made, with the hooks of the layers before, do not train,
        although they are created in training mode.
        """
        if not torch.compiler.is_compiling():
            if module.training:
                if not self.ran_in_training:  # asked until its first pass after a step
                    if _is_converted(type(module)):
                        return False
                    _warn_of_backward_hooks(module)
                self.ran_in_training = True
            elif self.engine is not None and (engine := self.engine()) is not None and engine.model.training:
                self.stayed_in_eval = True
        return module.training

    def __getstate__(self) -> dict[str, Any]:
        # A weak reference cannot be pickled, and the modules of a copy may be of another kind.
        return {**self.__dict__, "engine": None, "ran_in_training": False}


class Site(Protocol):
    """The part of an engine that drops features at one place."""

    seen: Seen
    sampling: bool

    def hook(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """Forward hook of the place's module."""


S = TypeVar("S", bound=Site)


class Attached(Generic[S]):
    """A context manager that holds one hook per site and removes them on exit, also after an exception.

    Attributes:
        model: the model that has the hooks.
        places: what is known about the module of each place, by the module's name.
        sites: the part that drops, by the module's name.
    """

    def __init__(self, model: nn.Module, found: Survey) -> None:
        self.model = model
        self.places = {place.name: place for place in found.places}
        self.sites: dict[str, S] = {}
        self._handles: list[RemovableHandle] = []
        self._replaced: list[OwnDropout] = []
        #: Dropout of the model itself at the places.
        self.own = tuple(found.own)
        #: Parts of the model that did not run on the example, so that they have no places.
        self.unrun = tuple(found.unrun)
        #: Parts that run several times in one forward pass, so that nothing in them is a place.
        self.shared = tuple(found.shared)
        #: How often parameters had been changed in place by the last step with progress 0, or by now; None after a step
        #: with other progress, and in a copy.
        self._changes_at_start: int | None = _changes(model)

    def _add(self, place: Place, site: S) -> None:
        self.sites[place.name] = site
        site.seen.engine = weakref.ref(self)
        self._handles.append(place.module.register_forward_hook(site.hook))
        place.module.__dict__["__prepare_scriptable__"] = refuse_script  # torch.jit.script calls it

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Of a copy or a pickle, which has a model of its own.
        self.__dict__.update(state)
        for site in self.sites.values():
            site.seen.engine = weakref.ref(self)
        self._changes_at_start = None  # a copy of a parameter counts from 0, and the model may not be complete yet

    def _require_attached(self, advice: str) -> None:
        """Check that the model has the dropout.

        Raises:
            ConfigError: after :meth:`detach`, with ``advice``, or if a site is no longer in the model.
        """
        if self.sites and not self._handles:
            raise ConfigError(f"detach() has removed the dropout: {advice}")
        self._require_hooks()

    def _require_hooks(self) -> None:
        """Check that every site is still in the model: code that replaces a module drops the module's hooks.

        If a hook was copied to another module of the model, as torch's fusion does, the place follows it.

        Raises:
            ConfigError: if a site is no longer in the model.
        """
        for name, site in self.sites.items() if self._handles else ():
            place, module = self.places[name], _module_at(self.model, name)
            if module is None or site not in sites_at(module).values():
                holder = next((part for part in self.model.modules() if site in sites_at(part).values()), None)
                if holder is None or (module is not None and _adds_to(module, holder)):
                    raise ConfigError(_lost(place, module))
                module = holder
            if module is not place.module:
                self.places[name] = _moved(place, module)

    def _has_trained(self) -> bool:
        """Whether any place has run in training mode since the last step."""
        return any(site.seen.ran_in_training for site in self.sites.values())

    def _warn_if_behind(self, progress: float) -> None:
        """Warn if ``progress``, in [0, 1], is 0 although the model has been trained since the last step."""
        before, self._changes_at_start = self._changes_at_start, _changes(self.model) if progress == 0 else None
        if progress > 0 or not self._has_trained():
            return
        # A pass in training mode alone may be a warm-up. After training, weights have changed or gradients are left.
        if before not in (None, self._changes_at_start) or any(p.grad is not None for p in _leaves(self.model)):
            warnings.warn(
                "epoch=0 after training: epoch is the number of completed epochs, so give 1 after the first one "
                "(epoch + 1 in a loop that counts from 0)",
                stacklevel=3,
            )

    def _warn_if_idle(self) -> None:
        """Warn of places whose modules stayed in eval mode in every pass of the model in training mode."""
        seen = {name: site.seen for name, site in self.sites.items()}
        idle = [repr(name) for name, one in seen.items() if one.stayed_in_eval and not one.ran_in_training]
        for one in seen.values():
            one.ran_in_training = one.stayed_in_eval = False
        if idle:
            warnings.warn(
                f"nothing was dropped at {listed(idle)} since the last step, because the module stayed in eval mode "
                "in training: choose other sites (such as 'conv'), put it into training mode, or attach to the part of "
                "the model that is trained",
                stacklevel=3,
            )

    def take_over(self, layers: Iterable[OwnDropout]) -> None:
        """Switch off dropout layers of the model until :meth:`detach`."""
        for layer in layers:
            setattr(layer.module, layer.attribute, 0.0)
            self._replaced.append(layer)

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Return a context of Monte Carlo dropout: dropout is active, and all else of the model is in eval mode.

        Features are dropped at the current rates, also by dropout layers of the model itself, and nothing is scored.
        The modes of all modules are restored at the end.

        Raises:
            ConfigError: after :meth:`detach`, or if the module of a site was replaced after attaching.

        Example:
            >>> import dropopt, torch
            >>> from torch import nn
            >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2))
            >>> images = torch.ones(2, 1, 4, 4)
            >>> engine = dropopt.attach(model, dropopt.Baseline(kind="dropout", p=0.5), example=images)
            >>> with torch.no_grad(), engine.sampling():
            ...     draws = torch.stack([model(images).softmax(1) for _ in range(20)])
            >>> bool(draws.std(0).min() > 0)
            True
        """
        self._require_attached("draw samples before it")
        before = [(site, site.sampling) for site in self.sites.values()]
        with in_sampling_mode(self.model):
            for site, _ in before:
                site.sampling = True
            try:
                yield
            finally:
                for site, sampled in before:
                    site.sampling = sampled

    def _model_lines(self) -> list[str]:
        """The lines of a summary about the model's own dropout at the places, and about its parts without places."""
        lines = []
        if self.own:
            state = "switched off until detach()" if self._replaced else "which drops as well"
            lines.append(f"dropout of the network itself at these places: {', '.join(map(str, self.own))}, {state}")
        if self.unrun:
            lines.append(f"nothing is dropped in {listed(self.unrun)}: not run on the example in eval mode")
        if self.shared:
            lines.append(f"nothing is dropped in {listed(self.shared)}: run several times in one forward pass")
        return lines

    def detach(self) -> None:
        """Remove every hook, which leaves the model as it was."""
        for layer in self._replaced:
            setattr(layer.module, layer.attribute, layer.p)
        self._replaced.clear()
        for handle in self._handles:
            handle.remove()
        for place in self.places.values():
            place.module.__dict__.pop("__prepare_scriptable__", None)
        if self._handles:  # this includes hooks that were copied to other modules
            for module in self.model.modules():
                for key, site in sites_at(module).items():
                    if site in self.sites.values():
                        remove_hook(module, key)
        self._handles.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()


def _changes(model: nn.Module) -> int:
    """Return how often parameters have changed in place so far. Those of inference mode do not count it."""
    return sum(p._version for p in _leaves(model) if not p.is_inference())


def _leaves(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that a step can change: no results, and none of lazy layers, which have no values yet."""
    return [p for p in model.parameters() if not is_lazy(p) and p.is_leaf]


def sites_at(module: nn.Module) -> dict[int, Any]:
    """Return the sites of any engine whose forward hooks ``module`` has, by the key of the hook."""
    owners = {key: getattr(hook, "__self__", None) for key, hook in module._forward_hooks.items()}
    return {key: owner for key, owner in owners.items() if isinstance(getattr(owner, "seen", None), Seen)}


def remove_hook(module: nn.Module, key: int) -> None:
    """Remove the hook of a site from ``module``, which torch.jit.script may compile afterwards."""
    module._forward_hooks.pop(key, None)
    module.__dict__.pop("__prepare_scriptable__", None)


def _is_converted(kind: type) -> bool:
    """Whether a type of layer holds quantized weights, and so is for inference only."""
    packages = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")
    return any(base.__module__.startswith(packages) for base in kind.__mro__)


def _warn_of_backward_hooks(module: nn.Module) -> None:
    """Warn if a hook of a layer with weights sees another gradient than that of the layer's own output."""
    if module._backward_hooks and next(module.parameters(recurse=False), None) is not None:
        warnings.warn(
            f"a backward hook of module {type(module).__name__} sees the gradient after the dropout: gradients of "
            "samples that are computed from it, as by Opacus, are wrong for the weights of this layer; choose sites "
            "without weights of their own, such as 'block' or lambda name, module: isinstance(module, nn.ReLU)",
            stacklevel=2,
        )


def refuse_script() -> None:
    """Raise ConfigError, because TorchScript cannot compile a site's hook."""
    raise ConfigError("torch.jit.script cannot compile attached dropout: call engine.detach() before scripting")


def _module_at(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def _adds_to(module: nn.Module, holder: nn.Module) -> bool:
    """Whether ``module`` has ``holder`` inside and adds to its features, as an adapter does, after the dropout."""
    return is_adapted(module) and any(part is holder for part in module.modules() if part is not module)


def _moved(place: Place, module: nn.Module) -> Place:
    """Return ``place`` with ``module`` instead of its module."""
    weighted, makers = (
        tuple(module if layer is place.module else layer for layer in layers)
        for layers in (place.weighted, place.makers)
    )
    return replace(place, module=module, weighted=weighted, makers=makers)


def _lost(place: Place, module: nn.Module | None) -> str:
    old = type(place.module).__name__
    if module is None:
        fault = f"module {place.name!r} ({old}) was removed"
    elif module is place.module:
        fault = f"the forward hooks of module {place.name!r} ({old}) were removed"
    else:
        fault = f"module {place.name!r} ({old}) was replaced by a new {type(module).__name__}"
    return (
        f"{fault} after attaching, so its dropout is gone: change the model first, then call dropopt.attach(model, ...)"
    )
