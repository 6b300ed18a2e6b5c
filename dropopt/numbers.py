"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

#: Numbers below the first have less than two digits in four decimals. Those below the second count as 0: they are
#: differences that rounding leaves.
_SMALL, _ROUNDING = 1e-3, 1e-8
#: Numbers from this one on have an exponent: columns would cut their digits off.
_LARGE = 1e7


def short(number: float) -> str:
    """``number`` with three significant digits; a larger one has all digits before its point, up to a million.

    Example:
        >>> short(0.012345), short(12.345), short(1234.5), short(2.5e7)
        ('0.0123', '12.3', '1234', '2.5e+07')
    """
    return f"{number:.0f}" if 999.5 <= abs(number) < 1e6 else f"{number:.3g}"


def fixed(*numbers: float, sign: bool = False) -> tuple[str, ...]:
    """``numbers`` of one quantity with the same decimals: four, or as many as show three digits of the largest.

    From ten millions on they have an exponent.

    Args:
        *numbers: such as a mean and the ends of its interval.
        sign: Whether positive numbers have a sign too.

    Example:
        >>> fixed(0.25), fixed(0.000254, 0.00001), fixed(0.5, sign=True), fixed(-1e-9), fixed(2.5e9)
        (('0.2500',), ('0.000254', '0.000010'), ('+0.5000',), ('0.0000',), ('2.500e+09',))
    """
    largest = max((abs(number) for number in numbers if math.isfinite(number)), default=0.0)
    plus = "+" if sign else ""
    if largest >= _LARGE:
        return tuple(f"{number:{plus}.3e}" for number in numbers)
    decimals = 2 - math.floor(math.log10(largest)) if _ROUNDING <= largest < _SMALL else 4
    return tuple(f"{round(number, decimals) + 0.0:{plus}.{decimals}f}" for number in numbers)  # + 0.0: not -0.0000


def span(rates: Sequence[float]) -> str:
    """Return the range of drop rates in words: ``0.250``, or ``0.125 to 0.250``."""
    if not rates:
        return "0"
    low, high = f"{min(rates):.3f}", f"{max(rates):.3f}"
    return low if low == high else f"{low} to {high}"


def listed(names: Iterable[object], most: int = 1) -> str:
    """The first ``names``, and how many more there are.

    Example:
        >>> listed(["conv1", "conv2", "fc"]), listed(["conv1", "conv2", "fc"], most=3)
        ('conv1 and 2 more', 'conv1, conv2, fc')
    """
    texts = [str(name) for name in names]
    more = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {more} more" if more > 0 else "")


def quantity(number: float, noun: str) -> str:
    """``number`` with ``noun``, in the plural unless there is one.

    Args:
        number: A count, or a share of a device.
        noun: One or more words, the last of which is in the singular.

    Example:
        >>> quantity(1, "trial"), quantity(0, "class"), quantity(2, "study"), quantity(12345, "fresh seed")
        ('1 trial', '0 classes', '2 studies', '12,345 fresh seeds')
    """
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,}".removesuffix(".0") + f" {noun if number == 1 else plural}"
