"""The state machine, case by case: what follows from what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.applying import apply
from coordinator.facts import Phase, Rules, State
from coordinator.moves import Answered, CaughtUp, Died, Dropped, Resumed, Seen, Tick
from coordinator.selection import Selection


def start(world, rules, sites=("a", "b", "c"), clients=1):
    """A federation whose sites are there and whose first round is open."""
    made = world(rules)
    for site in sites:
        made.feed(Seen(made.now, site, tuple(str(n) for n in range(clients))))
    if rules.initial_from_site:
        made.answer(made.issued[0])
    return made


def open_orders(made):
    return list(made.state.waiting.values())


def kinds(made):
    return [entry.kind for entry in made.journal]


def test_first_round_waits_for_min_clients_and_the_initial_weights(world):
    made = world(Rules(min_clients=2))
    made.feed(Seen(made.now, "a", ("0",)))
    assert [order.work for order in made.issued] == ["initialise"]
    made.answer(made.issued[0])
    assert made.state.phase is Phase.GATHERING
    made.feed(Seen(made.now, "b", ("0",)))
    assert made.state.phase is Phase.OPEN
    assert made.state.cohort == ("a/0", "b/0")
    assert kinds(made)[-4:] == ["round-closing", "round-closed", "registered", "round-opened"]


def test_round_closes_when_all_answered_and_the_next_opens_on_the_new_version(world):
    made = start(world, Rules(rounds=2, min_clients=3))
    for order in open_orders(made):
        assert made.answer(order).verdict.ruling == "accepted"
    assert (made.state.round, made.state.version) == (2, 1)
    assert {order.version for order in open_orders(made)} == {1}
    for order in open_orders(made):
        made.answer(order)
    assert made.ended is not None
    assert made.ended.code == 0


def test_target_closes_early_and_the_rest_is_late(world):
    made = start(world, Rules(rounds=3, min_clients=3, target=2))
    first, second, third = open_orders(made)
    made.answer(first)
    made.answer(second)
    assert made.state.round == 2
    assert made.answer(third).verdict.ruling == "late"


def test_stale_update_joins_the_open_round_unless_a_fresher_one_is_there(world):
    made = start(world, Rules(rounds=4, min_clients=3, target=2, max_staleness=1))
    first, second, third = open_orders(made)
    made.answer(first)
    made.answer(second)
    assert made.answer(third).verdict.ruling == "accepted"
    fresh = next(order for order in open_orders(made) if order.client == third.client)
    made.answer(fresh)
    other = next(order for order in open_orders(made) if order.client == first.client)
    made.answer(other)
    rows = made.closings()[-1].rows
    assert sorted((row[0], row[2]) for row in rows) == sorted([(third.client, 1), (first.client, 1)])
    assert made.closings()[-1].data["counts"]["late"] == 1


def test_duplicates_count_once_and_a_success_supersedes_a_failure(world):
    made = start(world, Rules(min_clients=3, target=3))
    first, *_ = open_orders(made)
    assert made.answer(first, error="no memory").verdict.ruling == "failed"
    assert made.answer(first).verdict.ruling == "accepted"
    assert made.answer(first).verdict.ruling == "duplicate"
    assert made.answer(first, error="no memory").verdict.ruling == "duplicate"
    assert list(made.state.accepted) == [first.id]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"client": "z/0"}, "not registered"),
        ({"sender": "b"}, "does not speak for"),
        ({"examples": -5}, "-5 examples"),
        ({"examples": 0}, "0 examples"),
        ({"turn": 9}, "not that of what it answers"),
        ({"refusal": "tensor 'w' holds values that are not finite"}, "not finite"),
    ],
)
def test_refused_with_a_reason_and_the_round_goes_on(world, changes, reason):
    made = start(world, Rules(min_clients=3, attest=True))
    first, second, third = open_orders(made)
    changes = {"id": "0" * 32, **changes} if "turn" in changes else changes
    verdict = made.answer(first, **changes).verdict
    assert verdict.ruling == "refused"
    assert reason in verdict.reason
    made.answer(second)
    made.answer(third)
    if not verdict.its_own:
        made.answer(first)
    assert made.ended is not None
    refusals = made.closings()[-1].data["refusals"]
    assert [reason in text for text in refusals] == [True]


def test_strangers_answer_does_not_settle_the_order(world):
    made = start(world, Rules(min_clients=3, attest=True))
    first, *_ = open_orders(made)
    made.answer(first, sender="b")
    assert first.id in made.state.waiting
    assert made.answer(first).verdict.ruling == "accepted"


def test_a_failed_client_is_replaced_once_even_after_a_crash(world):
    made = start(world, Rules(selection=Selection(size=2), min_clients=4), sites="abcd")
    first, second = open_orders(made)
    made.answer(first, error="broken")
    replacement = made.issued[-1]
    assert replacement.client not in (first.client, second.client)
    made.crash()
    assert made.journal[-1].kind == "assigned"
    assert {order.client for order in open_orders(made)} == {second.client, replacement.client}


def test_dead_letter_is_recorded_and_replaced(world):
    made = start(world, Rules(selection=Selection(size=2), min_clients=4), sites="abcd")
    first, _ = open_orders(made)
    made.feed(Died(made.now, first.id, "never taken"))
    assert "failed" in kinds(made)
    assert first.id not in made.state.waiting
    assert len(open_orders(made)) == 2


def test_deadline_closes_with_the_minimum(world):
    made = start(world, Rules(min_clients=3, minimum=2, deadline_s=10))
    for order in open_orders(made)[:2]:
        made.answer(order)
    made.tick(9.9)
    assert made.ended is None
    made.tick(0.2)
    assert made.ended is not None
    assert len(made.closings()[-1].rows) == 2


def test_wait_asks_the_missing_again_with_the_next_turn(world):
    made = start(world, Rules(min_clients=3, minimum=3, deadline_s=10, on_missing="wait", absent_s=1e6))
    answered, *missing = open_orders(made)
    made.answer(answered)
    made.tick(10)
    again = open_orders(made)
    assert [(order.client, order.turn) for order in again] == [(order.client, 1) for order in missing]
    # The first request is still good.
    assert made.answer(missing[0]).verdict.ruling == "accepted"
    made.answer(again[1])
    made.answer(again[0])
    assert made.ended is not None


def test_skip_keeps_the_version_and_stop_ends_with_the_reason(world):
    made = start(
        world, Rules(min_clients=3, minimum=3, deadline_s=10, on_missing="skip", rounds=2, absent_s=1e6)
    )
    made.answer(open_orders(made)[0])
    made.tick(10)
    assert (made.state.round, made.state.version) == (2, 0)
    made = start(world, Rules(min_clients=3, minimum=3, deadline_s=10, on_missing="stop", absent_s=1e6))
    made.tick(10)
    assert made.ended is not None
    assert made.ended.code == 4
    assert "0 of at least 3" in made.ended.reason


def test_absent_sites_are_not_picked_until_they_are_seen_again(world):
    made = start(world, Rules(rounds=3, min_clients=3, absent_s=20, deadline_s=1000))
    for order in open_orders(made)[:2]:
        made.answer(order)
    made.now += 15
    for site in "ab":
        made.feed(Seen(made.now, site, ("0",)))
    made.tick(6)
    assert made.state.absent == {"c"}
    made.answer(open_orders(made)[0])
    assert made.state.cohort == ("a/0", "b/0")
    made.feed(Seen(made.now, "c", ("0",)))
    for order in open_orders(made):
        made.answer(order)
    assert made.state.cohort == ("a/0", "b/0", "c/0")


def test_over_selection_asks_more_and_closes_on_what_was_wanted(world):
    rules = Rules(selection=Selection(size=4, over_select=1.5), min_clients=10, rounds=2)
    made = start(world, rules, sites=("a",), clients=10)
    assert len(open_orders(made)) == 6
    for order in open_orders(made)[:4]:
        made.answer(order)
    assert made.state.round == 2


def test_buffered_keeps_concurrency_and_closes_at_every_buffer(world):
    made = start(
        world, Rules(buffered=True, concurrency=3, buffer=2, max_staleness=10, rounds=4, min_clients=3)
    )
    slow, _quick, _other = open_orders(made)
    while made.ended is None:
        fast = next(order for order in open_orders(made) if order.client != slow.client)
        made.answer(fast)
        assert made.ended or len(open_orders(made)) == 3
        if made.state.version == 3 and slow.id in made.state.waiting:
            made.answer(slow)
    assert [len(entry.rows) for entry in made.closings()[1:]] == [2, 2, 2, 2]
    assert [row[2] for entry in made.closings() for row in entry.rows if row[1] == slow.id] == [0]


def test_buffered_gives_an_overdue_place_away(world):
    rules = Rules(
        buffered=True, concurrency=2, buffer=2, deadline_s=10, min_clients=3, absent_s=1e6, max_staleness=5
    )
    made = start(world, rules)
    lost, kept = open_orders(made)
    made.now += 5
    made.answer(kept)
    made.tick(5.1)
    assert lost.id not in made.state.waiting
    assert len(open_orders(made)) == 2
    assert made.answer(lost).verdict.ruling == "accepted"


def test_initialise_goes_on_to_the_next_client_and_fails_when_none_can(world):
    made = world(Rules(min_clients=2))
    made.feed(Seen(made.now, "a", ("0",)))
    made.feed(Seen(made.now, "b", ("0",)))
    made.answer(made.issued[0], error="no torch here")
    assert made.issued[1].client == "b/0"
    made.answer(made.issued[1], error="nor here")
    assert made.ended is not None
    assert made.ended.code == 4
    assert "nor here" in made.ended.reason


def test_late_initialise_answer_is_no_update(world):
    made = world(Rules(min_clients=2, max_staleness=3, deadline_s=5, absent_s=1e6))
    made.feed(Seen(made.now, "a", ("0",)))
    made.feed(Seen(made.now, "b", ("0",)))
    made.tick(5)
    first, second = made.issued
    made.answer(second)
    assert made.state.phase is Phase.OPEN
    assert made.answer(first).verdict.ruling == "late"


def test_refused_answers_are_counted_but_their_offsets_bounded(world):
    made = start(world, Rules(min_clients=3))
    first, *_ = open_orders(made)
    for _ in range(100):
        made.answer(first, refusal="broken")
    for order in open_orders(made):
        made.answer(order)
    ((count, offsets),) = made.closings()[-1].data["refusals"].values()
    assert count == 100
    assert len(offsets) == 20


def test_evaluate_only_sites_score_every_version_and_never_train(world):
    made = start(world, Rules(rounds=1, min_clients=2, evaluators=frozenset("c")))
    assert made.state.cohort == ("a/0", "b/0")
    asked = [order for order in made.issued if order.work == "evaluate"]
    assert [order.client for order in asked] == ["c/0"]
    assert made.answer(asked[0], evaluation={"accuracy": 0.9}, evaluated=30).verdict.ruling == "accepted"
    for order in open_orders(made):
        made.answer(order, evaluation={"accuracy": 0.5}, evaluated=10)
    closing = made.closings()[-1]
    assert len(closing.rows) == 2
    assert closing.data["metrics"]["accuracy"] == pytest.approx((0.9 * 30 + 0.5 * 20) / 50)
    assert made.ended is not None


def test_no_round_waits_for_an_evaluation(world):
    made = start(world, Rules(rounds=2, min_clients=2, evaluators=frozenset("c")))
    asked = next(order for order in made.issued if order.work == "evaluate")
    for order in open_orders(made):
        made.answer(order)
    assert made.state.round == 2
    assert made.answer(asked).verdict.ruling == "late"


def test_the_last_version_is_evaluated_by_all_until_the_deadline(world):
    made = start(
        world, Rules(rounds=1, min_clients=2, evaluators=frozenset("c"), evaluate_last=True, deadline_s=10)
    )
    for order in open_orders(made):
        made.answer(order)
    assert made.state.phase is Phase.EVALUATING
    assert sorted(order.client for order in open_orders(made)) == ["a/0", "b/0", "c/0"]
    first, second, _ = open_orders(made)
    made.answer(first, evaluation={"accuracy": 1.0})
    made.crash()
    made.answer(second, evaluation={"accuracy": 0.0})
    made.tick(10)
    (entry,) = [entry for entry in made.journal if entry.kind == "evaluated"]
    assert entry.data["version"] == 1
    assert entry.data["metrics"] == {"accuracy": 0.5}
    assert len(entry.rows) == 2
    assert made.ended.code == 0


def test_sites_cannot_fill_the_journal_with_reasons(world):
    made = start(world, Rules(min_clients=3))
    first, *others = open_orders(made)
    for number in range(200):
        made.answer(first, error=f"reason {number}")
        made.answer(first, refusal=f"reason {number}")
    for order in (first, *others):
        made.answer(order)
    assert len(made.closings()[-1].data["refusals"]) <= 52


def test_what_was_dropped_unread_is_counted_as_refused_and_needed_no_more(world):
    made = start(world, Rules(min_clients=3))
    offset = len(made.results)
    for number in range(100):
        made.feed(Dropped(made.now, offset + number, "login 'a' floods", offset + number + 1))
    assert (made.state.decided, made.state.read_from) == (offset + 99, offset + 100)
    for order in open_orders(made):
        made.answer(order)
    data = made.closings()[-1].data
    ((count, offsets),) = data["refusals"].values()
    assert count == data["counts"]["refused"] == 100
    assert len(offsets) == 20


def test_absent_clients_are_stood_in_for_and_orders_do_not_pile_up(world):
    made = start(
        world, Rules(min_clients=2, minimum=2, deadline_s=10, on_missing="wait", absent_s=15), sites="ab"
    )
    first, _ = open_orders(made)
    made.answer(first)
    made.tick(10)
    made.feed(Seen(made.now, "a", ("0",)))
    made.tick(6)
    assert made.state.absent == {"b"}
    made.feed(Seen(made.now, "c", ("0",)))
    made.tick(4)
    assert [order.client for order in open_orders(made)] == ["c/0"]
    made.answer(open_orders(made)[0])
    assert made.ended is not None
    assert sorted(row[0] for row in made.closings()[-1].rows) == ["a/0", "c/0"]


def test_asking_again_does_not_ask_those_who_are_away(world):
    made = start(
        world, Rules(min_clients=2, minimum=2, deadline_s=10, on_missing="wait", absent_s=15), sites="ab"
    )
    for _ in range(20):
        made.tick(10)
    assert len(made.state.orders) <= 6
    made.feed(Seen(made.now, "a", ("0",)))
    made.feed(Seen(made.now, "b", ("0",)))
    made.tick(10)
    assert {order.client for order in open_orders(made)} == {"a/0", "b/0"}


@pytest.mark.parametrize("on_missing", ["wait", "skip", "stop"])
def test_no_deadline_strikes_before_the_log_is_reread(world, on_missing):
    made = start(world, Rules(min_clients=3, minimum=3, deadline_s=10, on_missing=on_missing))
    orders = open_orders(made)
    for order in orders[:2]:
        made.answer(order)
    # The third answer reached the log, and the coordinator died before it read it.
    made.now += 30
    late = replace(made.results[-1], id=orders[2].id, client=orders[2].client, offset=len(made.results))
    made.results.append(late)
    state = apply_all(made)
    made.state = state
    made.feed(Resumed(made.now))
    made.feed(Tick(made.now))
    for answer in made.results[max(state.read_from, 0) :]:
        made.feed(Answered(made.now, answer, answer.offset, answer.offset + 1))
        made.feed(Tick(made.now))
    made.feed(CaughtUp(made.now, frozenset()))
    assert made.ended is not None
    assert made.ended.code == 0
    assert len(made.closings()[-1].rows) == 3


def apply_all(made):
    state = State(made.rules)
    for entry in made.journal:
        state = apply(state, entry)
    return state


def test_forged_bytes_do_not_settle_an_order(world):
    made = start(world, Rules(min_clients=3))
    first, *_ = open_orders(made)
    verdict = made.answer(first, refusal="false SHA-256", forged=True).verdict
    assert verdict.ruling == "refused"
    assert first.id in made.state.waiting


@pytest.mark.parametrize("evaluate_last", [True, False])
def test_a_crash_behind_the_last_round_opens_no_other(world, evaluate_last):
    made = start(world, Rules(rounds=1, min_clients=3, evaluate_last=evaluate_last))
    for order in open_orders(made):
        made.answer(order)
    while made.journal[-1].kind != "round-closed":
        made.journal.pop()
    made.crash()
    assert made.state.round == 1
    assert "round-opened" not in kinds(made)[kinds(made).index("round-closed", -3) :]
    assert made.state.phase is (Phase.EVALUATING if evaluate_last else Phase.FINISHED)


@pytest.mark.parametrize("buffered", [True, False])
def test_the_next_leaders_clock_may_be_hours_behind(world, buffered):
    rules = Rules(
        rounds=1, min_clients=3, minimum=3, deadline_s=10, buffered=buffered, concurrency=3, buffer=3,
        absent_s=1e6,
    )  # fmt: skip
    made = start(world, rules)
    asked = len(made.issued)
    made.now -= 10_000
    made.crash()
    before = len(made.issued)
    made.tick(11)
    assert len(made.issued) > max(before, asked)


def test_new_leader_asks_another_for_what_failed_before_it_closes_with_fewer(world):
    rules = Rules(minimum=1, min_clients=4, initial_from_site=False, selection=Selection(size=2))
    made = start(world, rules, sites=("a", "b", "c", "d"))
    brings, fails = open_orders(made)
    written = list(made.journal)
    made.answer(brings)
    made.answer(fails, error="no data", examples=0)
    (live,) = open_orders(made)
    made.journal[:] = written
    made.crash()
    assert open_orders(made) == [live]
    made.answer(live)
    assert [row[0] for row in made.closings()[-1].rows] == sorted([brings.client, live.client])
