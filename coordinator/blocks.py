"""A model's payload in pieces: neighbouring tensors of one dtype as runs, and runs cut into blocks.

The pieces are what the fold works on, and by what a payload is looked through. Nothing here copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.errors import MessageError
from shared.weights import DTYPES, Array, Buffer, Layout, Tensor

#: A block in the arithmetic of the fold.
Block = npt.NDArray[np.float64]

#: Elements that are folded at one time; measured: below it calls cost, far above it caches miss.
BLOCK = 1 << 17


@dataclass(slots=True)
class Run:
    """Neighbouring elements of one dtype; `start` and `stop` count elements of it from the payload's begin.

    `slot` is how many float elements of the model lie before it.
    """

    dtype: np.dtype[Any]
    start: int
    stop: int
    slot: int


def blocks_of(layout: Layout, size: int = BLOCK) -> list[Run]:
    """The layout's runs, cut into pieces of at most `size` elements.

    Raises:
        MessageError: a tensor is of truth values or complex numbers.
    """
    return [
        Run(run.dtype, start, min(start + size, run.stop), run.slot + start - run.start)
        for run in _runs(layout)
        for start in range(run.start, run.stop, size)
    ]


def folded_as(tensor: Tensor) -> np.dtype[Any]:
    """The dtype whose arithmetic folds the tensor: unsigned numbers' deltas are signed."""
    dtype = DTYPES[tensor.dtype]
    if dtype.kind not in "fiu":
        raise MessageError(f"tensor {tensor.name!r} is {tensor.dtype}, which has no mean: leave it out")
    return DTYPES[tensor.dtype.removeprefix("u")]


def items(buffer: Buffer, dtype: np.dtype[Any]) -> Array:
    """The whole items of that dtype in a buffer, as a view of it."""
    return np.frombuffer(buffer, dtype, memoryview(buffer).nbytes // dtype.itemsize)


def tensor_at(layout: Layout, byte: int) -> str:
    """The name of the tensor that this byte of the payload belongs to."""
    return next(t.name for t in layout.tensors if t.offset <= byte < t.offset + t.nbytes)


def _runs(layout: Layout) -> list[Run]:
    runs: list[Run] = []
    floats = 0
    for tensor in layout.tensors:
        if not tensor.size:
            continue
        dtype = folded_as(tensor)
        start = tensor.offset // dtype.itemsize
        if not runs or runs[-1].dtype != dtype or runs[-1].stop != start:
            runs.append(Run(dtype, start, start, floats))
        runs[-1].stop += tensor.size
        floats += tensor.size if dtype.kind == "f" else 0
    return runs
