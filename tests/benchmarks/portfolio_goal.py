"""Do 12 trials that begin with a portfolio reach the loss that 60 trials from scratch reach?

    python -m tests.benchmarks.portfolio ... --without digits -o runs/without-digits.yaml
    python -m tests.benchmarks.portfolio_goal digits --portfolio runs/without-digits.yaml --studies 5

The portfolio has to be made without the data set. For each seed, a study from scratch and a short one with the
portfolio search the space ``compact``, both after the anchors. The best configuration of each by posterior mean is
trained again on 5 fresh seeds. The result is the difference of the two confirmed validation losses, paired by the seed
of the study. Everything is kept in ``runs/portfolio-goal.db``, and the same command continues after an interruption.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

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


def main() -> None:
    """Run the studies, confirm them and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=DATA)
    parser.add_argument("--portfolio", required=True, help="a portfolio that was made without the data set")
    add_file_options(parser)
    parser.add_argument("--studies", type=int, default=5, help="the number of seeds of the searches")
    parser.add_argument("--trials", type=int, nargs=2, default=(60, 12), help="from scratch, and with the portfolio")
    parser.add_argument("--seeds", type=int, default=5, help="fresh seeds of each confirmation")
    parser.add_argument("--n-jobs", type=int, default=1)
    parser.add_argument("--storage", default="runs/portfolio-goal.db")
    options = parser.parse_args()
    console, quiet = Console(width=120), make_console(quiet=True)
    base = definition(options.data, given_files(options))
    values = {name: getattr(base, name) for name in Definition.model_fields}
    names = (f"{options.trials[0]} trials from scratch", f"{options.trials[1]} trials with the portfolio")
    arms: dict[str, dict[int, float]] = {name: {} for name in names}
    for seed in range(options.studies):
        for arm, trials, portfolio in zip(arms, options.trials, ("none", options.portfolio), strict=True):
            kind = "scratch" if portfolio == "none" else "portfolio"
            own = {"name": f"{options.data}-{kind}-{seed}", "seed": seed, "n_trials": trials, "portfolio": portfolio}
            study = Definition.parse(values | own)
            search(study, options.storage, options.n_jobs, quiet)
            arms[arm][seed] = confirmed(study, options.storage, options.n_jobs, options.seeds, quiet)
            console.print(f"{options.data}, study seed {seed}, {arm}: {arms[arm][seed]:.4f}", highlight=False)
    scratch, short = arms.values()
    table = Table(options.data, "confirmed validation loss (95% interval)", box=MARKDOWN)
    for arm, losses in arms.items():
        table.add_row(arm, text(mean_of(list(losses.values()))))
    if (difference := paired(short, scratch)) is not None:
        table.add_row("difference", f"{text(difference.interval)}, p = {difference.p:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
