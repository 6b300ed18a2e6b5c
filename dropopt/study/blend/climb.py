"""Climbing: random blends, and the maximum of a function over the simplex by random search in rounds."""

from __future__ import annotations

import numpy as np

from dropopt.study.blend.arrays import Array
from dropopt.study.blend.mixture import normalised
from dropopt.study.blend.surrogate import Objective

#: Random blends of each of two kinds at the start of a climb with one stage; with several stages there are fewer.
POOL = 96
#: Concentration of the Dirichlet distribution of blends near faces and vertices, and the fraction of such blends.
SPARSE, SPARSE_FRACTION = 0.35, 0.5
#: Blends kept after each round, and neighbours of each in the next.
KEPT, NEIGHBOURS = 8, 10
#: Neighbours of each incumbent in the first round, and their width.
FIRST_NEIGHBOURS, FIRST_WIDTH = 4, 0.3
#: How far neighbours are from the blends that were kept, by round.
WIDTHS = (0.3, 0.1, 0.03)


def random_blend(rng: np.random.Generator, methods: int) -> Array:
    """Shares (M,) independent of the evidence: uniform on the simplex, or near a face or vertex."""
    return rng.dirichlet(np.full(methods, SPARSE if rng.uniform() < SPARSE_FRACTION else 1.0))


def climb(
    objective: Objective,
    stage: int,
    incumbents: Array,
    legal: Objective,
    rng: np.random.Generator,
    *,
    stages: int = 1,
) -> Array:
    """Maximise ``objective`` at a stage.

    Args:
        objective: The function to maximise, of shares (B, M) and the stage.
        stage: The stage.
        incumbents: (n, M) promising shares.
        legal: Maps shares (B, M) to values (B, M) that the search space contains, whose shares are evaluated.
        rng: Source of the candidates.
        stages: Number of stages; the pool is smaller if there are several.

    Returns:
        (M,) the best legal values found.
    """
    pool = int(POOL / stages**0.5)
    methods = incumbents.shape[1]
    vertices = np.eye(methods)
    pairs = [(vertices[i] + vertices[j]) / 2 for i in range(methods) for j in range(i)]
    start = [rng.dirichlet(np.full(methods, a), size=pool) for a in (1.0, SPARSE)]
    start += [vertices, np.array(pairs), np.full((1, methods), 1 / methods)]
    start += [incumbents, _neighbours(incumbents, FIRST_WIDTH, FIRST_NEIGHBOURS, rng)]
    values = legal(np.concatenate(start), stage)
    height = objective(normalised(values), stage)
    for width in WIDTHS:
        top = np.argsort(-height, kind="stable")[:KEPT]
        closer = legal(_neighbours(normalised(values[top]), width, NEIGHBOURS, rng), stage)
        values = np.concatenate([values[top], closer])
        height = np.concatenate([height[top], objective(normalised(closer), stage)])
    return np.asarray(values[int(np.argmax(height))])


def _neighbours(blends: Array, width: float, count: int, rng: np.random.Generator) -> Array:
    """``count`` neighbours of each blend (n, M): half move towards a random blend, half between two methods."""
    repeated = np.repeat(blends, count, axis=0)
    towards = rng.dirichlet(np.full(repeated.shape[1], 0.5), size=len(repeated))
    mixed = repeated + width * rng.uniform(size=(len(repeated), 1)) * (towards - repeated)
    moved = repeated.copy()
    giver, taker = rng.integers(repeated.shape[1], size=(2, len(repeated)))
    row = np.arange(len(repeated))
    amount = np.minimum(moved[row, giver], 2 * width * rng.uniform(size=len(repeated)) ** 2)
    moved[row, giver] -= amount
    moved[row, taker] += amount
    return np.where((row % 2 == 0)[:, None], mixed, moved)
