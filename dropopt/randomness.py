"""Random streams: one seed, many independent generators, so that what one consumes never moves another.

Every draw outside the dropout masks has a name and an index (an epoch, say) of its own. A stream is then a
function of the seed alone: there is no generator whose state a checkpoint would have to carry.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dropopt.seeds import derived_seed


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A fresh CPU generator for that stream; on the CPU, so that every device sees the same draws."""
    return torch.Generator().manual_seed(derived_seed(seed, *names))


@contextmanager
def global_stream(seed: int, *names: str | int, device: torch.device | None = None) -> Iterator[None]:
    """Run a block with torch's global random state seeded; afterwards it is what it was."""
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(derived_seed(seed, *names))
        yield
