"""The ``dropopt`` command.

Modules that take long to import are imported inside the commands, so that help is printed at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

import typer

from dropopt.study.command.dashboard import dashboard
from dropopt.study.command.efficacy import efficacy
from dropopt.study.command.errors import guard
from dropopt.study.command.export import export
from dropopt.study.command.run import run
from dropopt.study.command.status import status
from dropopt.study.command.train import train

app = typer.Typer(
    name="dropopt",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich's Markdown parser takes 0.15 s
    help="Hyperparameter studies of an adaptive dropout engine for PyTorch CNNs: which dropout, how much, where, when.",
)
for command in (run, status, export, efficacy, train, dashboard):
    app.command()(command)


def main() -> NoReturn:
    """Entry point of the ``dropopt`` command."""
    _demote_current_folder()
    guard(lambda: app(standalone_mode=False))


def _demote_current_folder() -> None:
    """Move the current folder to the end of the import path, where ``python -m dropopt`` has put it first.

    Otherwise a file such as ``torch.py`` in it would be imported in place of the package. Does nothing if
    ``PYTHONPATH`` puts the folder there, or if dropopt itself is imported from it.
    """
    here = os.getcwd()
    if sys.flags.safe_path or os.path.abspath(sys.path[0]) != here or str(Path(__file__).parents[1]) == here:
        return
    sys.path.append(sys.path.pop(0))


if __name__ == "__main__":
    main()
