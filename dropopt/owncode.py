"""The user's own code: functions that settings name as ``module:function``, and where they are imported from.

Settings are stored in files and in shared storages, so they may come from someone else. A name in a setting can
therefore refer only to modules that the user has put on the import path or has named on the command line (see
:mod:`dropopt.trust`). It cannot refer to the standard library or to an installed package, where any function could be
called with any arguments. A file of the user never shadows an installed package.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from dropopt.config import ConfigError

_PACKAGE = Path(__file__).resolve().parent
#: Shipped studies are meant to be used and copied, so their functions may be named.
_SHIPPED = _PACKAGE / "studies"
#: The folders of Python and of dropopt, whose functions no setting may name.
_FOREIGN = {_PACKAGE, *(Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib"))}

#: The prefix of the module name under which a study's script is executed; the name of its file follows.
SCRIPT_PREFIX = "dropopt_study_"

#: The environment variable in which child processes receive the files of modules, as JSON.
VARIABLE = "DROPOPT_CODE"

#: Before the colon of a setting, these names are kinds of data and networks, not modules.
_KINDS = ("folder", "numpy", "torchvision", "timm")

#: The files of those modules that are imported from a certain file: scripts of studies, and code that the user named.
_files: dict[str, Path] = {module: Path(file) for module, file in json.loads(os.environ.get(VARIABLE, "{}")).items()}


def shipped_folder(kind: str) -> Path:
    """Return the folder of the shipped ``studies`` or ``search_spaces``.

    It is inside the package in an installed wheel, and beside the package in a source tree.
    """
    inside = _PACKAGE / kind
    return inside if inside.is_dir() else _PACKAGE.parent / kind


def is_own(name: str) -> bool:
    """Whether a setting has the form ``module:function``."""
    kind, colon, _ = name.partition(":")
    return bool(colon) and kind not in _KINDS


def module_of(name: str) -> str:
    """The module in ``module:function``."""
    return name.rpartition(":")[0]


def make_importable(folder: Path) -> None:
    """Add ``folder`` to the end of the import path, which child processes inherit; does nothing if it is there.

    The folder comes last, so that a file such as ``torch.py`` in it does not take the place of an installed package.
    The console script ``dropopt`` puts neither the current folder nor the script's on the import path. Without them,
    ``module:function`` could not name a file that lies in one of them.
    """
    if os.path.abspath(folder) not in map(os.path.abspath, sys.path):
        sys.path.append(os.path.abspath(folder))


def use_file(module: str, file: Path) -> None:
    """Import ``module`` from ``file`` in this process and its children, even if another module has that name.

    The folder from which the file would be imported becomes importable, for the modules beside it.
    """
    _files[module] = file
    depth = 0 if file.stem == module else module.count(".")
    make_importable(file.parents[depth + (file.name == "__init__.py")])


def for_children() -> dict[str, str]:
    """The environment variables with which a child process imports the same code as this process."""
    paths = [os.path.abspath(path) for path in sys.path]
    return {
        "PYTHONPATH": os.pathsep.join(paths),
        VARIABLE: json.dumps({module: str(file) for module, file in _files.items()}),
    }


def adopt(variables: Mapping[str, str]) -> None:
    """Import in this process, and its children, the code that another process passes on with :func:`for_children`.

    The paths must exist on this machine too. They come after this process's own.
    """
    for path in filter(None, variables["PYTHONPATH"].split(os.pathsep)):
        make_importable(Path(path))
    _files.update({module: Path(file) for module, file in json.loads(variables[VARIABLE]).items()})


def file_of(module: str) -> Path | None:
    """The file from which ``module`` would be imported; None if there is none."""
    if module in _files:
        return _files[module]
    spec = _find(module)
    return Path(spec.origin) if spec is not None and spec.origin and spec.has_location else None


def name_of(function: Callable[..., Any], where: str) -> str:
    """Return the name ``module:function`` of a function or class.

    Args:
        function: The function or class.
        where: The setting, for messages.

    Raises:
        ConfigError: A child process could not import it by that name.
    """
    name = getattr(function, "__qualname__", "")
    if not name.isidentifier():
        given = f"{name}" if name else f"an object of class {type(function).__name__}"
        raise ConfigError(f"{where} must be a function or a class at the top level of a file, got {given}")
    module = function.__module__
    if module == "__main__" or module.startswith(SCRIPT_PREFIX):
        main = sys.modules.get(module)
        file = getattr(main, "__file__", None)
        if file is None:
            how = f"in a notebook, begin its cell with %%writefile own.py, and type below: from own import {name}"
            raise ConfigError(f"{where}: put {name!r} in a file, from which child processes can import it; {how}")
        spec = getattr(main, "__spec__", None) if module == "__main__" else None  # python -m package.script
        module = Path(file).stem if spec is None else spec.name
        if module in _KINDS:
            raise ConfigError(f"{where}: rename {file}: {module}:NAME in a setting is not a function of a script")
        use_file(module, Path(file).resolve())
    return f"{module}:{name}"


def own_function(name: str) -> Callable[..., Any]:
    """Return the function or class that ``module:function`` names.

    Raises:
        ConfigError: There is no such function, or it is not the user's own code.
    """
    module_name, _, attribute = name.rpartition(":")
    known = module_name in _files or all(part.isidentifier() for part in module_name.split("."))
    if not known or not attribute.isidentifier():
        dash = " (the name of the file must not contain a dash)" if "-" in module_name else ""
        raise ConfigError(f"{name!r} does not name a function; expected module:function{dash}")
    if module_name in _files:
        module = _from_file(name, module_name, _files[module_name])
    else:
        parts = module_name.split(".")
        for depth in range(1, len(parts) + 1):  # finding a submodule imports its package, so check that first
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


def load_file(module_name: str, file: Path) -> ModuleType:
    """Execute ``file`` as the module ``module_name``.

    Raises:
        ConfigError: The file is not a Python script.
    """
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file} is not a Python script")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


@contextmanager
def own_errors(name: str) -> Iterator[None]:
    """Turn an error in the user's code into a :class:`ConfigError` of one line, with the file and the line."""
    try:
        yield
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
        text = message_of(error)
        if isinstance(error, SyntaxError):
            places.append((str(error.filename), error.lineno))
            text = error.msg
        own = [f" ({file}, line {line})" for file, line in places if not _foreign(Path(file))]
        message = ": ".join([type(error).__name__, *text.splitlines()[:1]])
        advice = "; it must not end the program, as argparse does" if isinstance(error, SystemExit) else ""
        raise ConfigError(f"{name} failed: {message}{own[-1] if own else ''}{advice}") from error


def message_of(error: BaseException) -> str:
    """Return the message of an error, also of one whose own ``__str__`` fails."""
    try:
        return str(error)
    except Exception as failed:
        return f"its message cannot be shown, because __str__ raised {type(failed).__name__}"


def call_with(function: Callable[..., Any], offers: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """Call ``function`` with ``options``, and with those of ``offers`` for which it has a parameter.

    Raises:
        ConfigError: It has no parameter for an option, or a parameter without a value.
    """
    parameters = inspect.signature(function).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [key for key in options if key not in parameters]
    if unknown and not takes_all:
        raise ConfigError(f"unknown option {unknown[0]!r}; it takes: {', '.join(parameters) or 'no options'}")
    given = {key: value for key, value in offers.items() if takes_all or key in parameters} | dict(options)
    required = [
        key for key, p in parameters.items() if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if missing := [key for key in required if key not in given]:
        raise ConfigError(f"needs {missing[0]!r}; available are {', '.join(offers)}; give other arguments as options")
    return function(**given)


def _from_file(name: str, module_name: str, file: Path) -> ModuleType:
    """Import a module from ``file``: under its own name if the import path leads there, else under another name."""
    private = SCRIPT_PREFIX + module_name
    for loaded in (module_name, private):
        if loaded in sys.modules and _is_from(getattr(sys.modules[loaded], "__file__", None), file):
            return sys.modules[loaded]
    spec = _find(module_name)
    found = spec.origin if spec is not None else None
    with own_errors(name):
        if _is_from(found, file):
            return import_module(module_name)
        if file.name == "__init__.py" or ("." in module_name and file.stem != module_name):
            raise ConfigError(f"{name}: {module_name!r} is {found or 'not found'}, not {file}; rename the package")
        return load_file(private, file)


def _is_from(place: str | None, file: Path) -> bool:
    return place is not None and Path(place).resolve() == file.resolve()


def _find(module_name: str) -> ModuleSpec | None:
    """Return the spec of ``module_name``; None if there is none. Imports the packages that contain it."""
    try:
        return find_spec(module_name)
    except (ImportError, ValueError, AttributeError):
        return None


def _check_own(name: str, module_name: str, *, last: bool) -> None:
    """Check that a module, or a package that contains it, is the user's own code, without importing it."""
    spec = _find(module_name)
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
        remedy = "rename your file" if pythons else "name a function in a file of your own, which may call that one"
        raise ConfigError(f"{name}: {module_name!r} is not your own code; {remedy}")


def _foreign(path: Path) -> bool:
    """Whether a file belongs to Python, to dropopt or to an installed package."""
    return bool({"site-packages", "dist-packages"} & set(path.parts) or _FOREIGN & set(path.parents))
