"""How much an update counts by its staleness: the number of versions that the model has moved on since.

How stale an update may be at all is decided before it is weighted (`staleness.max`), not here.
"""

from __future__ import annotations

from collections.abc import Callable

from shared.errors import ConfigError

Discount = Callable[[int], float]


def constant() -> Discount:
    """Every update counts in full."""
    return lambda _staleness: 1.0


def polynomial(exponent: float) -> Discount:
    """(1 + staleness) ** −exponent."""
    return lambda staleness: float((1 + staleness) ** -exponent)


def hinge(a: float, b: float) -> Discount:
    """In full up to staleness `b`, then 1 / (a · (staleness − b) + 1)."""
    return lambda staleness: 1.0 if staleness <= b else 1 / (a * (staleness - b) + 1)


def discount(name: str, *, exponent: float = 0.5, a: float = 10.0, b: float = 4) -> Discount:
    """The discount function of that name; of the parameters it takes its own.

    Raises:
        ConfigError: no function has that name.
    """
    match name:
        case "constant":
            return constant()
        case "polynomial":
            return polynomial(exponent)
        case "hinge":
            return hinge(a, b)
    raise ConfigError(f"staleness discount {name!r} is not known; take constant, polynomial or hinge")
