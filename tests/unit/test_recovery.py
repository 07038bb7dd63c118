"""What a coordinator that takes the lead makes of the entries before its own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from coordinator.facts import Entry, Rules, State
from coordinator.recovery import Replay


@pytest.fixture
def replay():
    """A federation of two clients, whose first round was opened and may not have gone out."""
    silent = SimpleNamespace(entry=lambda _: None, replayed=lambda _: None)
    made = Replay(State(Rules(rounds=2)), silent, silent)
    made.take(Entry("federation-started", 0.0, {"run": "r", "config": {}}))
    made.take(Entry("registered", 0.0, {}, [["a", ["0", "1"]]]))
    opened = {"round": 1, "version": -1, "digest": "", "deadline_at": 60.0, "target": None, "evaluators": []}
    made.take(Entry("round-opened", 0.0, opened, ["a/0", "a/1"]))
    return made


def test_orders_of_the_last_entry_may_not_have_gone_out(replay):
    assert replay.unsure == replay.state.orders.keys()
    assert len(replay.unsure) == 2


def test_a_leader_that_died_before_it_sent_them_leaves_them_unsure_whatever_it_wrote(replay):
    unsure = replay.unsure
    dead = {"id": "another", "client": "a/0", "reason": "its site never answered it"}
    for entry in (
        Entry("leader", 1.0),
        Entry("registered", 1.0, {}, [["b", ["0"]]]),
        Entry("absent", 1.0, {}, ["b"]),
        Entry("failed", 1.0, dead),
    ):
        replay.take(entry)
        assert replay.unsure == unsure


def test_what_a_leader_wrote_after_it_sent_them_makes_them_sure(replay):
    replay.take(Entry("assigned", 2.0, {"work": "train", "draws": 1, "deadline_at": 90.0}, [["a/0", 1, ""]]))
    assert len(replay.unsure) == 1
    assert {replay.state.orders[id_].turn for id_ in replay.unsure} == {1}


def test_a_leader_that_found_the_results_shortened_and_died_leaves_all_orders_unsure(replay):
    opened = replay.unsure
    replay.take(Entry("assigned", 2.0, {"work": "train", "draws": 1, "deadline_at": 90.0}, [["a/0", 1, ""]]))
    replay.take(Entry("leader", 3.0))
    replay.take(Entry("results-lost", 3.0, {"end": 0}))
    replay.take(Entry("registered", 3.0, {}, [["b", ["0"]]]))
    assert replay.unsure == replay.state.orders.keys() > opened
