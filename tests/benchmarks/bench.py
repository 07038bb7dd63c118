"""What every section of the benchmark is given: services, a folder, and how thorough to be."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from tests.benchmarks.process import BenchmarkFailed
from tests.services import RabbitNode, RedisServer


@dataclass
class Bench:
    """One run. `quick`: fewer and smaller measurements, to see that all works. `say` tells people."""

    quick: bool
    folder: Path
    rabbit: RabbitNode
    redis: RedisServer
    say: Callable[[str], None]
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def place(self) -> Path:
        """A new folder, whose name is a federation's that no other has."""
        folder = self.folder / f"bench-{next(self._numbers)}"
        folder.mkdir()
        return folder

    @property
    def brokers(self) -> Mapping[str, list[str]]:
        """The command line's words for a broker and a state store, by what they are called in tables."""
        return {RABBIT: ["--broker", self.rabbit.url, "--state", self.redis.url], EMBEDDED: []}


RABBIT = "RabbitMQ + Redis"
EMBEDDED = "embedded"


@contextmanager
def serving(quick: bool, say: Callable[[str], None]) -> Iterator[Bench]:
    """A bench with services of its own; nothing of it is left behind."""
    with ExitStack() as stack:
        rabbit, redis = RabbitNode(), RedisServer()
        for service in (rabbit, redis):
            stack.callback(service.stop)
            service.start()
        # In the service's own, which its guard removes even if this process is killed.
        folder = rabbit.folder / "bench"
        folder.mkdir()
        yield Bench(quick, folder, rabbit, redis, say)


@contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    """A deadline for all that is done in the context, by the process's one alarm.

    Raises:
        BenchmarkFailed: it took longer.
    """

    def late(_number: int, _frame: FrameType | None) -> None:
        raise BenchmarkFailed(f"{what} took more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
