"""What people are shown while a coordinator leads: the store, and what it waits for."""

from __future__ import annotations

import logging

from coordinator.facts import Phase, State
from coordinator.flood import Floods
from coordinator.issuing import missing_sites, wanted
from coordinator.mirror import Mirror
from coordinator.output import Output
from shared.runtime import Runtime

log = logging.getLogger(__name__)

#: How long the store is left alone after a write, in seconds, and at least in times of what that took.
MIRROR_S = 0.1
MIRROR_REST = 20


class Showing:
    """The store follows in steps, so that it costs a busy federation, or one of thousands, little."""

    def __init__(self, mirror: Mirror, output: Output, floods: Floods, runtime: Runtime) -> None:
        self._mirror = mirror
        self._output = output
        self._floods = floods
        self._runtime = runtime
        self._write_at = 0.0
        self._said = ""

    def patience(self, state: State, patience_s: float) -> float:
        """How long the coordinator may wait for news: no longer than the store may lag behind."""
        if not self._mirror.behind(state):
            return patience_s
        return min(patience_s, max(self._write_at - self._runtime.monotonic(), 0.0))

    def show(self, state: State, *, at_once: bool = False) -> None:
        """Says what is new, and writes to the store if it is time."""
        text = waiting_for(state)
        if text and text != self._said:
            log.info(text)
        self._said = text
        now = self._runtime.monotonic()
        if at_once or now >= self._write_at:
            self._mirror.write(state, self._output.history, text, self._floods.shown())
            after = self._runtime.monotonic()
            self._write_at = after + max(MIRROR_S, MIRROR_REST * (after - now))


def waiting_for(state: State) -> str:
    """What a federation that gathers clients lacks; "" if nothing."""
    if state.phase is not Phase.GATHERING:
        return ""
    here = sorted(state.sites - state.absent - state.rules.evaluators)
    names = f" ({', '.join(here[:5])}{', …' if len(here) > 5 else ''})" if here else ""
    missing = missing_sites(state)
    lacking = f"; missing to evaluate: {', '.join(missing)}" if missing else ""
    return f"waiting for clients: {len(state.trainable)} of {wanted(state)} are here{names}{lacking}"
