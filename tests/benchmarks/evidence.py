"""Does the engine beat plain dropout that is tuned as carefully? The same search for each arm, then fresh common seeds.

    python -m tests.benchmarks.evidence digits
    python -m tests.benchmarks.evidence fashion --seeds 10 --top 2
    python -m tests.benchmarks.evidence cifar10 --cifar10 runs/cifar10.npz    made by tests.benchmarks.arrays
    python -m tests.benchmarks.evidence photos --photos FOLDER    a folder of images, as for studies/folder.py
    python -m tests.benchmarks.evidence digits --network vgg
    python -m tests.benchmarks.evidence digits --draw 1
    python -m tests.benchmarks.evidence digits --optimise accuracy
    python -m tests.benchmarks.evidence --table runs/evidence-*.db
    python -m tests.benchmarks.evidence --draws runs/evidence-digits.draw*.db
    python -m tests.benchmarks.evidence --figure .github/images/evidence.svg runs/evidence-*.db

Each arm is a search space in ``tests/benchmarks/arms``; all of them search the learning rate and the weight decay over
the same ranges. The arm ``shipped`` is the search that ``dropopt run`` makes by itself: the space ``compact``, with its
anchors and the shipped portfolio among the trials. The results are kept in ``runs/evidence-DATA.db``, or
``runs/evidence-DATA.NETWORK.db`` with another network, and the same command continues after an interruption. It
takes half an hour to two hours on two cores. With ``--table`` and ``--figure``, the results in storages are printed and
drawn.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
import evidence_figure
import evidence_results
from evidence_tasks import DATA, LOSS, NETWORK, add_file_options, definition, given_files, search

from dropopt.config import Optimise
from dropopt.study.define.definition import Definition
from dropopt.study.session.comparing import SPACE, STUDY

ARMS = Path(__file__).with_name("arms")
#: The arm that is searched as ``dropopt run`` does.
SHIPPED = "shipped"
#: The arms that are compared by default.
DEFAULT = ("own", "own_uniform", "averaged", "dropout2d", "dropout", "none")


def show(options: argparse.Namespace) -> None:
    """Print or draw what the storages that ``options`` name have confirmed."""
    results = evidence_results.confirmed(options.data, options.arms)
    if options.draws:
        results = evidence_results.over_draws(results)
    if options.table or options.draws:
        for data, arms in results.items():
            Console(width=200).print(evidence_results.table(data, arms))
    if options.figure is not None:
        for panel in evidence_figure.save(results, options.figure):
            print(panel.data, *(f"{row.arm} {row.difference.mean:+.1f}%" for row in panel.rows), sep="; ")


def main() -> None:
    """Run the comparison that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help=f"{', '.join(DATA)}; for --table, --draws and --figure, storages")
    parser.add_argument("--table", action="store_true", help="print the results in storages as tables")
    parser.add_argument("--draws", action="store_true", help="as --table, over the draws of each data set")
    parser.add_argument("--figure", type=Path, help="a file (.svg, .png) in which to draw the results in storages")
    add_file_options(parser)
    parser.add_argument("--arms", nargs="+", help="the arms to compare or to show")
    parser.add_argument("--network", default=NETWORK, help="the network, as in model.name")
    parser.add_argument("--draw", type=int, default=0, help="seed of the search, the images used and their split")
    parser.add_argument("--optimise", choices=get_args(Optimise), default=LOSS, help="what the searches optimise")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--top", type=int, default=2)
    parser.add_argument("--n-jobs", type=int, help="trials at a time; by default one for each core")
    options = parser.parse_args()
    if options.table or options.draws or options.figure is not None:
        show(options)
        return
    (data, *others) = options.data
    if others or data not in DATA:
        parser.error(f"give one of: {', '.join(DATA)}")
    study = definition(
        data, given_files(options), network=options.network, draw=options.draw, optimise=options.optimise
    )
    storage, jobs = f"runs/evidence-{study.name}.db", options.n_jobs or -1
    arms = []
    for arm in options.arms or DEFAULT:
        if arm == SHIPPED:
            values = {name: getattr(study, name) for name in Definition.model_fields}
            shipped = Definition.parse(values | {"name": f"{study.name}-{arm}"})
            search(shipped, storage, jobs, Console(width=120))
            arms.append(f"{STUDY}{shipped.name}")
        else:
            arms.append(f"{SPACE}{ARMS / arm}.yaml")
    rest = ["--seeds", str(options.seeds), "--top", str(options.top), "--n-jobs", str(jobs)]
    study.compare(arms, [*rest, "--storage", storage, "-o", f"evidence-{study.name}.html"])


if __name__ == "__main__":
    main()
