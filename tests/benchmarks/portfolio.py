"""Make the shipped portfolio: configurations that together do well on several data sets and networks.

    python -m tests.benchmarks.portfolio --searches runs/evidence-*.db --mnist FILE.npz --photos FOLDER
    python -m tests.benchmarks.portfolio ... --without digits -o runs/without-digits.yaml

Candidates are the best configurations of searches that ``tests.benchmarks.evidence`` has run. Plain dropout is written
as settings of the engine, which contains it. Each candidate and each anchor is trained on each task; then those are
chosen greedily that together have the lowest losses, beside the anchors. The last table gives the score on each data
set of a portfolio that was made without it: neither its losses nor the candidates that its searches found are used. The
runs are kept in ``runs/portfolio.db``, and the same command continues after an interruption. It takes about an hour on
one core.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
from evidence_tasks import EPOCHS
from portfolio_candidates import Candidate, candidates
from portfolio_choice import Losses, choose, normalised, regret
from portfolio_runs import IMAGES, TASKS, Runs

from dropopt.files import write_whole
from dropopt.formats import encode
from dropopt.owncode import shipped_folder
from dropopt.provenance import provenance
from dropopt.study.search.portfolio import SCHEMA

#: The number of configurations of a portfolio.
SIZE = 8
#: The file that is shipped.
SHIPPED = shipped_folder("search_spaces") / "portfolios" / "small_images.yaml"

HEADER = """# Configurations that did well on small images, the most useful first. New studies begin with them.
# Made by tests/benchmarks/portfolio.py; see dropopt/study/search/portfolio.py for the layout.
"""

console = Console(width=160)


def data_of(task: str) -> str:
    """The data set of a task."""
    return task.partition("-")[0]


def chosen(scores: Losses, everyone: Sequence[Candidate], left_out: str | None = None) -> list[str]:
    """The names of the candidates of a portfolio, made without the data set ``left_out``."""
    known = {task: row for task, row in scores.items() if data_of(task) != left_out}
    names = set.intersection(*(set(row) for row in known.values()))
    given = [one.name for one in everyone if not one.data and one.name in names]
    usable = [one.name for one in everyone if one.data - {left_out} and one.name in names]
    return choose(known, usable, SIZE, given)


def left_out_table(scores: Losses, losses: Losses, everyone: Sequence[Candidate]) -> Table:
    """On each task, the regret of the anchors, of a portfolio made without its data set, and of the shipped one."""
    table = Table(
        "task", "anchors", "without its data", "shipped", "lowest loss", "loss without its data", box=MARKDOWN
    )
    anchors, shipped = [one.name for one in everyone if not one.data], chosen(scores, everyone)
    for task, row in scores.items():
        tried = [name for name in anchors if name in row]
        others = chosen(scores, everyone, data_of(task))
        cells = [[*tried], [*tried, *others], [*tried, *shipped]]
        found = losses[task]
        table.add_row(
            task,
            *(f"{regret({task: row}, names):.2f}" if names else "-" for names in cells),
            f"{min(found.values()):.4f}",
            f"{min(found[name] for name in [*tried, *others]):.4f}",
        )
    return table


def content(
    names: Sequence[str], everyone: Sequence[Candidate], scores: Losses, seeds: Mapping[str, int], left_out: str | None
) -> dict[str, Any]:
    """The content of the file."""
    by_name = {one.name: one for one in everyone}
    made = provenance(Path(__file__).parent)
    tasks = [task for task in scores if data_of(task) != left_out]
    command = "python -m tests.benchmarks.portfolio --searches runs/evidence-*.db --mnist FILE.npz --photos FOLDER"
    return {
        "schema": SCHEMA,
        "provenance": {
            "command": command if left_out is None else f"{command} --without {left_out}",
            "tasks": {task: f"{seeds[task]} seed{'s' * (seeds[task] != 1)}" for task in tasks},
            "images": f"{IMAGES} of each data set except the digits, which are all used",
            "seeds": "common to all configurations",
            "epochs": EPOCHS,
            "candidates": sum(bool(one.data) for one in everyone),
            "created": datetime.now(UTC).date().isoformat(),
            "processor": f"{platform.machine()}, {made['cpus']} cores",
            "python": made["python"],
            "versions": made["versions"],
        },
        "entries": [
            {
                "engine": dict(by_name[name].engine),
                "train": {"optimizer": "sgd", **by_name[name].train},
                "source": f"search on {name}",
            }
            for name in names
        ],
    }


def show(names: Sequence[str], scores: Losses) -> Table:
    """The normalised loss of each chosen configuration on each task."""
    table = Table("configuration", *scores, box=MARKDOWN)
    for name in names:
        table.add_row(name, *(f"{row[name]:.2f}" for row in scores.values()))
    return table


def main() -> None:
    """Train what is missing, choose and write the portfolio, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", nargs="+", required=True, help="storages of searches, named DATA-ARM")
    parser.add_argument("--mnist", help="a file with the arrays x, y, x_test and y_test of MNIST")
    parser.add_argument("--photos", help="a folder of images")
    parser.add_argument("--storage", default="sqlite:///runs/portfolio.db")
    parser.add_argument("--tasks", nargs="*", default=["-".join(task) for task in TASKS], help="tasks to train")
    parser.add_argument("--without", help="a data set that the portfolio may not use")
    parser.add_argument("-o", "--output", type=Path, help="the file to write. Default: the shipped one")
    options = parser.parse_args()
    if options.without and options.output is None:
        parser.error("--without needs -o FILE")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    everyone = candidates(options.searches)
    runs = Runs(options.storage, console)
    files = {"mnist": options.mnist, "photos": options.photos}
    runs.train(everyone, files, [task for task in TASKS if "-".join(task) in options.tasks])
    losses, seeds = runs.losses(everyone)
    if len({data_of(task) for task in losses}) < 2:
        parser.error("the candidates were trained on fewer than two data sets")
    scores = normalised(losses)
    names = chosen(scores, everyone, options.without)
    path = options.output or SHIPPED
    write_whole(path, (HEADER + encode(content(names, everyone, scores, seeds, options.without), "yaml")).encode())
    console.print(
        f"{path}: {len(names)} of {len(everyone)} configurations; normalised losses, 0 the best, 1 the median"
    )
    console.print(show(names, scores))
    console.print("regret of the best configuration that is tried, on each task")
    console.print(left_out_table(scores, losses, everyone))


if __name__ == "__main__":
    main()
