"""What the machine's memory does at best, as far as numpy reaches it: what the fold is held against."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Lanes:
    """Arrays that threads work on, each on its own stretch. All calls return the bytes that they moved."""

    def __init__(self, items: int, pool: ThreadPoolExecutor) -> None:
        self._a, self._b, self._c = (np.ones(items) for _ in range(3))
        self._pool = pool

    def copy(self, threads: int) -> int:
        """a = b: one array is read and one written (STREAM's copy; the read before a write isn't counted)."""
        self._each(threads, lambda a, b, _: np.copyto(a, b))
        return 2 * self._a.nbytes

    def triad(self, threads: int) -> int:
        """a = b + s · c, which numpy does in two passes: two reads and a write, and one read and write."""

        def work(a: Array, b: Array, c: Array) -> None:
            np.multiply(c, 3.0, out=a)
            np.add(a, b, out=a)

        self._each(threads, work)
        return 5 * self._a.nbytes

    def read(self, threads: int) -> int:
        """The largest of a: one array is read."""
        self._each(threads, lambda a, _b, _c: a.max())
        return self._a.nbytes

    def _each(self, threads: int, work: Callable[[Array, Array, Array], object]) -> None:
        arrays = (self._a, self._b, self._c)
        stretches = zip(*(np.array_split(array, threads) for array in arrays), strict=True)
        list(self._pool.map(lambda stretch: work(*stretch), stretches))
