"""``dropopt compare``."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from dropopt.study.command import options
from dropopt.study.command.errors import FAILED

#: Trials, seeds and configurations of each arm: usually (the trials are those of the script), and with --quick.
SEEDS, TOP = 10, 3
QUICK_TRIALS, QUICK_SEEDS, QUICK_TOP = 10, 3, 2


def compare(
    context: typer.Context,
    arms: options.Arms = None,
    study: options.CompareScript = "compare",
    storage: options.Storage = None,
    name: options.CompareName = None,
    n_trials: options.NTrials = None,
    seeds: options.CompareSeeds = None,
    top: options.CompareTop = None,
    quick: options.Quick = False,
    baseline: options.BaselineArm = None,
    n_jobs: options.NJobs = -1,
    data: options.Data = None,
    model: options.Model = None,
    epochs: options.Epochs = None,
    subset: options.Subset = None,
    optimise: options.Optimise = None,
    sampler: options.Sampler = None,
    pruner: options.Pruner = None,
    seed: options.Seed = None,
    checkpoints: options.Checkpoints = None,
    again: options.Again = False,
    code: options.Code = None,
    trust: options.Trust = False,
    output: options.FigureOutput = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Compare search spaces or studies fairly: the same budget, fresh common seeds, paired differences.

    Each space is searched with the same number of trials, the best configurations of each arm are trained again on
    fresh seeds, and the winners are compared on the test set. The same command goes on after an interruption.
    """
    from dropopt.owncode import file_of, make_importable
    from dropopt.study.command.output import check_writable, json_text
    from dropopt.study.command.overrides import Overrides
    from dropopt.study.command.settling import settler
    from dropopt.study.define.script import load
    from dropopt.study.session.comparing import CompareRequest
    from dropopt.study.session.comparing import compare as run
    from dropopt.study.session.confirming import STOPPED_LINE
    from dropopt.study.show.comparison import check_figure, show_comparison, write_figure
    from dropopt.study.show.console import complain, make_console, say
    from dropopt.study.show.next_lines import best_file
    from dropopt.trust import own_modules, remember, sources

    definition, script = (context.obj, Path(sys.argv[0]).resolve()) if context.obj is not None else load(study)
    budget = {"n_trials": QUICK_TRIALS} if quick and n_trials is None else {}
    overridden = Overrides.of({**context.params, **budget}).apply(definition)
    names = overridden.names
    if any(file_of(module) is None for module in own_modules(names)):
        make_importable(Path.cwd())
    remember(sources(names).values())
    figure = output or Path(best_file(overridden.name, "html", "comparison"))
    check_figure(figure)
    check_writable(figure)
    request = CompareRequest(
        arms=arms or (),
        definition=overridden,
        script=script,
        storage=storage,
        seeds=seeds or (QUICK_SEEDS if quick else SEEDS),
        top=top or (QUICK_TOP if quick else TOP),
        n_jobs=n_jobs,
        reference=baseline,
        optimise=optimise,
        again=again,
        settle=settler(code or (), trust=trust, quiet=quiet),
    )
    console = make_console(quiet=quiet, stderr=as_json)
    try:
        exit_code, found = run(request, console)
    except KeyboardInterrupt:  # before the first search, or between two of them
        say(console, STOPPED_LINE)
        raise
    if found is not None:
        if as_json:
            print(json_text(found.plain()), flush=True)
        else:
            show_comparison(console, found)
        write_figure(found, figure)  # last, because it may fail
        say(console, f"figure: {figure}")
    if exit_code == FAILED:
        complain(console, "an arm could not be confirmed; without --quiet, the reason is printed")
    return exit_code
