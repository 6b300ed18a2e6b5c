"""The ``dropopt`` command.

Modules that take long to import are imported inside the commands, so that help is printed at once.
"""

from __future__ import annotations

from typing import Annotated, NoReturn

import typer

import dropopt
from dropopt.study.command import options
from dropopt.study.command.compare import compare
from dropopt.study.command.confirm import confirm
from dropopt.study.command.dashboard import dashboard
from dropopt.study.command.efficacy import efficacy
from dropopt.study.command.errors import guard
from dropopt.study.command.export import export
from dropopt.study.command.predict import predict
from dropopt.study.command.report import report
from dropopt.study.command.resume_trial import resume_trial
from dropopt.study.command.run import run
from dropopt.study.command.status import status
from dropopt.study.command.storage_proxy import storage_proxy
from dropopt.study.command.train import train
from dropopt.study.command.worker import worker

app = typer.Typer(
    name="dropopt",
    no_args_is_help=True,
    context_settings=options.HELP,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich's Markdown parser takes 0.15 s
    help="Hyperparameter studies of an adaptive dropout engine for PyTorch CNNs: which dropout, how much, where, when.",
)
COMMANDS = (
    *(run, worker, resume_trial, status, efficacy, report, dashboard),
    *(confirm, compare, export, train, predict, storage_proxy),
)
for command in COMMANDS:
    app.command()(command)


def _print_version(given: bool) -> None:
    if given:
        print(f"dropopt {dropopt.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options before the command."""


def main() -> NoReturn:
    """Entry point of the ``dropopt`` command."""
    guard(lambda: app(standalone_mode=False))


if __name__ == "__main__":
    main()
