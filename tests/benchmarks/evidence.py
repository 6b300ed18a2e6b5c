"""Does the engine beat plain dropout that is tuned as carefully? The same search for each arm, then fresh common seeds.

    python -m tests.benchmarks.evidence digits
    python -m tests.benchmarks.evidence fashion --seeds 10 --top 2
    python -m tests.benchmarks.evidence photos --photos FOLDER      a folder of images, as for studies/folder.py

Each arm is a search space in ``tests/benchmarks/arms``; all of them search the learning rate and the weight decay over
the same ranges. The results are kept in ``runs/evidence-DATA.db``, and the same command continues after an
interruption. It takes half an hour to two hours on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dropopt.study import Study

ARMS = Path(__file__).with_name("arms")
#: The arms that are compared by default.
DEFAULT = ("own", "own_uniform", "averaged", "dropout2d", "dropout", "none")


def definition(name: str, photos: str | None) -> Study:
    """Return the study that says on which data, with which network and how the arms are trained."""
    train: dict[str, Any] = {"epochs": 25, "amp": "auto", "channels_last": True}
    if name == "digits":
        data: dict[str, Any] = {"name": "digits"}
        train = {"epochs": 25, "batch_size": 128, "channels_last": True}
    elif name == "fashion":
        data = {"name": "fashion-mnist", "subset": 2000}
    else:
        data = {"name": f"folder:{photos}", "image_size": 32, "subset": 2000}
    return Study(name=name, data=data, model={"name": "small"}, train=train, n_trials=24)


def main() -> None:
    """Run the comparison that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=["digits", "fashion", "photos"])
    parser.add_argument("--photos", help="the folder of the images, for photos")
    parser.add_argument("--arms", nargs="+", default=DEFAULT)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--top", type=int, default=2)
    options = parser.parse_args()
    if (options.data == "photos") != (options.photos is not None):
        parser.error("photos needs --photos FOLDER, and only photos takes it")
    rest = ["--storage", f"runs/evidence-{options.data}.db", "--seeds", str(options.seeds), "--top", str(options.top)]
    arms = [f"space:{ARMS / arm}.yaml" for arm in options.arms]
    definition(options.data, options.photos).compare(arms, [*rest, "-o", f"evidence-{options.data}.html"])


if __name__ == "__main__":
    main()
