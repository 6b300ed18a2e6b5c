"""``python -m dropopt`` and the ``dropopt`` command.

Imports almost nothing, so that Ctrl-C ends the program quietly from nearly the first moment on.
"""

import os
import sys
from typing import NoReturn

from dropopt import interrupt


def current_folder() -> str:
    """Return the current folder; ends the program with one line if it was deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        print("dropopt: the current folder was deleted; change to another one, as in: cd ~", file=sys.stderr)
        sys.exit(2)


def forget_current_folder() -> None:
    """Remove the current folder from the import path, where ``python -m`` has put it first.

    Otherwise a file such as ``torch.py`` in it would be imported in place of the package. Does nothing if dropopt
    itself is imported from there.
    """
    here = current_folder()
    if not sys.flags.safe_path and sys.path[0] in ("", here) and os.path.dirname(os.path.dirname(__file__)) != here:
        del sys.path[0]


def main() -> NoReturn:
    """Entry point of the ``dropopt`` command."""
    interrupt.catch()
    current_folder()
    try:
        from dropopt.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(interrupt.STOPPED)
    finally:
        interrupt.ending()


if __name__ == "__main__":
    forget_current_folder()
    main()
