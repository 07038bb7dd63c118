"""Time, threads and waiting, handed to whoever needs them.

`THREADS` is what processes run on. Tests may hand in another runtime, so that the real coordinator and the
real workers live under a clock, and an order of events, of the tests' own.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item")


class Inbox(Protocol[Item]):
    """A queue that any thread puts into and one takes from; unbounded."""

    def put(self, item: Item) -> None:
        """Puts in an item; never blocks."""

    def get(self, *, timeout: float | None = None) -> Item:
        """The next item; raises `queue.Empty` when there is none within `timeout` seconds."""


class Flag(Protocol):
    """Set once, by any thread."""

    def set(self) -> None: ...

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for it at most `timeout` seconds; returns whether it is set."""


class Task(Protocol):
    """A call under way on a thread of its own."""

    def join(self) -> None:
        """Waits for its end."""


class Runtime(Protocol):
    """Where a process gets its time, and what it waits on."""

    def time(self) -> float:
        """Seconds since 1970, by this process's clock."""

    def monotonic(self) -> float:
        """Seconds by a clock that never jumps."""

    def inbox(self) -> Inbox[Any]: ...

    def flag(self) -> Flag: ...

    def start(self, call: Callable[[], None], name: str) -> Task:
        """Calls on a thread of its own, which does not keep the process alive."""


class Threads:
    """The runtime of the standard library."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def inbox(self) -> Inbox[Any]:
        return queue.SimpleQueue()

    def flag(self) -> Flag:
        return threading.Event()

    def start(self, call: Callable[[], None], name: str) -> Task:
        thread = threading.Thread(target=call, name=name, daemon=True)
        thread.start()
        return thread


THREADS: Runtime = Threads()


def steady(runtime: Runtime) -> Callable[[], float]:
    """A clock that tells the time since 1970 as it is known now, and goes on from there without a jump."""
    began = runtime.time() - runtime.monotonic()
    return lambda: began + runtime.monotonic()
