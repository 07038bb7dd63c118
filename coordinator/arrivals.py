"""When the answers in a results log came: an estimate, since the log keeps their order only. Pure.

What is known of an answer: when its order was issued; how long its worker says that it worked on it; that no
worker does two things at once; that it came no earlier than what stands before it in the log; and between
which closings it was read, since a closing says up to which offset. The estimate is the earliest time that
all of this allows. What a worker only claims can so shift it within its round, and no further.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf, isfinite

from coordinator.facts import Answer
from coordinator.story import Past, Story

#: What was read behind a closing came at least so long behind it, in seconds.
BEHIND_S = 1e-6


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer as it lies in the results log: `seconds` is how long `worker` says that it worked on it."""

    answer: Answer
    worker: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Came:
    """An answer, and how long behind its order's issue it came, in seconds."""

    answer: Answer
    after_s: float


def arrivals(heard: Iterable[Heard], story: Story) -> Iterator[Came]:
    """When each answer came that answers a known order, in the order of the log."""
    windows = sorted(story.rounds.values(), key=lambda past: past.decided)
    ends = [past.decided for past in windows]
    free: dict[str, float] = {}
    before = 0.0
    for one in heard:
        order = story.orders.get(one.answer.id)
        if order is None:
            continue
        place = bisect_left(ends, one.answer.offset)
        earliest = max(before, windows[place - 1].closing_at + BEHIND_S if place else 0.0)
        latest = _read_by(windows[place]) if place < len(windows) else inf
        worked = max(one.seconds, 0.0) if isfinite(one.seconds) else 0.0
        at = max(order.issued_at, free.get(one.worker, 0.0)) + worked
        at = min(max(at, earliest), max(latest, earliest))
        before = free[one.worker] = at
        yield Came(one.answer, max(at - order.issued_at, 0.0))


def _read_by(past: Past) -> float:
    """Until when an answer came that a round counted or refused: its deadline, even if it was read later."""
    return min(past.closing_at, past.deadline_at)
