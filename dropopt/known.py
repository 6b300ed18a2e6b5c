"""The names that settings know of data sets and networks. Nothing that takes long to import is imported."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from dropopt.config import ConfigError, RunConfig
from dropopt.explain import no_data, suggestion
from dropopt.owncode import file_of, is_own, module_of

#: Built-in data sets.
DATA = ("digits", "mnist", "fashion-mnist", "kmnist", "cifar10", "cifar100", "svhn")
#: Kinds of data whose name is a path.
PLACES = ("folder:", "numpy:")
#: Networks that need no library.
NETWORKS = ("small", "resnet9", "vgg")
#: Packages whose networks have names.
LIBRARIES = ("torchvision", "timm")


def check_names(run: RunConfig) -> None:
    """Check that the data and the network of ``run`` exist, before a process that trains finds out.

    What takes long, such as building the network, is not done.

    Raises:
        ConfigError: There is no such data set, folder, file, network or module.
    """
    for name in dict.fromkeys(run.names):
        if is_own(name) and module_of(name).isidentifier() and file_of(module_of(name)) is None:
            raise ConfigError(f"{name}: there is no module {module_of(name)!r} on the import path")
    if not is_own(run.data.name):
        _check_data(run.data.name)
    if not is_own(run.model.name):
        _check_network(run.model.name)


def may_be_moved(name: str, to: str) -> bool:
    """Whether ``name`` and ``to`` may be the same data at two places: both are folders, or both are NumPy files."""
    return any(name.startswith(kind) and to.startswith(kind) for kind in PLACES)


def unknown_data(name: str) -> ConfigError:
    """The error for a data set that does not exist."""
    return ConfigError(
        f"data.name {name!r} is unknown; "
        f"{suggestion(name, [*DATA, 'folder:PATH', 'numpy:FILE.npz', 'module:function'])}"
    )


def unknown_network(name: str) -> ConfigError:
    """The error for a network that does not exist, with the networks of a library that may be meant."""
    known = [*NETWORKS, "torchvision:NAME", "timm:NAME", "module:function"]
    meant = elsewhere(name, NETWORKS)
    hint = f"did you mean {' or '.join(meant)}? known: {', '.join(known)}" if meant else suggestion(name, known)
    return ConfigError(f"model.name {name!r} is unknown; {hint}")


def close_matches(name: str, known: Sequence[str]) -> str:
    """``; did you mean ...?`` with up to three similar names, or an empty string."""
    near = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def elsewhere(name: str, here: Sequence[str]) -> list[str]:
    """The networks of torchvision and timm that ``name``, without the library's name, may mean.

    Args:
        name: The name that was given.
        here: Names that need no library; if one of them is closer to ``name``, the result is empty.

    Returns:
        ``torchvision:NAME`` and ``timm:NAME`` where they have that name; else the closest name, if there is one.
    """
    folded = name.casefold()
    if exact := [f"{library}:{folded}" for library in LIBRARIES if folded in library_networks(library)]:
        return exact
    names = {one: f"{library}:{one}" for library in reversed(LIBRARIES) for one in library_networks(library)}
    near = difflib.get_close_matches(folded, [*here, *names], n=1)
    return [names[near[0]]] if near and near[0] not in here else []


@cache
def library_networks(library: str) -> frozenset[str]:
    """The networks that an installed library registers, read from its source; empty if it is not installed."""
    spec = find_spec(library)
    places = spec.submodule_search_locations if spec is not None else None
    names = set()
    for path in Path(places[0], "models").glob("*.py") if places else ():
        for piece in path.read_text(encoding="utf-8").split("@register_model")[1:]:
            if function := re.search(r"^def (\w+)\(", piece, re.MULTILINE):
                names.add(function[1])
    return frozenset(names)


def _check_data(name: str) -> None:
    kind, colon, place = name.partition(":")
    if kind == "folder" and place and not Path(place).expanduser().is_dir():
        raise ConfigError(no_data(Path(place), "folder"))
    if kind == "numpy" and place and not Path(place).expanduser().is_file():
        raise ConfigError(no_data(Path(place), "file"))
    if not colon and name not in DATA and not Path(name).exists():
        raise unknown_data(name)


def _check_network(name: str) -> None:
    library, colon, network = name.partition(":")
    if not colon and name not in NETWORKS:
        raise unknown_network(name)
    known = library_networks(library) if library in LIBRARIES else frozenset()
    if known and network.split(".")[0] not in known and "/" not in network:  # timm also takes tags and addresses
        raise ConfigError(f"model {name}: {library} has no such classifier{close_matches(network, sorted(known))}")
