"""Numbers as people read them."""

from __future__ import annotations


def short(number: float) -> str:
    """``number`` with three significant digits; a larger one has all digits before its point, up to a million.

    Example:
        >>> short(0.012345), short(12.345), short(1234.5), short(2.5e7)
        ('0.0123', '12.3', '1234', '2.5e+07')
    """
    return f"{number:.0f}" if 999.5 <= abs(number) < 1e6 else f"{number:.3g}"
