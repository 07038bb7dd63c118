"""One policy for what may work a little later: growing pauses with jitter, until an event says stop."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_when_event_set,
    wait_exponential,
    wait_random,
)

log = logging.getLogger(__name__)

#: Pauses double from the first to the longest; the jitter keeps a fleet from coming back in step. Seconds.
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 3.0
JITTER_S = 0.2
#: An error that lasts is said again after so long, in seconds.
REMINDER_S = 30.0


def retrying(
    *transient: type[Exception], stop: threading.Event, sleep: Callable[[float], None] | None = None
) -> Retrying:
    """Calls again what raises a transient error, and says so.

    When `stop` is set the last error is raised. `sleep` pauses for some seconds, or less; by default it
    waits for `stop`.
    """
    return Retrying(
        retry=retry_if_exception_type(transient),
        wait=wait_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S) + wait_random(0, JITTER_S),
        stop=stop_when_event_set(stop),
        sleep=sleep or sleep_using_event(stop),
        before_sleep=_complaining(),
        reraise=True,
    )


class Pauses:
    """The same pauses, for what a timer calls again."""

    def __init__(self) -> None:
        self._next = FIRST_PAUSE_S

    def next(self) -> float:
        """How long to wait now, in seconds."""
        pause = self._next + random.uniform(0, JITTER_S)
        self._next = min(2 * self._next, LONGEST_PAUSE_S)
        return pause

    def reset(self) -> None:
        """It worked: begin with short pauses again."""
        self._next = FIRST_PAUSE_S


class Complaint:
    """Says what is wrong when it is new, and again while it lasts: people need it once, not at each try."""

    def __init__(self) -> None:
        self._said = ""
        self._again_at = 0.0

    def say(self, text: str) -> None:
        """Says that something is tried again, and why."""
        if text == self._said and time.monotonic() < self._again_at:
            return
        log.warning("%s; trying again", text)
        self._said, self._again_at = text, time.monotonic() + REMINDER_S


def _complaining() -> Callable[[RetryCallState], None]:
    complaint = Complaint()
    return lambda state: complaint.say(str(state.outcome.exception()) if state.outcome else "")
