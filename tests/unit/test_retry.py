"""The retry policy: when it goes on, when it stops, and what it says."""

from __future__ import annotations

import threading

import pytest

from shared.retry import FIRST_PAUSE_S, JITTER_S, LONGEST_PAUSE_S, Pauses, retrying


def test_goes_on_until_it_works_with_growing_pauses(caplog: pytest.LogCaptureFixture) -> None:
    pauses: list[float] = []
    failures = iter([OSError("not yet")] * 8)

    def call() -> str:
        for failure in failures:
            raise failure
        return "there"

    assert retrying(OSError, stop=threading.Event(), sleep=pauses.append)(call) == "there"
    assert len(pauses) == 8
    assert all(
        FIRST_PAUSE_S * 2**n <= pause <= FIRST_PAUSE_S * 2**n + JITTER_S for n, pause in enumerate(pauses[:5])
    )
    assert LONGEST_PAUSE_S <= pauses[-1] <= LONGEST_PAUSE_S + JITTER_S
    assert caplog.messages == ["not yet; trying again"], "an outage is said once"


def test_other_errors_are_not_tried_again() -> None:
    def call() -> None:
        raise ValueError("for good")

    with pytest.raises(ValueError, match="for good"):
        retrying(OSError, stop=threading.Event())(call)


def test_stop_raises_the_last_error_and_ends_the_pause() -> None:
    stop = threading.Event()
    calls = []

    def call() -> None:
        calls.append(1)
        if len(calls) == 2:
            stop.set()
        raise OSError(f"call {len(calls)}")

    with pytest.raises(OSError, match="call 2"):
        retrying(OSError, stop=stop)(call)


def test_pauses_grow_and_begin_anew() -> None:
    pauses = Pauses()
    taken = [pauses.next() for _ in range(10)]
    assert taken[0] <= FIRST_PAUSE_S + JITTER_S
    assert LONGEST_PAUSE_S <= taken[-1] <= LONGEST_PAUSE_S + JITTER_S
    pauses.reset()
    assert pauses.next() <= FIRST_PAUSE_S + JITTER_S
