"""The arithmetic of the benchmark: what a series of measurements comes to. No I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Spread:
    """A series in four numbers: how many, the median, the 10th and the 90th percentile."""

    n: int
    median: float
    p10: float
    p90: float

    def text(self, unit: float = 1.0, digits: int = 3) -> str:
        """Median and percentiles for people, in `unit`s."""
        low, middle, high = (significant(value / unit, digits) for value in (self.p10, self.median, self.p90))
        return f"{middle} ({low} to {high})"


def spread(values: Sequence[float]) -> Spread:
    """The series' spread.

    Raises:
        ValueError: there is nothing in it.
    """
    return Spread(len(values), median(values), percentile(values, 0.1), percentile(values, 0.9))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of the series lies, between the two nearest ones in proportion.

    Raises:
        ValueError: there is nothing in the series.
    """
    if not values:
        raise ValueError("an empty series has no percentiles")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The e of `value = c · size^e` that fits best, by least squares on logarithms.

    Raises:
        ValueError: fewer than two different sizes, or a size or value that isn't above 0.
    """
    if len(set(sizes)) < 2 or min(*sizes, *values) <= 0:
        raise ValueError("an exponent takes two different sizes, and numbers above 0")
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    centre_x, centre_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - centre_x) * (b - centre_y) for a, b in zip(x, y, strict=True))
    return slope / sum((a - centre_x) ** 2 for a in x)


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, never in powers of ten: 0.0123, 4.50, 1,230."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    whole = math.floor(math.log10(abs(value)))
    rounded = round(value, digits - 1 - whole)
    # Rounding may have made it a digit longer.
    decimals = max(digits - 1 - math.floor(math.log10(abs(rounded))), 0)
    return f"{rounded:,.{decimals}f}"
