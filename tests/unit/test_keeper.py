"""When a leader has to look into the journal, since its lease may have been another's."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from coordinator.lease import Keeper
from shared.runtime import Threads


class Beats(Threads):
    """Runs the keeper's thread a renewal at a time; each takes the store `takes_s`."""

    def __init__(self) -> None:
        self.now = 100.0
        self.takes_s = 0.0
        self.holder = "mine"
        self._waits: list[bool] = []

    def monotonic(self) -> float:
        return self.now

    def flag(self):
        return SimpleNamespace(wait=lambda _: self._waits.pop(0))

    def start(self, call, name):
        self._call = call

    def lease(self, token: str, ttl_s: float) -> str:
        self.now += self.takes_s
        return self.holder

    def beat(self) -> None:
        self._waits = [False, True]
        self._call()


@pytest.fixture
def beats() -> Beats:
    return Beats()


@pytest.fixture
def keeper(beats) -> Keeper:
    return Keeper(beats, "mine", 10.0, beats)


def test_a_lease_that_is_renewed_in_time_is_not_in_doubt(beats, keeper):
    for _ in range(5):
        beats.now += 9.0
        beats.beat()
        assert not keeper.in_doubt()


def test_a_lease_that_another_has_is_in_doubt_at_once(beats, keeper):
    beats.holder = "another's"
    beats.now += 1.0
    beats.beat()
    assert keeper.in_doubt()


@pytest.mark.parametrize(("slept_s", "takes_s"), [(10.0, 0.0), (9.0, 2.0)])
def test_a_lease_that_ran_out_before_it_was_renewed_is_in_doubt_until_the_journal_is_read(
    beats, keeper, slept_s, takes_s
):
    beats.now += slept_s
    beats.takes_s = takes_s
    beats.beat()
    assert keeper.in_doubt()
    keeper.looking()
    assert not keeper.in_doubt()


def test_doubt_that_comes_up_while_the_journal_is_read_stays(beats, keeper):
    beats.now += 10.0
    assert keeper.in_doubt()
    keeper.looking()
    beats.now += 10.0
    beats.beat()
    assert keeper.in_doubt()
