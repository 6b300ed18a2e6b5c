"""How much of the difference of two configurations belongs to the validation split, and how much to the seed?

    python -m tests.benchmarks.splits digits
    python -m tests.benchmarks.splits letters --letters runs/letters.npz

Eight configurations are trained on each of several validation splits with each of several seeds. The mean over the
seeds of a confirmation keeps the whole part of the split if all seeds have the same split. If each seed has its own,
that part is divided by the number of seeds. The test images are always the same, and so are the images that are divided
into training and validation images. The results are kept in ``runs/splits-DATA.jsonl``, and the same command continues
after an interruption.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.box import MARKDOWN
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import f

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
from evidence_tasks import DATA, add_file_options, definition, given_files

from dropopt.config import RunConfig
from dropopt.study.define.definition import Definition
from dropopt.training import train_run

#: Weights of the five methods that leave one of them.
_ALONE = {"w_structured": 0.0, "w_contextual": 0.0, "w_pfid": 0.0, "w_spatial": 0.0}
#: The engines that are compared, as good and as different as those that a confirmation compares.
ENGINES: tuple[dict[str, Any], ...] = (
    {"kind": "none"},
    {"kind": "dropout", "p": 0.15},
    {"kind": "dropout2d", "p": 0.15},
    {"kind": "dropout2d", "p": 0.25},
    {"pattern": "own", "r0": 0.1, "alpha": 0.0, "lambda_loss": 0.0},
    {"pattern": "own", "r0": 0.2, "alpha": 0.0, "lambda_loss": 0.0},
    {"pattern": "own", "r0": 0.35, "alpha": 0.0, "lambda_loss": 0.0},
    {"pattern": "element", "r0": 0.2, "alpha": -0.6, "lambda_loss": 0.0, **_ALONE},
)
#: The seeds with which confirmations are compared.
CONFIRMED = 5

Cell = tuple[int, int, int]  # engine, split, seed


def trained(study: Definition, splits: int, seeds: int, file: Path) -> dict[Cell, float]:
    """The smoothed validation loss of each engine on each split with each seed; what ``file`` holds is not repeated."""
    file.parent.mkdir(exist_ok=True)
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    known: dict[Cell, float] = {(one["engine"], one["split"], one["seed"]): one["loss"] for one in lines}
    cells = list(product(range(len(ENGINES)), range(splits), range(seeds)))
    for engine, split, seed in track(sorted(cells, key=lambda cell: cell[1:]), "training"):
        if (engine, split, seed) in known:
            continue
        settings: Mapping[str, Any] = {
            "data": {**study.data.model_dump(), "validation_seed": split},
            "model": study.model.model_dump(),
            "train": {**study.train.model_dump(), "seed": seed},
            "engine": ENGINES[engine],
        }
        loss = train_run(RunConfig.parse(settings))[0].smoothed_loss
        known[engine, split, seed] = loss
        with file.open("a") as opened:
            opened.write(json.dumps({"engine": engine, "split": split, "seed": seed, "loss": loss}) + "\n")
    return {cell: known[cell] for cell in cells}


def components(losses: np.ndarray) -> tuple[float, float, float]:
    """The variances of the interaction of configurations with splits, and with seeds within a split.

    Args:
        losses: (configurations, splits, seeds).

    Returns:
        Estimates from the mean squares of a two-way analysis of variance in which each seed is nested in its split, and
        the p value of the F test that the first is 0. Its estimate may be below 0.
    """
    count, splits, seeds = losses.shape
    centred = losses - losses.mean(0)  # what a split or a seed does to all configurations is no difference of theirs
    means = centred.mean(2)
    freedom, freedom_within = (count - 1) * (splits - 1), (count - 1) * splits * (seeds - 1)
    between = seeds * np.sum((means - means.mean(1, keepdims=True)) ** 2) / freedom
    within = np.sum((centred - means[:, :, None]) ** 2) / freedom_within
    return float(between - within) / seeds, float(within), float(f.sf(between / within, freedom, freedom_within))


def main() -> None:
    """Train what is missing, and print the variances."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=DATA)
    add_file_options(parser)
    parser.add_argument("--splits", type=int, default=6, help="validation splits")
    parser.add_argument("--seeds", type=int, default=2, help="seeds on each split")
    options = parser.parse_args()
    torch.set_num_threads(1)
    study = definition(options.data, given_files(options))
    found = trained(study, options.splits, options.seeds, Path(f"runs/splits-{options.data}.jsonl"))
    losses = np.array(list(found.values())).reshape(len(ENGINES), options.splits, options.seeds)
    split, seed, p = components(losses)
    table = Table(options.data, "variance of a configuration's loss, relative to the others", box=MARKDOWN)
    table.add_row("from split to split", f"{split:.2g} (p = {p:.2f})")
    table.add_row("from seed to seed on one split", f"{seed:.2g}")
    table.add_row(f"of the mean over {CONFIRMED} seeds on one split", f"{max(split, 0) + seed / CONFIRMED:.2g}")
    table.add_row(f"of the mean over {CONFIRMED} seeds, each with a split", f"{(max(split, 0) + seed) / CONFIRMED:.2g}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
