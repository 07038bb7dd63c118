"""One thread and a virtual clock: who runs next, of all that could, is drawn from a seed."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

import greenlet

if TYPE_CHECKING:
    from tests.simulation.process import Process

Call = Callable[[], None]


class Killed(BaseException):
    """Raised in the strands of a process that was killed."""


class Scheduler:
    """Events in the order of virtual time; those of the same moment in an order of the seed's."""

    def __init__(self, rng: Random, say: Callable[[str], None] | None = None) -> None:
        """`say`: takes each line of the trace."""
        self.rng = rng
        self.now = 0.0
        self.hub = greenlet.getcurrent()
        self._say = say
        self._events: list[tuple[float, float, int, Call]] = []
        self._urgent: deque[Call] = deque()
        self._count = 0

    def after(self, delay: float, call: Call) -> None:
        """Calls when `delay` seconds have passed."""
        self._count += 1
        heapq.heappush(self._events, (self.now + max(delay, 0.0), self.rng.random(), self._count, call))

    def at_once(self, call: Call) -> None:
        """Calls before anything else happens; the strand that asks for it has to wait."""
        self._urgent.append(call)

    def run(self, is_over: Callable[[], bool], limit: float) -> bool:
        """Lets time pass until it is over; returns False if it isn't by the time `limit`."""
        while not is_over():
            if self._urgent:
                self._urgent.popleft()()
            elif not self._events or self._events[0][0] > limit:
                return False
            else:
                self.now, _, _, call = heapq.heappop(self._events)
                call()
        return True

    def note(self, who: str, what: str) -> None:
        """A line of the trace: the same seed gives the same ones."""
        if self._say is not None:
            self._say(f"{self.now:11.4f} {who:<14} {what}")


class Strand(greenlet.greenlet):
    """A call that may wait."""

    def __init__(self, process: Process, call: Callable[[], Any], name: str) -> None:
        super().__init__(parent=process.scheduler.hub)
        self.process = process
        self.name = name
        self.ended = False
        self.value: Any = None
        self.error: BaseException | None = None
        self._call = call
        self._wait = 0
        self._joining: list[tuple[Strand, int]] = []

    def run(self) -> None:
        """Called by greenlet, at the first switch."""
        try:
            self.value = self._call()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - the process's end tells it to the world
            self.error = error
        self.ended = True
        for strand, wait in self._joining:
            strand.wake_soon(wait)
        self.process.strand_ended(self)

    def arm(self) -> int:
        """A number for the wait that follows: only a wake with it ends that wait."""
        self._wait += 1
        return self._wait

    def suspend(self) -> None:
        """Waits for a wake."""
        self.process.scheduler.hub.switch()

    def wake_soon(self, wait: int) -> None:
        self.process.scheduler.after(0.0, lambda: self.wake(wait))

    def wake(self, wait: int) -> None:
        """Goes on with a wait, if it still waits so; in a frozen process, once that thaws."""
        if wait != self._wait or not self.process.alive or self.ended:
            return
        if self.process.frozen:
            self.process.to_wake.append((self, wait))
        else:
            self._wait += 1
            self.switch()

    def join(self) -> None:
        """Waits for its end."""
        me = self.process.strand()
        if not self.ended:
            self._joining.append((me, me.arm()))
            me.suspend()
