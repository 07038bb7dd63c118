"""Simulated processes: strands that die together, a clock that may be wrong, and a `Runtime`.

A strand is what a thread would be. It runs until it waits; so a process is killed or frozen while its strands
wait, or at a `step` of theirs. What a killed process still does on its way out (its `finally` blocks) meets
ports that do nothing any more.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable
from typing import Any

import greenlet

from tests.simulation.scheduler import Call, Killed, Scheduler, Strand

#: The true time at which every simulation begins, in seconds since 1970.
EPOCH_S = 1_700_000_000.0


class Process:
    """A process of one machine: strands that die together, and a `Runtime` for what runs in it.

    `offset` and `rate` are its clock's: seconds ahead, and seconds that it counts a true second.
    `on_step(process, what)` is called where it uses a port, and may kill or freeze it there; `on_end` when
    its first strand has ended, killed or not.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        name: str,
        *,
        offset: float = 0.0,
        rate: float = 1.0,
        on_step: Callable[[Process, str], None] | None = None,
        on_end: Callable[[Process, Strand], None] | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.name = name
        self.offset = offset
        self.rate = rate
        self.alive = True
        self.frozen = False
        self.to_wake: list[tuple[Strand, int]] = []
        self.at_death: list[Call] = []
        self._on_step = on_step
        self._on_end = on_end
        self._strands: list[Strand] = []

    # --- the runtime

    def time(self) -> float:
        return EPOCH_S + self.offset + self.scheduler.now * self.rate

    def monotonic(self) -> float:
        return self.scheduler.now * self.rate

    def inbox(self) -> Inbox:
        return Inbox(self)

    def flag(self) -> Flag:
        return Flag(self)

    def start(self, call: Callable[[], Any], name: str) -> Strand:
        strand = Strand(self, call, name)
        self._strands.append(strand)
        wait = strand.arm()
        strand.wake_soon(wait)
        return strand

    # --- waiting

    def strand(self) -> Strand:
        """The strand that runs, which has to be one of this process."""
        strand = greenlet.getcurrent()
        assert isinstance(strand, Strand)
        return strand

    def wait(self, seconds: float | None, register: Callable[[Strand, int], None] | None = None) -> None:
        """Waits so many seconds of true time (None: for ever), or until what `register` is given is woken."""
        if not self.alive:
            raise Killed
        strand = self.strand()
        wait = strand.arm()
        if register is not None:
            register(strand, wait)
        if seconds is not None:
            self.scheduler.after(seconds, lambda: strand.wake(wait))
        strand.suspend()

    def step(self, what: str) -> None:
        """A place where faults may strike."""
        if not self.alive:
            raise Killed
        self.scheduler.note(self.name, what)
        if self._on_step is not None:
            self._on_step(self, what)

    # --- what may happen to it

    def kill(self) -> None:
        """Ends it as kill -9 does. Not to be called by a strand: those call `die_here`."""
        if not self.alive:
            return
        self.alive = False
        self.scheduler.note(self.name, "killed")
        for call in self.at_death:
            call()
        for strand in self._strands:
            if strand:  # begun, and not ended
                strand.throw(Killed)
            elif not strand.ended:
                strand.ended = True
        self._end()

    def die_here(self) -> None:
        """Kills the process that the running strand is of."""
        self.scheduler.at_once(self.kill)
        self.wait(None)

    def freeze(self, seconds: float) -> None:
        """Stops its strands for so long; what comes for them meanwhile waits."""
        self.frozen = True
        self.scheduler.note(self.name, f"frozen for {seconds:.1f} s")
        self.scheduler.after(seconds, self.thaw)

    def thaw(self) -> None:
        if not self.frozen:
            return
        self.frozen = False
        self.scheduler.note(self.name, "goes on")
        for strand, wait in self.to_wake:
            strand.wake_soon(wait)
        self.to_wake.clear()

    def strand_ended(self, strand: Strand) -> None:
        """Called by a strand at its end: with the first the whole process ends."""
        if self.alive and strand is self._strands[0]:
            self.scheduler.at_once(self._exit)

    def _exit(self) -> None:
        if self.alive:
            self.alive = False
            for call in self.at_death:
                call()
            for strand in self._strands:
                if strand:
                    strand.throw(Killed)
            self._end()

    def _end(self) -> None:
        if self._on_end is not None:
            self._on_end(self, self._strands[0])


class Inbox:
    """A queue of a process's; see `shared.runtime.Inbox`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._items: deque[Any] = deque()
        self._waiting: tuple[Strand, int] | None = None

    def put(self, item: Any) -> None:
        self._items.append(item)
        if self._waiting is not None:
            strand, wait = self._waiting
            self._waiting = None
            strand.wake_soon(wait)

    def get(self, *, timeout: float | None = None) -> Any:
        if not self._process.alive:
            raise Killed
        if not self._items:
            seconds = None if timeout is None else max(timeout, 0.0) / self._process.rate
            self._process.wait(seconds, self._register)
            self._waiting = None
        if not self._items:
            raise queue.Empty
        return self._items.popleft()

    def _register(self, strand: Strand, wait: int) -> None:
        self._waiting = strand, wait


class Flag:
    """A flag of a process's; see `shared.runtime.Flag`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._set = False
        self._waiting: list[tuple[Strand, int]] = []

    def set(self) -> None:
        self._set = True
        for strand, wait in self._waiting:
            strand.wake_soon(wait)
        self._waiting.clear()

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set:
            seconds = None if timeout is None else max(timeout, 0.0) / self._process.rate
            self._process.wait(seconds, self._register)
        return self._set

    def _register(self, strand: Strand, wait: int) -> None:
        # One strand waits again and again: its earlier waits are over.
        self._waiting = [each for each in self._waiting if each[0] is not strand]
        self._waiting.append((strand, wait))
