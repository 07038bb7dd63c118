"""Many seeds, on several processes."""

from __future__ import annotations

import gc
import logging
import multiprocessing
from collections import Counter
from collections.abc import Iterable, Iterator

from tests.simulation.run import Result, simulate
from tests.simulation.world import told

#: Seeds that a process takes at one time.
CHUNK = 20


def results(seeds: Iterable[int], lossy: bool, jobs: int) -> Iterator[Result]:
    """The results of all seeds, as they come."""
    work = [(seed, lossy) for seed in seeds]
    if jobs == 1:
        _begin()
        yield from map(_attempt, work)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, _begin) as pool:
        yield from pool.imap_unordered(_attempt, work, CHUNK)


class Total:
    """What came of many seeds."""

    def __init__(self) -> None:
        self.seeds = self.wrong = self.rounds = self.changes = 0
        self.faults: Counter[str] = Counter()

    def add(self, result: Result) -> None:
        self.seeds += 1
        self.wrong += bool(result.wrong)
        self.rounds += result.rounds
        self.changes += max(result.leaders - 1, 0)
        self.faults += result.faults

    def text(self, seconds: float) -> str:
        """One line for people."""
        pace = 60 * self.seeds / max(seconds, 1e-9)
        return (
            f"{self.seeds} federations ({pace:.0f} a minute), {self.wrong} of them wrong; "
            f"{self.rounds} rounds, {self.changes} changes of leader, {sum(self.faults.values())} faults"
        )


def _begin() -> None:
    logging.disable(logging.CRITICAL)
    # Greenlets leave cycles; collecting them seldom is a tenth of the time.
    gc.set_threshold(200_000)


def _attempt(work: tuple[int, bool]) -> Result:
    seed, lossy = work
    try:
        return simulate(seed, lossy=lossy)
    except Exception as error:  # noqa: BLE001 - one broken run must not end the others
        return Result(seed, [f"the simulation broke: {told(error)}"])
