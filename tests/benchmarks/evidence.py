"""Does the engine beat plain dropout that is tuned as carefully? The same search for each arm, then fresh common seeds.

    python -m tests.benchmarks.evidence digits
    python -m tests.benchmarks.evidence fashion --seeds 10 --top 2
    python -m tests.benchmarks.evidence cifar10 --cifar10 runs/cifar10.npz    made by tests.benchmarks.arrays
    python -m tests.benchmarks.evidence photos --photos FOLDER    a folder of images, as for studies/folder.py
    python -m tests.benchmarks.evidence digits --network vgg
    python -m tests.benchmarks.evidence --table runs/evidence-*.db
    python -m tests.benchmarks.evidence --figure .github/images/evidence.svg runs/evidence-*.db

Each arm is a search space in ``tests/benchmarks/arms``; all of them search the learning rate and the weight decay over
the same ranges. The results are kept in ``runs/evidence-DATA.db``, or ``runs/evidence-DATA.NETWORK.db`` with another
network, and the same command continues after an interruption. It takes half an hour to two hours on two cores. With
``--table`` and ``--figure``, the results in storages are printed and drawn.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
import evidence_figure
import evidence_results
from evidence_tasks import DATA, NETWORK, add_file_options, definition, given_files

ARMS = Path(__file__).with_name("arms")
#: The arms that are compared by default.
DEFAULT = ("own", "own_uniform", "averaged", "dropout2d", "dropout", "none")


def show(options: argparse.Namespace) -> None:
    """Print or draw what the storages that ``options`` name have confirmed."""
    results = evidence_results.confirmed(options.data, options.arms)
    if options.table:
        for data, arms in results.items():
            Console(width=200).print(evidence_results.table(data, arms))
    if options.figure is not None:
        for panel in evidence_figure.save(results, options.figure):
            print(panel.data, *(f"{row.arm} {row.difference.mean:+.1f}%" for row in panel.rows), sep="; ")


def main() -> None:
    """Run the comparison that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help=f"{', '.join(DATA)}; for --table and --figure, storages")
    parser.add_argument("--table", action="store_true", help="print the results in storages as tables")
    parser.add_argument("--figure", type=Path, help="a file (.svg, .png) in which to draw the results in storages")
    add_file_options(parser)
    parser.add_argument("--arms", nargs="+", help="the arms to compare or to show")
    parser.add_argument("--network", default=NETWORK, help="the network, as in model.name")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--top", type=int, default=2)
    parser.add_argument("--n-jobs", type=int, help="trials at a time; by default one for each core")
    options = parser.parse_args()
    if options.table or options.figure is not None:
        show(options)
        return
    (data, *others) = options.data
    if others or data not in DATA:
        parser.error(f"give one of: {', '.join(DATA)}")
    study = definition(data, given_files(options), network=options.network)
    rest = ["--storage", f"runs/evidence-{study.name}.db", "--seeds", str(options.seeds), "--top", str(options.top)]
    if options.n_jobs is not None:
        rest += ["--n-jobs", str(options.n_jobs)]
    arms = [f"space:{ARMS / arm}.yaml" for arm in options.arms or DEFAULT]
    study.compare(arms, [*rest, "-o", f"evidence-{study.name}.html"])


if __name__ == "__main__":
    main()
