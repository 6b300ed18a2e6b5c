"""Errors as exit codes: an expected error is one line on standard error, without a traceback."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

#: Exit codes. A signal ends ``dropopt run`` with 128 + its number.
FAILED, BAD_INPUT, STOPPED = 1, 2, 130


def guard(work: Callable[[], Any]) -> NoReturn:
    """Run a command and exit with its code: 0, 1 if a study or a storage failed, 2 for bad input, 130 for Ctrl-C.

    Characters that standard output cannot encode, such as those in the name of a study, are printed as ``\\xfc``.
    """
    reencode(errors="backslashreplace")
    try:
        code = work()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # `dropopt status | head` is not an error
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    except Exception as error:
        expected = _expected(error)
        if expected is None:
            raise
        code, message = expected
        if message:
            from dropopt.study.store.url import redact_all

            print(f"dropopt: {redact_all(message)}", file=sys.stderr)
        sys.exit(code)
    sys.exit(code if isinstance(code, int) else 0)


def reencode(*, encoding: str | None = None, errors: str | None = None) -> None:
    """Change the encoding of standard output, or what happens to characters that it lacks; not of a notebook's."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=encoding, errors=errors)


def _expected(error: Exception) -> tuple[int, str] | None:
    """The exit code and the message after ``error``; None for a bug, whose traceback is printed."""
    from dropopt.config import ConfigError

    if isinstance(error, ConfigError):
        return (BAD_INPUT, " ".join(str(error).splitlines()))  # a file's name may contain line breaks
    if hasattr(error, "format_message"):
        return _usage(error)
    from dropopt.study.run.errors import StudyError
    from dropopt.study.store.errors import StorageError
    from dropopt.study.store.opening import is_storage_error
    from dropopt.study.store.url import reason

    if isinstance(error, StudyError | StorageError):
        return (FAILED, str(error))
    if is_storage_error(error):
        return (FAILED, f"the storage failed: {reason(error)}")
    if isinstance(error, OSError) and error.filename is not None:  # a name that is too long, a folder without access
        return (FAILED, f"{error.filename}: {error.strerror}")
    return None


def _usage(error: Any) -> tuple[int, str]:
    """The exit code and the message after an unknown option, a value of the wrong type or a missing command.

    These are errors of click. Depending on its version, typer uses the package click or a copy inside typer, so the
    errors are recognised by their methods and names.
    """
    if type(error).__name__ == "NoArgsIsHelpError" or not str(error.format_message()).strip():
        getattr(error, "show", lambda: None)()  # prints the help text
        return (BAD_INPUT, "")
    return (getattr(error, "exit_code", BAD_INPUT), f"{error.format_message()} (see --help)")
