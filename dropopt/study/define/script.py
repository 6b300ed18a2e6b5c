"""Loading the study that a script defines."""

from __future__ import annotations

from pathlib import Path

from dropopt.config import ConfigError
from dropopt.owncode import SCRIPT_PREFIX, load_file, make_importable, own_errors
from dropopt.study.define import shipped
from dropopt.study.define.definition import Definition


def load(name: str) -> tuple[Definition, Path]:
    """Load the study of a script.

    The script is executed under a module name that is not ``__main__``. Its folder is added to the import path, so that
    it can import the modules beside it. Unlike Python, which puts the folder of a script first, dropopt puts it last:
    installed packages have precedence.

    Args:
        name: The path of the script, or the name of a shipped study.

    Returns:
        The study, and the path of the script.

    Raises:
        ConfigError: There is no such script, it fails, or it does not define exactly one study.
    """
    path = shipped.find("studies", name).resolve()
    make_importable(path.parent)
    try:
        with own_errors("reading it"):
            module = load_file(SCRIPT_PREFIX + path.stem, path)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}{_as_module(path, error.__cause__)}") from error.__cause__
    studies = list({id(value): value for value in vars(module).values() if isinstance(value, Definition)}.values())
    if len(studies) != 1:
        raise ConfigError(f"{path} must define one Study (study = Study(...)), found {len(studies)}")
    return studies[0], path


def _as_module(path: Path, cause: BaseException | None) -> str:
    """What to type if the script is a module of a package and an import failed for that; empty otherwise."""
    if not isinstance(cause, ImportError) or not (path.parent / "__init__.py").is_file():
        return ""
    top = path.parent
    while (top.parent / "__init__.py").is_file():
        top = top.parent
    if "relative import" not in str(cause) and (cause.name or "").partition(".")[0] != top.name:
        return ""
    module = ".".join(path.with_suffix("").relative_to(top.parent).parts)
    return f"; it is a module of the package {top.name}: in {top.parent}, type python -m {module}"
