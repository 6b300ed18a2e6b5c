"""The ``dropopt`` command. Each command imports what it needs when it runs, so that help answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from dropopt.study.command import Storage, guard, run

app = typer.Typer(
    name="dropopt",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's Markdown parser would take help 0.15 s
    help="Which dropout, how much, where, when: studies of an adaptive dropout engine for PyTorch CNNs.",
)

StudyName = Annotated[
    str | None,
    typer.Option("--study", "--study-name", help="Default: the only study in the storage.", show_default=False),
]

app.command()(run)


@app.command()
def status(storage: Storage = None) -> None:
    """List the studies: trials, best value, last activity."""
    from contextlib import closing

    from dropopt.study import report
    from dropopt.study.progress import make_console
    from dropopt.study.storage import Opened, redact, resolve

    url = resolve(storage)
    with closing(Opened(url, create=False)) as opened:
        report.status(make_console(), opened.storage, redact(url))


@app.command()
def export(
    study: StudyName = None,
    trial: Annotated[int | None, typer.Option(help="Default: the best trial.", show_default=False)] = None,
    format: Annotated[
        str | None,
        typer.Option(help="yaml, json or toml. Default: by the file's name.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: best.FORMAT.", show_default=False)
    ] = None,
    storage: Storage = None,
) -> None:
    """Write a trial's configuration to a file.

    All of its settings, and where they come from.
    """
    from dropopt.study.report import export_trial
    from dropopt.study.storage import resolve

    export_trial(resolve(storage), study, trial, format, output)


@app.command()
def efficacy(
    study: StudyName = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write what was learned here, for --prior of a new study.", show_default=False
        ),
    ] = None,
    storage: Storage = None,
) -> None:
    """Tell which method works, and how sure that is.

    Each method's effect and each pair's synergy with 90% intervals, and the blend now preferred.
    """
    from dropopt.study.report import efficacy
    from dropopt.study.storage import resolve

    efficacy(resolve(storage), study, output)


@app.command()
def train(
    file: Annotated[Path, typer.Argument(help="A configuration: best.yaml, as written by dropopt export.")],
    epochs: Annotated[int | None, typer.Option(help="Default: as in the file.", show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(help="Default: as in the file.", show_default=False)] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, ... Default: as in the file.", show_default=False)
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="1, as in a study, repeats the trial exactly.")] = 1,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the network's weights (state_dict) here.", show_default=False),
    ] = None,
) -> None:
    """Train with a configuration file.

    Reports validation accuracy and, once, test accuracy.
    """
    from dropopt.study.retrain import retrain

    options = {"epochs": epochs, "seed": seed, "device": device}
    retrain(file, {name: value for name, value in options.items() if value is not None}, output, threads)


@app.command()
def dashboard(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8080,
    storage: Storage = None,
) -> None:
    """Open the studies in optuna-dashboard, on this machine only."""
    from dropopt.study.dashboard import serve
    from dropopt.study.storage import resolve

    serve(resolve(storage), port)


def main() -> NoReturn:
    """Entry point of the ``dropopt`` command."""
    guard(lambda: app(standalone_mode=False))
