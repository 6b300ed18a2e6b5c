"""Ctrl-C before a command has begun, and while Python imports modules."""

from __future__ import annotations

import os
import signal
from types import FrameType

#: The exit code after Ctrl-C.
STOPPED = 128 + signal.SIGINT


def end_quietly(number: int, frame: FrameType | None) -> None:
    """Handle SIGINT: raise KeyboardInterrupt, or end the process at once during an import.

    A module written in C may turn an exception in its import into another one, and Python prints, and then ignores, one
    that arrives in a callback of the import. No study runs yet, so nothing is lost.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(STOPPED)
        frame = frame.f_back
    raise KeyboardInterrupt


def catch() -> None:
    """Handle SIGINT with :func:`end_quietly`, unless it is ignored, as it is in the background of a script."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end_quietly)


def ending() -> None:
    """Let SIGINT end the process while the interpreter ends; a second one prints no traceback."""
    if signal.getsignal(signal.SIGINT) is end_quietly:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
