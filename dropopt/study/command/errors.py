"""Errors as exit codes: an expected error is one line on standard error, without a traceback."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

#: Exit codes. A signal ends ``dropopt run`` with 128 + its number.
FAILED, BAD_INPUT, STOPPED = 1, 2, 130
#: The exit code if the reader of a pipe has gone: 128 + SIGPIPE, which Windows lacks.
OUTPUT_CLOSED = 128 + getattr(signal, "SIGPIPE", 13)

#: The errors of a disk, or a user's share of it, that is full.
DISK_FULL = tuple(getattr(errno, name) for name in ("ENOSPC", "EDQUOT") if hasattr(errno, name))


def guard(work: Callable[[], Any]) -> NoReturn:
    """Run a command and exit with its code: 0, 1 if a study or a storage failed, 2 for bad input, 130 for Ctrl-C.

    If nothing reads the output any more, as after ``dropopt status | head -1``, the code is that of SIGPIPE, 141, and
    nothing is printed. Characters that standard output cannot encode, such as those in the name of a study, are printed
    as ``\\xfc``.
    """
    reencode(errors="backslashreplace")
    try:
        code = work()
        print(end="", flush=True)  # what cannot be written is an error here, and not when the interpreter ends
    except (BrokenPipeError, SystemExit) as end:
        if isinstance(end, SystemExit) and not isinstance(end.__context__, BrokenPipeError):
            raise
        _discard_unwritten()  # rich and click turn the error into an exit with code 1
        sys.exit(OUTPUT_CLOSED)
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    except Exception as error:
        expected = _expected(error)
        if expected is None:
            raise
        _discard_unwritten()
        code, message = expected
        if message:
            from dropopt.formats import printable
            from dropopt.study.store.url import redact_all

            print(f"dropopt: {printable(redact_all(message))}", file=sys.stderr)
        sys.exit(code)
    sys.exit(code if isinstance(code, int) else 0)


def reencode(*, encoding: str | None = None, errors: str | None = None) -> None:
    """Change the encoding of standard output, or what happens to characters that it lacks; not of a notebook's."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=encoding, errors=errors)


def _discard_unwritten() -> None:
    """Discard output that cannot be written: the interpreter would try once more when it ends, and print the error."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


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
    if isinstance(error, OSError) and error.errno in DISK_FULL:  # standard output is a file
        return (FAILED, f"the output cannot be written: {error.strerror}")
    if _none_left(error):
        return (FAILED, "the system allows no further process or thread; raise the limit that ulimit -u shows")
    return None


def _none_left(error: Exception) -> bool:
    """Whether Python could not start a thread, or fork a process. Output that would block has another text."""
    if isinstance(error, BlockingIOError):
        return error.strerror == os.strerror(errno.EAGAIN)
    return isinstance(error, RuntimeError) and str(error) == "can't start new thread"


def _usage(error: Any) -> tuple[int, str]:
    """The exit code and the message after an unknown option, a value of the wrong type or a missing command.

    These are errors of click. Depending on its version, typer uses the package click or a copy inside typer, so the
    errors are recognised by their methods and names.
    """
    if type(error).__name__ == "NoArgsIsHelpError" or not str(error.format_message()).strip():
        getattr(error, "show", lambda: None)()  # prints the help text
        return (BAD_INPUT, "")
    found: list[Any] = getattr(error.__cause__, "errors", list)()  # of pydantic, by which new versions of typer check
    given = f", got {found[0]['input']!r}" if found else ""
    return (getattr(error, "exit_code", BAD_INPUT), f"{error.format_message()}{given} (see --help)")
