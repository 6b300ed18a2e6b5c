"""The ``dropopt`` command.

Modules that take long to import are imported inside the commands, so that help is printed at once.
"""

from __future__ import annotations

from typing import NoReturn

import typer

from dropopt.study.command.compare import compare
from dropopt.study.command.confirm import confirm
from dropopt.study.command.dashboard import dashboard
from dropopt.study.command.efficacy import efficacy
from dropopt.study.command.errors import guard
from dropopt.study.command.export import export
from dropopt.study.command.run import run
from dropopt.study.command.status import status
from dropopt.study.command.train import train
from dropopt.study.command.worker import worker

app = typer.Typer(
    name="dropopt",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich's Markdown parser takes 0.15 s
    help="Hyperparameter studies of an adaptive dropout engine for PyTorch CNNs: which dropout, how much, where, when.",
)
for command in (run, worker, status, confirm, compare, export, efficacy, train, dashboard):
    app.command()(command)


def main() -> NoReturn:
    """Entry point of the ``dropopt`` command."""
    guard(lambda: app(standalone_mode=False))


if __name__ == "__main__":
    main()
