"""`warren-worker`, which notes where the time of each assignment went: a JSON line each, in its own file.

Its first argument is the folder of the notes; the others are the worker's.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.wrapping import WORKER, replace
from worker import __main__ as product
from worker.cli import THREAD_VARIABLES


class Notes:
    """Seconds by phase since the last answer. Training and answering take turns, on two threads."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seconds: dict[str, float] = defaultdict(float)

    def wrap(self, call: Callable[..., Any], phase: str) -> Callable[..., Any]:
        @functools.wraps(call)
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self._seconds[phase] += time.perf_counter() - began

        return timed

    def written(self, answer: Callable[..., Any]) -> Callable[..., Any]:
        """`Worker._answer`, after which the line is written."""

        @functools.wraps(answer)
        def answered(worker: Any, given: Any, delivery: Any) -> Any:
            answer(worker, given, delivery)
            with self._file.open("a") as file:
                file.write(json.dumps({"round": given.update.round, **self._seconds}) + "\n")
            self._seconds.clear()

        return answered

    def training(self, load: Callable[..., Any]) -> Callable[..., Any]:
        """`worker.training.load`, which gives trainers whose `fit` is timed."""

        def loaded(*arguments: Any) -> Any:
            trainer = load(*arguments)
            trainer.fit = self.wrap(trainer.fit, "train")
            return trainer

        return loaded


def main() -> None:
    notes = Notes(Path(sys.argv.pop(1)) / f"{os.getpid()}.jsonl")
    # What is wrapped imports numpy, before which the number of its threads must be known.
    for variable in THREAD_VARIABLES:
        os.environ[variable] = "1"
    for place, phase in WORKER.items():
        replace(place, lambda call, phase=phase: notes.wrap(call, phase))  # type: ignore[misc]
    replace("worker.service:Worker._answer", notes.written)
    replace("worker.training:load", notes.training)
    product.main()


if __name__ == "__main__":
    main()
