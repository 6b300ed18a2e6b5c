"""Make the shipped portfolio: configurations that together do well on several data sets and networks.

    python -m tests.benchmarks.portfolio --searches runs/evidence-*.db --mnist PATH --cifar10 PATH --photos PATH
    python -m tests.benchmarks.portfolio ... --without digits -o runs/without-digits.yaml
    python -m tests.benchmarks.portfolio ... --tasks               choose from the trainings so far

Candidates come from searches that ``tests.benchmarks.evidence`` has run: the configurations with which the searches on
several data sets begin, and the best ones that each search found. Plain dropout is written as settings of the engine,
which contains it. What the searches have not trained is trained; then those are chosen greedily that together have the
lowest losses, beside the anchors. The last table gives the score on each data set of a portfolio that was made without
it: neither its losses nor the candidates that its searches found are used. The trainings are kept in
``runs/portfolio.db``, and the same command continues after an interruption. All of them take about an hour on an idle
core.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
from evidence_tasks import EPOCHS, FILES, add_file_options, given_files
from portfolio_candidates import Candidate, candidates
from portfolio_choice import WORST, Losses, choose, normalised, regret
from portfolio_runs import TASKS, Runs

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
    trained = set().union(*known.values())
    given = [one.name for one in everyone if one.anchor and one.name in trained]
    usable = [
        one.name
        for one in everyone
        if not one.anchor and one.name in trained and (not one.found_on or one.found_on - {left_out})
    ]
    return choose(known, usable, SIZE, given)


def left_out_table(scores: Losses, losses: Losses, everyone: Sequence[Candidate]) -> Table:
    """On each task, the regret of the anchors, of a portfolio made without its data set, and of the shipped one."""
    columns = ("task", "configurations", "anchors", "anchors + portfolio without its data", "anchors + shipped", "loss")
    table = Table(*columns, box=MARKDOWN)
    anchors, shipped = [one.name for one in everyone if one.anchor], chosen(scores, everyone)
    for task, row in scores.items():
        tried = [name for name in anchors if name in row]
        others = [*tried, *chosen(scores, everyone, data_of(task))]
        found = losses[task]
        table.add_row(
            task,
            str(len(row)),
            *(f"{regret({task: row}, names):.2f}" for names in (tried, others, [*tried, *shipped])),
            f"{min(found[name] for name in others if name in found):.4f} (best {min(found.values()):.4f})",
        )
    return table


def content(
    names: Sequence[str], everyone: Sequence[Candidate], scores: Losses, left_out: str | None, extra: str
) -> dict[str, Any]:
    """The content of the file; ``extra`` holds further options of the command."""
    by_name = {one.name: one for one in everyone}
    made = provenance(Path(__file__).parent)
    files = " ".join(f"--{name} PATH" for name in FILES)
    command = f"python -m tests.benchmarks.portfolio --searches runs/evidence-*.db {files}"
    return {
        "schema": SCHEMA,
        "provenance": {
            "command": command + extra,
            "tasks": {
                task: f"{sum(name in row for name in by_name)} configurations"
                for task, row in scores.items()
                if data_of(task) != left_out
            },
            "images": "1,797 digits; 1,000 of MNIST; 2,000 of Fashion-MNIST, CIFAR-10 and photographs at 32 pixels",
            "seeds": "1 to 3 of each configuration and task; of most, that of the search",
            "epochs": EPOCHS,
            "created": datetime.now(UTC).date().isoformat(),
            "processor": f"{platform.machine()}, {made['cpus']} cores",
            "python": made["python"],
            "versions": made["versions"],
        },
        "entries": [
            {
                "engine": dict(by_name[name].engine),
                "train": {"optimizer": "sgd", **by_name[name].train},
                "source": f"search {name}",
            }
            for name in names
        ],
    }


def show(names: Sequence[str], scores: Losses) -> Table:
    """The normalised loss of each chosen configuration on each task."""
    marks = {WORST: "pruned"}
    table = Table("configuration", *scores, box=MARKDOWN)
    for name in names:
        found = (row.get(name) for row in scores.values())
        table.add_row(name, *("-" if one is None else marks.get(one, f"{one:.2f}") for one in found))
    return table


def main() -> None:
    """Train what is missing, choose and write the portfolio, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", nargs="+", required=True, help="storages of searches, named DATA-ARM")
    add_file_options(parser)
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
    runs.train(everyone, given_files(options), [task for task in TASKS if "-".join(task) in options.tasks])
    losses = runs.losses(everyone)
    if len({data_of(task) for task in losses}) < 2:
        parser.error("the candidates were trained on fewer than two data sets")
    scores = normalised(losses)
    names = chosen(scores, everyone, options.without)
    path = options.output or SHIPPED
    extra = (" --tasks" if not options.tasks else "") + (f" --without {options.without}" if options.without else "")
    write_whole(path, (HEADER + encode(content(names, everyone, scores, options.without, extra), "yaml")).encode())
    console.print(
        f"{path}: {len(names)} of {len(everyone)} configurations; normalised losses, 0 the best, 1 the median"
    )
    console.print(show(names, scores))
    console.print("regret of the best configuration that is tried, on each task")
    console.print(left_out_table(scores, losses, everyone))


if __name__ == "__main__":
    main()
