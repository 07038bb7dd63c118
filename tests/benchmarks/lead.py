"""`warren`, but after each round it waits until its standard input says how many more: `N` and a newline.

Prints a JSON object for the first assignment it issues, and for each round. With `--phases=FOLDER` as its
first argument it also tells where each round's time went, and starts workers that note the same in FOLDER.
Its end is the end of its input.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coordinator import __main__ as product
from coordinator import lifecycle
from tests.benchmarks.wrapping import COORDINATOR, Stopwatch, replace


class Gate:
    """An observer on the coordinator's own thread, which it holds up between rounds."""

    def __init__(self, watch: Stopwatch | None) -> None:
        self._watch = watch
        self._credit = 0
        self._since = time.monotonic()

    def changed(self, state: Any) -> None:
        """Nothing."""

    def ruled(self, answer: Any, verdict: Any) -> None:
        """Nothing."""

    def closed(self, line: Mapping[str, Any]) -> None:
        seconds = time.monotonic() - self._since
        phases = self._watch.totals() if self._watch else {}
        about = {key: line[key] for key in ("round", "accepted", "digest")}
        say({**about, "seconds": seconds, "phases": phases})
        while self._credit == 0:
            text = sys.stdin.readline()
            if not text:
                signal.raise_signal(signal.SIGTERM)
                return
            self._credit = int(text)
        self._credit -= 1
        self._since = time.monotonic()
        if self._watch:
            self._watch.begin()


def say(what: Mapping[str, Any]) -> None:
    print(json.dumps(what), flush=True)


def tell_first(issue: Callable[..., Any]) -> Callable[..., Any]:
    """`Dispatch.issue`, which tells when the first assignments are out."""
    told: list[bool] = []

    def issued(*arguments: Any) -> Any:
        result = issue(*arguments)
        if not told:
            told.append(True)
            say({"issued": time.monotonic()})
        return result

    return issued


def main() -> None:
    watch = None
    if sys.argv[1].startswith("--phases="):
        watch = Stopwatch()
        notes = sys.argv.pop(1).partition("=")[2]
        for place, phase in COORDINATOR.items():
            replace(place, lambda call, phase=phase: watch.wrap(call, phase))  # type: ignore[misc]
        replace("coordinator.local:command", lambda command: noting(command, notes))
    replace("coordinator.dispatch:Dispatch.issue", tell_first)
    gate = Gate(watch)

    def gated(config: Any, target: Any, threads: int, observers: Sequence[Any], stop: Any) -> Any:
        return built(config, target, threads, [*observers, gate], stop)

    built, lifecycle.build = lifecycle.build, gated
    product.main()


def noting(command: Callable[..., Sequence[str]], notes: str) -> Callable[..., Sequence[str]]:
    """`local.command`, which starts this benchmark's worker instead."""

    def made(*arguments: Any) -> Sequence[str]:
        python, dash_m, _, *rest = command(*arguments)
        return [python, dash_m, "tests.benchmarks.serve", notes, *rest]

    return made


if __name__ == "__main__":
    main()
