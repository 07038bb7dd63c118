"""The fold's speed, beside the memory's, and beside a weighted mean in plain numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from coordinator.aggregation import Contribution, aggregate
from coordinator.blocks import BLOCK
from coordinator.config import Server
from coordinator.optimizers import make
from coordinator.rules import Mean
from shared.weights import Weights
from tests.benchmarks.bandwidth import Lanes
from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import significant, spread
from tests.benchmarks.machine import in_turn
from tests.benchmarks.report import Section, Table

UPDATES = 10
THREADS = (1, 2)
#: Far more than any cache holds.
LANE_BYTES = 200_000_000
TITLE = "Fold"
NOTES = [
    f"{UPDATES} updates in memory, FedAvg. The fold's bytes are those of the updates and the base that it "
    "reads and of the model that it writes, each once, whatever it does in caches; so are those of the plain "
    "mean, `total += w * delta.astype(float64)` over whole arrays, on one thread. Memory: *copy* counts an "
    "array read and one written; *triad* is a = b + s · c in numpy's two passes, which count as five arrays; "
    "*read* is the largest of an array. All take turns.",
    "The fold widens each float32 to float64, multiplies, and adds: three passes of numpy over a block, two "
    "for float64. *passes alone* are just these, each over the same block for as many updates, which never "
    "leaves the cache: what the fold comes to with a memory that takes no time at all. A pass reads from "
    "memory or computes in the cache, one after the other, and that is the fold's speed. Fewer passes would "
    "take compiled code; a matrix product (BLAS) has other bits on other machines.",
]


@dataclass(frozen=True)
class Case:
    """A model of one dtype, and the updates to it."""

    base: Weights
    contributions: Sequence[Contribution]

    @classmethod
    def of(cls, dtype: str, nbytes: int) -> Case:
        rng = np.random.default_rng(1)
        items = nbytes // np.dtype(dtype).itemsize
        deltas = [rng.random(items).astype(dtype) for _ in range(UPDATES)]
        contributions = [
            Contribution(f"client-{number}", 0, 1.0 + number, memoryview(delta).cast("B"))
            for number, delta in enumerate(deltas)
        ]
        return cls(Weights.from_arrays({"w": np.zeros(items, dtype)}), contributions)

    @property
    def moved(self) -> int:
        return (len(self.contributions) + 2) * self.base.layout.nbytes

    def fold(self, threads: int) -> int:
        optimizer = make(Server(optimizer="fedavg"))
        aggregate(
            self.base, self.contributions, normalise="weights", optimizer=optimizer, state={}, threads=threads
        )
        return self.moved

    def passes(self, threads: int, pool: ThreadPoolExecutor) -> int:
        """The rule's arithmetic for a whole model, on one block a thread; returns the bytes of a fold."""
        items = self.base.arrays["w"].size
        blocks = -(-items // (BLOCK * threads))
        delta = np.frombuffer(self.contributions[0].delta, self.base.arrays["w"].dtype)[:BLOCK].copy()
        weights = [contribution.weight for contribution in self.contributions]

        def work(own: np.ndarray[Any, Any]) -> None:
            total, room = np.empty((2, own.size))
            for _ in range(blocks):
                Mean().fold([own] * len(weights), weights, sum(weights), total, room)

        list(pool.map(work, [delta.copy() for _ in range(threads)]))
        return self.moved

    def plain(self) -> int:
        base = self.base.arrays["w"]
        total, weights = np.zeros(base.size), 0.0
        for contribution in self.contributions:
            delta: np.ndarray[Any, Any] = np.frombuffer(contribution.delta, base.dtype)
            total += contribution.weight * delta.astype(np.float64)
            weights += contribution.weight
        (base + total / weights).astype(base.dtype)
        return self.moved


def measure(bench: Bench, section: Section) -> None:
    heads = ["what", "threads", "runs", "GB/s", "of copy on as many threads"]
    times = 5 if bench.quick else 9
    for dtype in ("float32", "float64"):
        bench.say(f"fold: {dtype}")
        nbytes = 20_000_000 if bench.quick else 100_000_000
        speeds = speeds_of(Case.of(dtype, nbytes), times)
        table = Table(f"{UPDATES} updates of {nbytes / 1e6:.0f} MB {dtype}: median (10th to 90th)", heads)
        for (what, threads), values in speeds.items():
            share = spread(values).median / spread(speeds["copy", threads]).median
            cells = [what, str(threads), str(len(values)), spread(values).text(1e9), f"{share:.0%}"]
            table.rows.append(cells)
            section.figures[f"{dtype} {what} {threads} GB/s"] = spread(values).median / 1e9
            section.figures[f"{dtype} {what} {threads} %"] = 100 * share
        section.tables.append(table)
        section.tables.append(_limits(dtype, speeds))


def _limits(dtype: str, speeds: Mapping[tuple[str, int], Sequence[float]]) -> Table:
    """What the fold comes to if all is read from memory, and the passes are made, one after the other."""
    heads = ["threads", "read", "passes alone", "read, then passes", "fold", "fold's share of that"]
    table = Table(f"Why the fold of {dtype} is no faster: GB/s", heads)
    for threads in THREADS:
        read, passes, fold = (
            spread(speeds[what, threads]).median / 1e9 for what in ("read", "passes alone", "fold")
        )
        both = 1 / (1 / read + 1 / passes)
        cells = [significant(value, 3) for value in (read, passes, both, fold)]
        table.rows.append([str(threads), *cells, f"{fold / both:.0%}"])
    return table


def speeds_of(case: Case, times: int) -> dict[tuple[str, int], list[float]]:
    """Bytes a second, by what was done in turn and on how many threads."""
    with ThreadPoolExecutor(max(THREADS)) as pool:
        lanes = Lanes(LANE_BYTES // 8, pool)
        calls: dict[tuple[str, int], Callable[[], int]] = {}
        for threads in THREADS:
            calls["fold", threads] = partial(case.fold, threads)
            calls["passes alone", threads] = partial(case.passes, threads, pool)
            for kind in (lanes.copy, lanes.triad, lanes.read):
                calls[kind.__name__, threads] = partial(kind, threads)
        calls["plain numpy", 1] = case.plain
        moved = {name: call() for name, call in calls.items()}
        seconds = in_turn(calls, times)
    return {name: [moved[name] / each for each in values] for name, values in seconds.items()}
