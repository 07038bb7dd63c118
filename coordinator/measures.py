"""What a payload's tensors hold, in figures. Pure. Reads block by block: payloads may be maps of any size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import hypot

import numpy as np
import numpy.typing as npt

from shared.weights import Array, Buffer, Layout

#: Elements that are looked at together.
BLOCK = 1 << 18
Block = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measures:
    """One tensor: how many values are no numbers or infinite; of the others the extremes and the norm.

    `norm` is the Euclidean one. All are 0 where there is no number.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    not_finite: int
    low: float
    high: float
    norm: float


def measures(layout: Layout, payload: Buffer) -> Iterator[Measures]:
    """The tensors' measures, in the layout's order.

    Raises:
        MessageError: the payload's length is not the layout's.
    """
    for tensor, values in zip(layout.tensors, layout.views(payload).values(), strict=True):
        yield Measures(tensor.name, tensor.dtype, tensor.shape, *_measured(values.reshape(-1)))


def _measured(values: Array) -> tuple[int, float, float, float]:
    bad, low, high, norm = 0, np.inf, -np.inf, 0.0
    for block in _blocks(values):
        numbers = block[np.isfinite(block)]
        bad += block.size - numbers.size
        if numbers.size:
            low, high = min(low, float(numbers.min())), max(high, float(numbers.max()))
            norm = hypot(norm, _norm(numbers))
    return (bad, low, high, norm) if low <= high else (bad, 0.0, 0.0, 0.0)


def _norm(numbers: Block) -> float:
    """Scaled, so that squares neither overflow nor vanish."""
    largest = float(np.abs(numbers).max())
    return largest * float(np.sqrt(np.square(numbers / largest).sum())) if largest else 0.0


def _blocks(values: Array) -> Iterator[Block]:
    """Complex numbers count as two values."""
    if values.dtype.kind == "c":
        values = values.view(values.real.dtype)
    for start in range(0, values.size, BLOCK):
        yield values[start : start + BLOCK].astype(np.float64)
