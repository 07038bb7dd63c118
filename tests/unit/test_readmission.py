"""Refused updates that an operator lets in: what may be, what it comes to, and crashes in between."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.facts import Phase, Rules
from coordinator.moves import Appealed, Seen
from coordinator.selection import Selection

HUGE = {"refusal": "tensor 'w' holds values that are absurdly large"}


def start(world, rules, sites="abc"):
    made = world(rules)
    for site in sites:
        made.feed(Seen(made.now, site, ("0",)))
    made.answer(made.issued[0])
    return made


def orders(made):
    return list(made.state.waiting.values())


def rows(made, closing=-1):
    return [(row[0], row[1]) for row in made.closings()[closing].rows]


def test_a_refused_update_counts_like_any_other_once_it_is_let_in(world):
    made = start(world, Rules(min_clients=3, rounds=2))
    first, second, third = orders(made)
    assert made.answer(first, **HUGE).verdict.ruling == "refused"
    refused = made.results[-1]
    made.answer(second)
    assert made.appeal(refused, refusal="") == ""
    assert made.state.phase is Phase.OPEN
    made.answer(third)
    assert made.state.round == 2
    assert rows(made) == [(order.client, order.id) for order in (first, second, third)]
    counts = made.closings()[-1].data["counts"]
    assert (counts["accepted"], counts["refused"], counts["readmitted"]) == (3, 1, 1)
    entry = next(entry for entry in made.journal if entry.kind == "readmitted")
    assert (entry.data["who"], entry.data["reason"]) == ("ann", "looked at it")
    assert entry.data["update"]["offset"] == refused.offset


def test_letting_in_the_last_one_closes_the_round(world):
    made = start(world, Rules(min_clients=3))
    first, *others = orders(made)
    for order in others:
        made.answer(order)
    made.answer(first, **HUGE)
    assert made.ended is not None, "two of two that came are enough"
    made = start(world, Rules(min_clients=3, minimum=3, deadline_s=10, absent_s=1e6))
    first, *others = orders(made)
    made.answer(first, **HUGE)
    refused = made.results[-1]
    for order in others:
        made.answer(order)
    assert made.ended is None
    assert made.appeal(refused, refusal="") == ""
    assert made.ended is not None
    assert len(rows(made)) == 3


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"refusal": "tensor 'w' holds values that are not finite"}, "not finite"),
        ({"refusal": "its payload does not have the SHA-256 that it claims"}, "SHA-256"),
        ({"refusal": "", "error": "out of memory"}, "failure report"),
        ({"refusal": "", "examples": 0}, "no weight"),
        ({"refusal": "", "examples": -5}, "no weight"),
        ({"refusal": "", "client": "b/0"}, "contradicts"),
        ({"refusal": "", "version": 7}, "contradicts"),
        ({"refusal": "", "id": "0" * 32}, "not that of what it answers"),
    ],
)
def test_what_can_never_count_stays_out_and_that_is_in_the_journal(world, changes, why):
    made = start(world, Rules(min_clients=3))
    first, *_ = orders(made)
    made.answer(first, **HUGE)
    before = made.state
    assert why in made.appeal(made.results[-1], **changes)
    assert made.state.accepted == before.accepted
    assert made.journal[-1].kind == "readmitted"
    made.crash()
    assert made.state.accepted == before.accepted


def test_many_examples_and_another_s_login_may_be_overruled(world):
    made = start(world, Rules(min_clients=3, attest=True))
    first, second, _ = orders(made)
    assert "does not speak for" in made.answer(first, sender="x").verdict.reason
    assert made.appeal(made.results[-1]) == ""
    assert "examples" in made.answer(second, examples=1 << 50).verdict.reason
    assert made.appeal(made.results[-1]) == ""
    assert set(made.state.accepted) == {first.id, second.id}
    assert first.id not in made.state.waiting


def test_an_order_counts_once_whichever_way_its_updates_come(world):
    made = start(world, Rules(min_clients=3, minimum=3))
    first, second, _ = orders(made)
    made.answer(first, **HUGE)
    refused = made.results[-1]
    assert made.appeal(refused, refusal="") == ""
    assert "already" in made.appeal(refused, refusal="")
    assert made.answer(first).verdict.ruling == "duplicate"
    made.answer(second, **HUGE)
    other = made.results[-1]
    made.answer(second)
    assert "already" in made.appeal(other, refusal="")
    assert list(made.state.accepted) == [first.id, second.id]


def test_a_request_is_decided_once_however_often_it_is_delivered(world):
    made = start(world, Rules(min_clients=3))
    first, *_ = orders(made)
    made.answer(first, **HUGE)
    refused = made.results[-1]
    assert made.appeal(refused, request="r", refusal="") == ""
    entries, state = len(made.journal), made.state
    made.crash()
    for _ in range(2):
        made.feed(Appealed(made.now, "r", replace(refused, refusal=""), "", "ann", "boss"))
    assert len(made.journal) == entries
    assert made.state.accepted == state.accepted


def test_a_crash_gives_back_what_was_let_in_at_the_place_where_it_was(world):
    made = start(world, Rules(min_clients=3, minimum=3, absent_s=1e6))
    first, second, third = orders(made)
    made.answer(first, **HUGE)
    refused = made.results[-1]
    made.answer(second)
    made.appeal(refused, refusal="", metrics={"loss": 0.5})
    made.answer(first)
    before = made.state
    made.crash()
    assert list(made.state.accepted) == [second.id, first.id]
    assert made.state.accepted == before.accepted
    assert (
        made.state.counts == before.counts == {"accepted": 2, "refused": 1, "readmitted": 1, "duplicate": 1}
    )
    made.answer(third)
    assert made.ended is not None
    assert len(rows(made)) == 3
    assert "train_loss" in made.closings()[-1].data["metrics"]


def test_an_earlier_round_s_update_may_be_let_in_while_it_is_fresh_enough(world):
    made = start(world, Rules(min_clients=3, rounds=4, target=2, minimum=2, max_staleness=2, absent_s=1e6))
    first, second, third = orders(made)
    made.answer(first, **HUGE)
    refused = made.results[-1]
    made.answer(second)
    made.answer(third)
    assert made.state.round == 2
    made.crash()
    assert made.appeal(refused, refusal="") == ""
    made.crash()
    assert made.state.accepted[first.id].version == 0
    other = next(order for order in orders(made) if order.client != first.client)
    made.answer(other)
    assert (first.client, first.id) in rows(made)
    # Nobody lets it in a second time, now that it was counted; nor what is too old.
    made.crash()
    assert not made.state.accepted
    assert "already" in made.appeal(refused, refusal="")
    for order in orders(made)[:2]:
        made.answer(order)
    assert "versions behind" in made.appeal(refused, refusal="")


def test_a_fresher_update_of_its_client_keeps_it_out(world):
    made = start(world, Rules(min_clients=3, minimum=3, deadline_s=10, absent_s=1e6))
    first, *_ = orders(made)
    made.answer(first, **HUGE)
    refused = made.results[-1]
    made.tick(10)
    again = next(order for order in orders(made) if order.client == first.client)
    made.answer(again)
    assert "has an accepted update" in made.appeal(refused, refusal="")


def test_its_stand_in_counts_beside_it(world):
    made = start(world, Rules(selection=Selection(size=2), min_clients=4, minimum=2), "abcd")
    first, second = orders(made)
    made.answer(first, **HUGE)
    refused = made.results[-1]
    stand_in = made.issued[-1]
    assert made.appeal(refused, refusal="") == ""
    made.crash()
    made.answer(second)
    made.answer(stand_in)
    assert {id_ for _, id_ in rows(made)} == {first.id, second.id, stand_in.id}


def test_in_buffered_mode_it_fills_the_buffer(world):
    made = start(
        world, Rules(buffered=True, concurrency=3, buffer=2, min_clients=3, rounds=3, max_staleness=3)
    )
    first, second, _ = orders(made)
    made.answer(first, **HUGE)
    refused = made.results[-1]
    made.answer(second)
    assert made.appeal(refused, refusal="") == ""
    assert made.state.round == 2
    assert {id_ for _, id_ in rows(made)} == {first.id, second.id}


def test_nothing_is_let_in_while_no_round_is_open(world):
    made = start(world, Rules(min_clients=3, minimum=2, rounds=2, absent_s=10, max_staleness=1))
    first, *others = orders(made)
    made.answer(first, **HUGE)
    refused = made.results[-1]
    made.tick(20)
    for order in others:
        made.answer(order)
    assert made.state.phase is Phase.GATHERING
    assert made.appeal(refused, refusal="") == "no round is open now"


def test_what_a_fresher_update_stood_in_for_stays_settled_after_a_crash(world):
    made = start(world, Rules(min_clients=3, rounds=4, target=2, minimum=2, max_staleness=2, absent_s=1e6))
    first, second, third = orders(made)
    made.answer(first, **HUGE)
    refused = made.results[-1]
    made.answer(second)
    made.answer(third)
    assert made.appeal(refused, refusal="") == ""
    fresh = next(order for order in orders(made) if order.client == first.client)
    made.answer(fresh)
    made.answer(next(order for order in orders(made) if order.client != first.client))
    assert (first.client, fresh.id) in rows(made)
    assert made.closings()[-1].data["counts"]["late"] == 1
    made.crash()
    assert made.state.round == 3
    assert "already" in made.appeal(refused, refusal="")
