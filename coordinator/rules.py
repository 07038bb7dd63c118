"""Aggregation rules: what one delta is made of many, element by element.

A rule folds a block of every update into a block of float64. It looks at no other element, so a model may be
folded in any pieces, on any number of threads, with the same bits. The updates come in canonical order, and
the sorting rules don't even depend on that.

`median` and `trimmed-mean` are those of Yin et al. 2018 (arXiv 1803.01498). They are unweighted: an update
counts once, whatever examples it claims and however stale it is, or a liar would only have to claim many.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from coordinator.blocks import Block
from shared.errors import ConfigError
from shared.weights import Array

#: Elements, of all updates together, that are sorted at one time by a thread: 8 MiB at the most.
SORTED = 1 << 20
#: What a trimmed mean cuts off at each end, if the federation does not say.
TRIM = 0.1


class Settings(Protocol):
    """The configuration's `[aggregation]` table; None stands for the rule's own default."""

    @property
    def rule(self) -> str: ...
    @property
    def trim(self) -> float | None: ...


class Rule(ABC):
    """Base of all. Not for changing: it holds its parameters and nothing else."""

    @abstractmethod
    def fold(
        self, deltas: Sequence[Array], weights: Sequence[float], divisor: float, total: Block, room: Block
    ) -> None:
        """Folds a block of every delta into `total`, by their weights and the divisor; uses up `room`.

        Values must be numbers: a NaN would be sorted behind them, and not be noticed.
        """

    def warning(self, updates: int) -> str:
        """Why the rule is no protection with so few updates, "" if it is, or was never meant to be."""
        return ""


@dataclass(frozen=True)
class Mean(Rule):
    """Σ weight · delta / divisor: FedAvg's."""

    def fold(
        self, deltas: Sequence[Array], weights: Sequence[float], divisor: float, total: Block, room: Block
    ) -> None:
        _scale(deltas[0], weights[0], total)
        for delta, weight in zip(deltas[1:], weights[1:], strict=True):
            _scale(delta, weight, room)
            total += room
        total /= divisor


class _Sorting(Rule):
    """The mean of the middle values of each element, which is what both robust rules come to."""

    @abstractmethod
    def cut(self, updates: int) -> int:
        """How many values are cut off at each end."""

    def fold(
        self, deltas: Sequence[Array], weights: Sequence[float], divisor: float, total: Block, room: Block
    ) -> None:
        cut = self.cut(len(deltas))
        kept = len(deltas) - 2 * cut
        for place, values in _sorted(deltas):
            middle = total[place]
            middle[...] = values[:, cut]
            for column in range(cut + 1, cut + kept):
                middle += values[:, column]
        total /= kept


@dataclass(frozen=True)
class Median(_Sorting):
    """Of each element the middle value; of an even number of updates, the mean of the two in the middle."""

    def cut(self, updates: int) -> int:
        return (updates - 1) // 2

    def warning(self, updates: int) -> str:
        return "" if updates > 2 else f"the median of {updates} updates is their mean: it needs three or more"


@dataclass(frozen=True)
class TrimmedMean(_Sorting):
    """Of each element the mean without its int(trim · n) lowest and as many highest values."""

    trim: float = TRIM

    def cut(self, updates: int) -> int:
        return int(self.trim * updates)

    def warning(self, updates: int) -> str:
        if self.cut(updates):
            return ""
        return f"a trim of {self.trim:g} cuts none of {updates} updates: set aggregation.trim higher"


def _scale(delta: Array, weight: float, out: Block) -> None:
    if delta.dtype == out.dtype:
        np.multiply(delta, weight, out=out)
    else:
        # Widened first and then multiplied in place: faster than a multiplication that casts on its way.
        out[...] = delta
        out *= weight


def make(settings: Settings) -> Rule:
    """The rule that a federation's `[aggregation]` table asks for.

    Raises:
        ConfigError: there is none of that name.
    """
    match settings.rule:
        case "mean":
            return Mean()
        case "median":
            return Median()
        case "trimmed-mean":
            return TrimmedMean(TRIM if settings.trim is None else settings.trim)
    raise ConfigError(f"aggregation rule {settings.rule!r} is not known; take mean, median or trimmed-mean")


def _sorted(deltas: Sequence[Array]) -> Iterator[tuple[slice, Array]]:
    """The places of a block, piece by piece, each with a row of sorted values for every element.

    A row is valid until the next piece. They are sorted as they come: widening keeps the order.
    """
    size = deltas[0].size
    step = max(1, min(SORTED // len(deltas), size))
    room = np.empty((step, len(deltas)), deltas[0].dtype)
    for start in range(0, size, step):
        place = slice(start, min(start + step, size))
        values = room[: place.stop - start]
        for column, delta in enumerate(deltas):
            values[:, column] = delta[place]
        if values.dtype.kind == "f":
            # There are two zeros, which sort as equal: which of them comes first is left to chance.
            values += 0.0
        values.sort(axis=1)
        yield place, values
