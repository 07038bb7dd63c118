"""Time by phase, measured by wrapping functions from outside: the product knows nothing of it."""

from __future__ import annotations

import functools
import importlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

#: Which functions of the coordinator are which phase. What they call of one another counts there alone.
COORDINATOR: Mapping[str, str] = {
    "coordinator.issuing:cohort": "select",
    "coordinator.issuing:ranking": "select",
    "coordinator.service:step": "decide",
    "coordinator.dispatch:Dispatch.issue": "publish",
    "coordinator.service:Coordinator._next": "wait",
    "coordinator.spool:Spool.take": "spool",
    "coordinator.intake:answer_of": "validate",
    "coordinator.models:GlobalModel.fold": "fold",
    "coordinator.journal:Writer.append": "close",
    "coordinator.mirror:Mirror.write": "Redis",
    "coordinator.output:Output.written": "files",
}
#: And of a worker. None of them calls another.
WORKER: Mapping[str, str] = {
    "worker.tasks:Tasks.weights": "fetch",
    "worker.service:subtract": "pack",
    "worker.service:Worker._report": "pack",
    "worker.service:Worker._answer": "upload",
}


class Stopwatch:
    """Seconds by phase on the thread that made it; a phase within a phase stops the outer one."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._stack = ["other"]
        self.begin()

    def begin(self) -> None:
        """Begins to count anew."""
        self._totals: dict[str, float] = defaultdict(float)
        self._since = time.perf_counter()
        self._readers = reader_seconds()

    def totals(self) -> dict[str, float]:
        """Seconds by phase since `begin`; beside them, of a core, what the adapters' threads used."""
        self._lap()
        return {**self._totals, "threads": reader_seconds() - self._readers}

    def wrap(self, call: Callable[..., Any], phase: str) -> Callable[..., Any]:
        @functools.wraps(call)
        def timed(*arguments: Any, **named: Any) -> Any:
            if threading.get_ident() != self._thread:
                return call(*arguments, **named)
            self._lap()
            self._stack.append(phase)
            try:
                return call(*arguments, **named)
            finally:
                self._lap()
                self._stack.pop()

        return timed

    def _lap(self) -> None:
        now = time.perf_counter()
        self._totals[self._stack[-1]] += now - self._since
        self._since = now


def replace(place: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Puts a wrapper around what "module:name" or "module:Class.name" names.

    Raises:
        AttributeError: there is nothing of that name (any more).
    """
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for each in outer:
        owner = getattr(owner, each)
    setattr(owner, name, wrapper(getattr(owner, name)))


def reader_seconds() -> float:
    """Seconds of a core that all threads but the main one have used."""
    total = 0.0
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and thread.native_id is not None:
            try:
                spent = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text()
            except FileNotFoundError:  # it has just ended
                continue
            total += int(spent.split()[0]) / 1e9
    return total
