"""Which of two ways to search finds the better configuration?

    python -m tests.benchmarks.searches digits --sampler tpe efficacy --trials 40 --studies 8
    python -m tests.benchmarks.searches digits --trials 60 12 --portfolio none FILE

An option with two values says how the two ways differ. For each seed, one study of each way searches the space
``compact``. The best configuration of each by posterior mean is trained again on 5 fresh seeds. The result is the
difference of the two confirmed validation losses, paired by the seed of the study. A portfolio has to be made without
the data set (``python -m tests.benchmarks.portfolio ... --without digits -o FILE``).

Everything is kept in ``runs/searches.db``, and the same command continues after an interruption.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
from evidence_tasks import DATA, add_file_options, definition, given_files, search

from dropopt.study.confirm.intervals import Interval, mean_of, paired
from dropopt.study.define.definition import Definition
from dropopt.study.session.confirming import ConfirmRequest, confirm
from dropopt.study.show.console import make_console


def text(found: Interval) -> str:
    """A mean with its interval."""
    return f"{found.mean:.4f} ({found.low:.4f} to {found.high:.4f})"


def confirmed(study: Definition, storage: str, jobs: int, seeds: int, quiet: Console) -> float:
    """The mean validation loss of the study's best configuration over fresh seeds."""
    request = ConfirmRequest(study=study.name, storage=storage, top=1, seeds=seeds, n_jobs=jobs, anchors=False)
    code, found = confirm(request, quiet)
    if code or found is None or found.winner is None:
        raise SystemExit(code or 1)
    return found.winner.mean.mean


def two_ways(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the settings of the two ways by their names, which say how they differ.

    Raises:
        SystemExit: no option or another number of values than one or two was given.
    """
    ways: list[dict[str, Any]] = [{}, {}]
    names: list[list[str]] = [[], []]
    for key, setting in (("trials", "n_trials"), ("portfolio", "portfolio"), ("sampler", "sampler")):
        given = getattr(options, key)
        if len(given) > 2:
            raise SystemExit(f"--{key} takes one value for both ways, or two, got {len(given)}")
        for way, name, value in zip(ways, names, given * (3 - len(given)), strict=True):
            way[setting] = value
            if len(set(given)) > 1:
                name.append(f"{value} trials" if key == "trials" else f"{key} {value}")
    if not names[0]:
        raise SystemExit("give one of --trials, --portfolio and --sampler two values, such as --sampler tpe efficacy")
    return {", ".join(name): way for name, way in zip(names, ways, strict=True)}


def main() -> None:
    """Run the studies, confirm them and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=DATA)
    parser.add_argument("--trials", type=int, nargs="+", default=[40], help="of each study")
    parser.add_argument("--portfolio", nargs="+", default=["none"], help="a name, a file or none")
    parser.add_argument("--sampler", nargs="+", default=["auto"], help="as in dropopt run --sampler")
    add_file_options(parser)
    parser.add_argument("--studies", type=int, default=5, help="the number of seeds of the searches")
    parser.add_argument("--seeds", type=int, default=5, help="fresh seeds of each confirmation")
    parser.add_argument("--n-jobs", type=int, default=1)
    parser.add_argument("--storage", default="runs/searches.db")
    options = parser.parse_args()
    console, quiet = Console(width=120), make_console(quiet=True)
    base = definition(options.data, given_files(options))
    values = {name: getattr(base, name) for name in Definition.model_fields}
    ways = two_ways(options)
    losses: dict[str, list[float]] = {name: [] for name in ways}
    for seed in range(options.studies):
        for name, settings in ways.items():
            study = Definition.parse(values | settings | {"name": f"{options.data}, {name}, seed {seed}", "seed": seed})
            search(study, options.storage, options.n_jobs, quiet)
            losses[name].append(confirmed(study, options.storage, options.n_jobs, options.seeds, quiet))
            console.print(f"{study.name}: {losses[name][-1]:.4f}", highlight=False)
    table = Table(options.data, "confirmed validation loss (95% interval)", box=MARKDOWN)
    for name, found in losses.items():
        table.add_row(name, text(mean_of(found)))
    first, second = (dict(enumerate(found)) for found in losses.values())
    if (difference := paired(second, first)) is not None:
        table.add_row("difference", f"{text(difference.interval)}, p = {difference.p:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
