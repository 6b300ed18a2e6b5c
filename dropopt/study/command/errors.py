"""Errors as exit codes: one line on standard error, and no traceback for what was expected."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    pass


def guard(work: Callable[[], Any]) -> NoReturn:
    """Run a command and exit: 0, 1 for a study or storage that broke, 2 for bad input (one line each)."""
    try:
        code = work()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # `dropopt status | head` is no error
        sys.exit(0)
    except Exception as error:
        told = _explain(error)
        if told is None:
            raise
        message, code = told
        if message:
            print(f"dropopt: {message}", file=sys.stderr)
        sys.exit(code)
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: Exception) -> tuple[str, int] | None:
    """What to say about an expected error and the exit code; None for a bug, which shows its traceback."""
    from dropopt.config import ConfigError

    if isinstance(error, ConfigError):
        return " ".join(str(error).splitlines()), 2  # a file's name may hold a line's end
    if hasattr(error, "format_message"):  # typer: an unknown option, a value of the wrong type
        if not str(error.format_message()).strip() or type(error).__name__ == "NoArgsIsHelpError":
            getattr(error, "show", lambda: None)()
            return "", 2
        return f"{error.format_message()} (see --help)", getattr(error, "exit_code", 2)
    from dropopt.study.run.errors import StudyError
    from dropopt.study.store.opening import is_storage_error
    from dropopt.study.store.url import reason

    if isinstance(error, StudyError):
        return str(error), 1
    if is_storage_error(error):
        return f"the storage failed: {reason(error)}", 1
    return None
