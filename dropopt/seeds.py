"""Seeds for separate purposes, derived from one seed."""

from __future__ import annotations

import hashlib


def derived_seed(seed: int, *names: str | int, bits: int = 63) -> int:
    """A seed in [0, 2^bits) for the purpose called ``names`` under ``seed``.

    Seeds of different purposes are independent of each other, and the same arguments always give the same seed.

    Args:
        seed: The seed that everything is derived from.
        *names: What the seed is for, such as ``"train", 7``.
        bits: Size of the result, at most 64. NumPy's older generators take 32 bits at most.

    Returns:
        The derived seed.

    Example:
        >>> derived_seed(0, "order", 1) == derived_seed(0, "order", 1)
        True
        >>> derived_seed(0, "order", 1) == derived_seed(0, "order", 2)
        False
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> (64 - bits)
