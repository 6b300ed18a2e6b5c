"""``module:function``: a person's own code, named in a setting.

Settings travel: they lie in files and in shared storages. So a name reaches only code that the person has
put on the import path, never the standard library or an installed package, where any function could be
called with any arguments.
"""

from __future__ import annotations

import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dropopt.config import ConfigError

_PACKAGE = Path(__file__).resolve().parent
#: Shipped studies are there to be used and copied; they may name their own functions.
_SHIPPED = _PACKAGE / "studies"
#: Where Python and dropopt lie, whose functions no setting may name.
_FOREIGN = {_PACKAGE, *(Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib"))}


def own_function(name: str) -> Callable[..., Any]:
    """What ``module:function`` names; raises :class:`ConfigError` when there is none, or it is not own code."""
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")) or not attribute.isidentifier():
        dash = " (a file whose functions are used has no dash in its name)" if "-" in module_name else ""
        raise ConfigError(f"{name!r} does not name a function; expected module:function{dash}")
    _add_current_folder()
    parts = module_name.split(".")
    for depth in range(1, len(parts) + 1):  # looking for a submodule runs its package: check that first
        _check_own(name, ".".join(parts[:depth]), last=depth == len(parts))
    with own_errors(name):
        module = import_module(module_name)
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ConfigError(f"{name}: module {module_name!r} has no function {attribute!r}")
    if not inspect.isroutine(function) and not inspect.isclass(function):
        raise ConfigError(f"{name}: {attribute!r} must be a function or a class, got a {type(function).__name__}")
    if function.__module__ != module.__name__:
        raise ConfigError(f"{name}: {attribute!r} must be defined in {module_name!r}, not imported there")
    found: Callable[..., Any] = function
    return found


@contextmanager
def own_errors(name: str) -> Iterator[None]:
    """What goes wrong in a person's own code becomes a :class:`ConfigError` of one line that tells where."""
    try:
        yield
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
        text = str(error)
        if isinstance(error, SyntaxError):
            places.append((str(error.filename), error.lineno))
            text = error.msg
        own = [f" ({file}, line {line})" for file, line in places if not _foreign(Path(file))]
        message = ": ".join([type(error).__name__, *text.splitlines()[:1]])
        raise ConfigError(f"{name} failed: {message}{own[-1] if own else ''}") from error


def call_with(function: Callable[..., Any], offers: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """Call ``function`` with ``options`` and those of ``offers`` that it has parameters for."""
    parameters = inspect.signature(function).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [key for key in options if key not in parameters]
    if unknown and not takes_all:
        raise ConfigError(f"unknown option {unknown[0]!r}; it takes: {', '.join(parameters) or 'no options'}")
    given = {key: value for key, value in offers.items() if takes_all or key in parameters} | dict(options)
    needed = [
        key for key, p in parameters.items() if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if lacking := [key for key in needed if key not in given]:
        raise ConfigError(f"needs {lacking[0]!r}; it is offered {', '.join(offers)}, give others as options")
    return function(**given)


def _add_current_folder() -> None:
    """A console script's import path lacks the current folder; last, so that it shadows nothing."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def _check_own(name: str, module_name: str, *, last: bool) -> None:
    try:
        spec = find_spec(module_name)
    except (ModuleNotFoundError, ValueError):
        spec = None
    if spec is None:
        raise ConfigError(f"{name}: there is no module {module_name!r} on the import path")
    places = [spec.origin] if spec.origin and spec.has_location else spec.submodule_search_locations or []
    paths = [Path(place).resolve() for place in places]
    if module_name == "dropopt" and not last:
        return
    if paths and all(path == _SHIPPED or _SHIPPED in path.parents for path in paths):
        return
    if not paths or any(map(_foreign, paths)) or module_name.split(".")[0] in sys.stdlib_module_names:
        pythons = module_name in sys.stdlib_module_names and Path(f"{module_name}.py").exists()
        remedy = "rename your file" if pythons else "name a function in a file of yours (it may call that)"
        raise ConfigError(f"{name}: {module_name!r} is not your own code; {remedy}")


def _foreign(path: Path) -> bool:
    """Whether a file belongs to Python, to dropopt or to an installed package."""
    return bool({"site-packages", "dist-packages"} & set(path.parts) or _FOREIGN & set(path.parents))
