"""``dropopt run``: the options of a study, and one line on standard error when something is wrong.

Nothing heavy is imported before it is needed: help answers at once.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from dropopt.study.command.errors import guard
from dropopt.study.command.options import Storage

if TYPE_CHECKING:
    from dropopt.study.define.definition import Definition


def run(
    context: typer.Context,
    study: Annotated[
        str | None, typer.Argument(help="A study's script, or the name of a shipped one: digits, ...")
    ] = None,
    storage: Storage = None,
    study_name: Annotated[str | None, typer.Option(help="Default: the study's own name.", show_default=False)] = None,
    n_trials: Annotated[
        int | None,
        typer.Option(
            help="Trials that the study shall have in all: completed, pruned or failed. The same line "
            "again goes on after an interruption; a larger number goes on after the end.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(help="Start no trial after so many seconds; those that run end.", show_default=False),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="auto (efficacy where a blend is searched, else tpe), efficacy, tpe, gp, cmaes, random.",
            show_default=False,
        ),
    ] = None,
    pruner: Annotated[
        str | None,
        typer.Option(
            help="median, forecast (of where a trial will end; stops most), percentile, hyperband, none.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="With one job, the same seed gives the same study.", show_default=False)
    ] = None,
    n_jobs: Annotated[
        int, typer.Option(help="Child processes that train, of one thread each; -1: one for each core.")
    ] = -1,
    space: Annotated[
        str | None,
        typer.Option(help="A search space's file, or a shipped one: compact, paper, ...", show_default=False),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="A data set's name, folder:PATH, numpy:FILE.npz or module:function.", show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="small, resnet9, vgg, torchvision:NAME, timm:NAME or module:function.", show_default=False),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of a trial.", show_default=False)] = None,
    subset: Annotated[
        int | None, typer.Option(help="Train on a stratified n of the training images.", show_default=False)
    ] = None,
    prior: Annotated[
        str | None,
        typer.Option(
            help="Start from what another study learned about the blend: STUDY, STUDY@STORAGE, or a file that "
            "dropopt efficacy wrote.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run a study, or go on with it."""
    from dropopt.config import ConfigError
    from dropopt.study.command import session
    from dropopt.study.define.script import load

    definition: Definition | None = context.obj
    if definition is not None:
        script, given = Path(sys.argv[0]).resolve(), sys.argv[0]
    elif study is None:
        from dropopt.study.define.shipped import names

        raise ConfigError(f"which study? give a script or one of: {', '.join(names('studies'))}")
    else:
        definition, script = load(study)
        given = study
    options = {
        "name": study_name,
        "n_trials": n_trials,
        "timeout": timeout,
        "sampler": sampler,
        "pruner": pruner,
        "seed": seed,
        "space": space,
        "data": data,
        "model": model,
        "epochs": epochs,
        "subset": subset,
        "prior": prior,
    }
    changed = session.override(definition, {name: value for name, value in options.items() if value is not None})
    again = ["dropopt", "run", given, *_same_experiment(options, storage)]
    code = session.run(changed, script, storage, n_jobs, shlex.join(again))
    if code:
        raise typer.Exit(code)


def run_script(study: Definition, arguments: Sequence[str] | None) -> NoReturn:
    """The same for a script's own ``main``: no argument names the study, the script is it."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(run)
    command: Any = typer.main.get_command(app)
    command.params = [parameter for parameter in command.params if parameter.name != "study"]
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    guard(lambda: command.main(args=arguments, obj=study, standalone_mode=False))


def _same_experiment(options: dict[str, Any], storage: str | None) -> list[str]:
    """The options that the same study needs again; a storage with a password is better left in a variable."""
    from dropopt.study.store.url import redact

    names = {"name": "study-name"} | {name: name for name in ("space", "data", "model", "epochs", "subset")}
    given = {option: options[name] for name, option in names.items() if options[name] is not None}
    again = [part for option, value in given.items() for part in (f"--{option}", str(value))]
    if storage is not None:
        again += ["--storage", redact(storage)]
    return again
