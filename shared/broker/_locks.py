"""Advisory file locks (flock): who holds one lives, for the kernel drops it with the process.

A forked child would keep its parent's locks alive, so it closes its copies at once.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import BrokerUnreachable

#: How long to wait for another process to finish its write before it counts as hung.
PATIENCE_S = 30.0
#: About what a write takes.
_PAUSE_S = 0.0001

_open: set[int] = set()


def open_lock(path: Path) -> int:
    """A descriptor to lock `path` by; made if it isn't there."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _open.add(descriptor)
    return descriptor


def close_lock(descriptor: int) -> None:
    """Gives up the descriptor and its lock."""
    _open.discard(descriptor)
    os.close(descriptor)


def take(descriptor: int) -> bool:
    """Locks it if nobody else has; returns whether it did."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def held(descriptor: int, stop: threading.Event | None = None) -> Iterator[None]:
    """Holds the lock for a block.

    Raises:
        BrokerUnreachable: another process kept it for PATIENCE_S, or `stop` was set while waiting.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not take(descriptor):
        if time.monotonic() > deadline:
            raise BrokerUnreachable(
                f"another process has held the embedded broker's lock for {PATIENCE_S:.0f} s: "
                "look for one that is stopped, and continue or end it"
            )
        if stop is not None and stop.is_set():
            raise BrokerUnreachable("stopped while waiting for the embedded broker's lock")
        time.sleep(_PAUSE_S)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock on `path`; a file that is gone is held by nobody."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _close_in_child() -> None:
    for descriptor in _open:
        os.close(descriptor)
    _open.clear()


os.register_at_fork(after_in_child=_close_in_child)
