"""``python -m dropopt``: the ``dropopt`` command."""

import os
import sys


def forget_current_folder() -> None:
    """Remove the current folder from the import path, where ``python -m`` has put it first.

    Otherwise a file such as ``torch.py`` in it would be imported in place of the package. Does nothing if dropopt
    itself is imported from there.
    """
    here = os.getcwd()
    if not sys.flags.safe_path and sys.path[0] in ("", here) and os.path.dirname(os.path.dirname(__file__)) != here:
        del sys.path[0]


if __name__ == "__main__":
    forget_current_folder()
    from dropopt.cli import main

    main()
