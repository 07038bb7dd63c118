"""The discounts of the papers' tables."""

from __future__ import annotations

from itertools import pairwise

import pytest

from coordinator.staleness import discount
from shared.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [
        ("constant", {}, [1, 1, 1, 1, 1, 1]),
        ("polynomial", {"exponent": 0.5}, [1, 0.7071, 0.5774, 0.5, 0.4472, 0.4082]),
        ("polynomial", {"exponent": 0.0}, [1, 1, 1]),
        ("polynomial", {"exponent": 1.0}, [1, 1 / 2, 1 / 3]),
        ("hinge", {"a": 10.0, "b": 4}, [1, 1, 1, 1, 1, 0.0909, 0.0476, 0.0323]),
        ("hinge", {"a": 1.0, "b": 0}, [1, 1 / 2, 1 / 3]),
    ],
)
def test_table(name: str, params: dict[str, float], expected: list[float]) -> None:
    weigh = discount(name, **params)
    assert [weigh(staleness) for staleness in range(len(expected))] == pytest.approx(expected, abs=5e-5)


def test_defaults_are_the_papers() -> None:
    assert discount("polynomial")(3) == 0.5
    assert discount("hinge")(4) == 1.0
    assert discount("hinge")(5) == 1 / 11


@pytest.mark.parametrize("name", ["constant", "polynomial", "hinge"])
def test_what_is_fresh_counts_in_full_and_nothing_older_counts_more(name: str) -> None:
    weigh = discount(name, exponent=0.7, a=3.0, b=2)
    values = [weigh(staleness) for staleness in range(50)]
    assert values[0] == 1.0
    assert all(0 < older <= newer for newer, older in pairwise(values))


def test_an_unknown_name_is_named() -> None:
    with pytest.raises(ConfigError, match="'linear' is not known; take constant, polynomial or hinge"):
        discount("linear")
