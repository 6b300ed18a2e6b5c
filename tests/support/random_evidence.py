"""Evidence about random blends, for tests of the models."""

import numpy as np

from dropopt.study.blend.evidence import Evidence


def table_of(
    count: int = 9, stages: int = 1, methods: int = 3, columns: int = 2, *, seed: int = 0, weighted: bool = True
) -> Evidence:
    """A table of random blends and covariates whose score depends on the first method."""
    rng = np.random.default_rng(seed)
    blend = rng.dirichlet(np.ones(methods), size=(count, stages))
    score = 3 * (blend[:, 0, 0] - 1 / methods) + rng.normal(size=count) * 0.3
    return Evidence(
        names=tuple(tuple(f"w_{m}_{s}" for m in range(methods)) for s in range(stages)),
        blend=blend,
        score=score,
        value=np.sinh(score),
        covariates=rng.normal(size=(count, columns)) * 3 + 1,
        columns=tuple(f"c{i}" for i in range(columns)),
        weight=np.where(np.arange(count) % 3 == 0, 0.25, 1.0) if weighted else np.ones(count),
        number=np.arange(count, dtype=np.int64),
        trials=count,
    )
