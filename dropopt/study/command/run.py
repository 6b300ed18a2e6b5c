"""``dropopt run``, and the commands that a script runs for its own study.

Modules that take long to import are imported inside functions, so that help is printed at once.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from dropopt.study.command import options
from dropopt.study.command.errors import guard
from dropopt.study.store.lease import GRACE
from dropopt.study.store.patient import PATIENCE

if TYPE_CHECKING:
    from dropopt.study.define.definition import Definition
    from dropopt.study.run.cluster import Cluster


def run(
    context: typer.Context,
    study: options.StudyScript = None,
    storage: options.Storage = None,
    name: options.NewStudyName = None,
    n_trials: options.NTrials = None,
    timeout: options.Timeout = None,
    trial_timeout: options.TrialTimeout = None,
    trial_memory: options.TrialMemory = None,
    checkpoints: options.Checkpoints = None,
    keep_checkpoints: options.KeepCheckpoints = None,
    artifacts: options.Artifacts = None,
    sampler: options.Sampler = None,
    pruner: options.Pruner = None,
    seed: options.Seed = None,
    n_jobs: options.NJobs = -1,
    space: options.Space = None,
    data: options.Data = None,
    model: options.Model = None,
    epochs: options.Epochs = None,
    subset: options.Subset = None,
    image_size: options.ImageSize = None,
    batch_size: options.BatchSize = None,
    device: options.RunDevice = None,
    set: options.Set = None,
    optimise: options.Optimise = None,
    prior: options.Prior = None,
    anchors: options.Anchors = None,
    portfolio: options.Portfolio = None,
    on: options.On = options.Place.HERE,
    ray_address: options.RayAddress = None,
    cpus_per_trial: options.CpusPerTrial = None,
    gpus_per_trial: options.GpusPerTrial = None,
    storage_patience: options.StoragePatience = PATIENCE,
    grace: options.Grace = GRACE,
    reclaim: options.Reclaim = False,
    quiet: options.Quiet = False,
) -> int:
    """Run a study, or resume it.

    Running the same command again resumes an interrupted study; a larger --n-trials extends a finished one.
    """
    from dropopt.known import check_names
    from dropopt.owncode import file_of, make_importable
    from dropopt.study.command.overrides import Overrides
    from dropopt.study.search.portfolio import load_portfolio
    from dropopt.study.session import session
    from dropopt.study.session.request import Request
    from dropopt.study.store.url import storage_hint
    from dropopt.trust import own_modules, remember, sources

    cluster, where = _cluster(on, ray_address, cpus_per_trial, gpus_per_trial)
    definition, script, command = _find(context.obj, study)
    overrides = Overrides.of(context.params)
    overridden = overrides.apply(definition)
    searched = overridden.load_space(script.parent)
    overrides.check(searched)
    names = overridden.names
    if any(file_of(module) is None for module in own_modules(names)):
        make_importable(Path.cwd())  # --data and --model may name functions of modules that lie here
    check_names(overridden.base(searched))
    if portfolio is not None:
        load_portfolio(portfolio, script.parent)  # also for a study that exists, where it has no effect
    remember(sources(names).values())
    jobs = [] if n_jobs == -1 else ["--n-jobs", str(n_jobs)]
    if artifacts is not None:
        where = [*where, "--artifacts", str(artifacts)]
    place = storage_hint(storage)
    request = Request(
        overridden,
        script,
        storage,
        n_jobs,
        resume_command=shlex.join([*command, *overrides.command_line(), *jobs, *where]) + place,
        storage_patience=storage_patience,
        grace=grace,
        reclaim=reclaim,
        cluster=cluster,
        command=shlex.join([*command, *overrides.command_line(anew=True), *jobs, *where]) + place,
        quiet=quiet,
        artifacts=artifacts,
    )
    return session.run(request)


def run_command(
    command: Callable[..., Any], study: Definition, arguments: Sequence[str] | None, **defaults: object
) -> NoReturn:
    """Run a command, without its parameter ``study``, for the ``study`` of a running script; then exit.

    The ``arguments`` are by default those of the program. ``defaults`` are those of other parameters, by name.
    """
    app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=options.HELP)
    app.command()(command)
    parsed: Any = typer.main.get_command(app)
    parsed.params = [parameter for parameter in parsed.params if parameter.name != "study"]
    for parameter in parsed.params:
        parameter.default = defaults.get(parameter.name, parameter.default)
    given = list(sys.argv[1:] if arguments is None else arguments)
    guard(lambda: parsed.main(args=given, obj=study, standalone_mode=False))


def _cluster(
    on: options.Place, address: str | None, cpus: int | None, gpus: float | None
) -> tuple[Cluster | None, list[str]]:
    """The Ray cluster to run on, if any, and the options with which the command names it."""
    from dropopt.config import ConfigError
    from dropopt.study.run.cluster import Cluster

    typed = options.typed(ray_address=(address, None), cpus_per_trial=(cpus, None), gpus_per_trial=(gpus, None))
    if on is options.Place.HERE:
        if typed:
            raise ConfigError(f"{typed[0]} is an option of --on ray; type: dropopt run --on ray {shlex.join(typed)}")
        return None, []
    return Cluster(address, cpus or 1, gpus or 0.0), ["--on", on.value, *typed]


def _find(running: Definition | None, name: str | None) -> tuple[Definition, Path, list[str]]:
    """The definition, its script and the command that runs it: those of the ``running`` script, or of ``name``."""
    from dropopt.config import ConfigError
    from dropopt.study.define.script import load
    from dropopt.study.define.shipped import names

    if running is not None:
        spec = getattr(sys.modules["__main__"], "__spec__", None)  # None unless run by python -m
        command = ["dropopt", "run", sys.argv[0]] if spec is None else ["python", "-m", spec.name]
        return running, Path(sys.argv[0]).resolve(), command
    if name is None:
        raise ConfigError(f"no study is given; give a script or one of: {', '.join(names('studies'))}")
    return *load(name), ["dropopt", "run", name]
