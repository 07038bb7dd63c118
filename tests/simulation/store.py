"""The simulated state store: `coordinator.state.port.StateStore`, with answers that may be lost."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeVar

from coordinator.state.port import SECTIONS, Changes, Section, Snapshot
from shared.errors import StateUnreachable
from tests.simulation.broker import Lags
from tests.simulation.process import Process
from tests.simulation.scheduler import Scheduler

Answer = TypeVar("Answer")

#: How long a client waits for an answer, in seconds.
TIMEOUT_S = 2.0


class Shelf:
    """What the store holds; its clock is the true one."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._lease: tuple[str, float] | None = None
        self._sections: dict[Section, dict[str, str]] = {}
        self._history: list[str] = []
        self.wipe()

    def wipe(self) -> None:
        self._lease = None
        self._sections = {section: {} for section in SECTIONS}
        self._history = []

    @property
    def holder(self) -> str | None:
        if self._lease is None or self._lease[1] <= self._scheduler.now:
            return None
        return self._lease[0]

    def lease(self, token: str, ttl_s: float, instead_of: str | None) -> str:
        holder = self.holder
        if holder not in (None, token, instead_of):
            return str(holder)
        self._lease = token, self._scheduler.now + ttl_s
        return token

    def release(self, token: str) -> None:
        if self.holder == token:
            self._lease = None

    def write(self, token: str, changes: Changes) -> bool:
        if self.holder != token or len(self._history) < (changes.history_from or 0):
            return False
        for section, fields in changes.replace.items():
            self._sections[section] = dict(fields)
        for section, fields in changes.merge.items():
            self._sections[section].update(fields)
        if changes.history_from is not None:
            del self._history[changes.history_from :]
        self._history += changes.history
        return True

    def read(self) -> Snapshot:
        return Snapshot(
            {name: dict(fields) for name, fields in self._sections.items()}, list(self._history), self.holder
        )


class SimStore:
    """The store as a process sees it. `lossy`: the part of calls that are done and not answered."""

    def __init__(self, shelf: Shelf, process: Process, rng: Random, lags: Lags, lossy: float) -> None:
        self._shelf = shelf
        self._process = process
        self._rng = rng
        self._lags = lags
        self._lossy = lossy
        self._up_at = 0.0

    def cut(self, seconds: float) -> None:
        """Nothing gets through for so long."""
        self._up_at = max(self._up_at, self._process.scheduler.now + seconds)
        self._process.scheduler.note(self._process.name, f"line to the store cut for {seconds:.2f} s")

    def lease(self, token: str, ttl_s: float, instead_of: str | None = None) -> str:
        return self._call("lease", lambda: self._shelf.lease(token, ttl_s, instead_of))

    def release(self, token: str) -> None:
        self._call("release", lambda: self._shelf.release(token))

    def write(self, token: str, changes: Changes) -> bool:
        return self._call("write", lambda: self._shelf.write(token, changes))

    def read(self) -> Snapshot:
        return self._call("read", self._shelf.read)

    def clear(self) -> None:
        self._call("clear", self._shelf.wipe)

    def close(self) -> None:
        """There is nothing to give up."""

    def _call(self, what: str, call: Callable[[], Answer]) -> Answer:
        process = self._process
        process.step(f"store {what}")
        if process.scheduler.now < self._up_at:
            process.wait(TIMEOUT_S)
            raise StateUnreachable("the store does not answer")
        process.wait(self._lags())
        answer = call()
        if self._rng.random() < self._lossy:
            process.wait(TIMEOUT_S)
            raise StateUnreachable("the store did not answer in time")
        process.wait(self._lags())
        process.step(f"store {what} done")
        return answer
