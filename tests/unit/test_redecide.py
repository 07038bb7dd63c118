"""Rounds decided anew: as they were when nothing is changed, and as the rules say when something is."""

from __future__ import annotations

import heapq
from dataclasses import replace
from random import Random

import pytest

from coordinator.arrivals import Came, Heard, arrivals
from coordinator.facts import Closed, Rules
from coordinator.moves import Died, Seen
from coordinator.redecide import recount, redecide
from coordinator.selection import Selection
from coordinator.story import story_of, without

RULES = Rules(rounds=4, minimum=2, deadline_s=10.0, min_clients=3, initial_from_site=False)


def live(world, delay, sites="abc", later=(), crashes=lambda: False, then=lambda made: None):
    """A whole federation; `later` are sites that are seen, at a time. Returns the answers as they came.

    `delay`: what a client takes for an order, and what its answer is (None: it dies); or None, it is mute.
    `then` is called with the world behind each answer.
    """
    due = []
    for site in sites:
        world.feed(Seen(world.now, site, ("0",)))
    for at, site in later:
        heapq.heappush(due, (world.now + at, -1, site, {}))
    came, known = [], 0
    while (world.ended is None or due) and world.now < 2000:
        for order in world.issued[known:]:
            takes = delay(order)
            if takes is not None:
                seconds, changes = takes if isinstance(takes, tuple) else (takes, {})
                heapq.heappush(due, (world.now + seconds, known, order, changes))
            known += 1
        if not due:
            world.tick(1.0)
            continue
        at, _, what, changes = due[0]
        before = len(world.issued)
        while world.now < at and len(world.issued) == before:
            world.tick(min(0.25, at - world.now))
        if world.now < at:
            continue
        heapq.heappop(due)
        if crashes() and world.ended is None:
            world.crash()
        if isinstance(what, str):
            world.feed(Seen(world.now, what, ("0",)))
        elif changes is None:
            world.feed(Died(world.now, what.id, "never taken"))
        else:
            world.answer(what, **changes)
            came.append(Came(world.results[-1], world.now - what.issued_at))
            then(world)
    return came


def recorded(world):
    """The rounds behind version 0, as they closed: the updates' clients, and how stale they were."""
    version, rounds = 0, []
    for entry in world.journal:
        if entry.kind == "round-closing" and entry.data["round"]:
            rows = [Closed(*row) for row in entry.rows[0]]
            rounds.append([(row.client, version - row.version) for row in rows])
        elif entry.kind == "round-closed":
            version = entry.data["version"]
    return rounds


def anew(world, came, rules=None, gone=frozenset()):
    story = story_of(world.journal, rules or world.rules, 0)
    found = redecide(without(story, gone) if gone else story, came)
    rounds = [
        [(row.client, stale) for row, stale in zip(one.rows, one.behind, strict=True)] for one in found.rounds
    ]
    return rounds, found.reason


def some_rules(random):
    return Rules(
        seed=random.randrange(4),
        rounds=random.randrange(1, 7),
        minimum=random.randrange(1, 4),
        target=random.choice([None, None, 3]),
        deadline_s=10.0,
        selection=random.choice(
            [Selection(), Selection(size=3), Selection(fraction=0.6), Selection(size=3, over_select=1.4)]
        ),
        on_missing=random.choice(["wait", "skip", "stop"]),
        min_clients=random.randrange(3, 6),
        absent_s=1e9,
        max_staleness=random.randrange(3),
        initial_from_site=False,
        evaluate_last=random.choice([True, False]),
    )


@pytest.mark.parametrize("seed", range(200))
def test_nothing_changed_decides_as_it_was(world, seed):
    random = Random(seed)

    def delay(_order):
        kind = random.random()
        if kind < 0.1:
            return None
        seconds = random.choice([0.5, 1, 3, 9, 10, 11, 15, 25]) + random.random()
        if kind < 0.25:
            return seconds, random.choice([None, {"error": "out of memory"}, {"refusal": "not finite"}])
        return seconds

    lived = world(some_rules(random))
    later = [(random.choice([0.1, 12.3]), "f")]
    came = live(lived, delay, "abcde", later, lambda: random.random() < 0.05)
    rounds, reason = anew(lived, came)
    assert rounds == recorded(lived)
    assert reason == "these were all"
    assert len(rounds) == lived.rules.rounds or lived.ended.code == 4


def steady(**seconds):
    """Each site takes its time, always; None: it never answers."""
    return lambda order: seconds[order.client[0]]


@pytest.fixture
def with_a_slow_site(world):
    """Four rounds that closed with a and b at their deadline of 10 s; c came 2 s later, always."""
    lived = world(RULES)
    came = live(lived, steady(a=1.0, b=2.0, c=12.0))
    assert recorded(lived) == [[("a/0", 0), ("b/0", 0)]] * 4
    return lived, came


ALL = [("a/0", 0), ("b/0", 0), ("c/0", 0)]


@pytest.mark.parametrize(
    ("changes", "rounds"),
    [
        ({"deadline_s": 12.5}, [ALL] * 4),
        ({"deadline_s": 11.5}, [ALL[:2]] * 4),
        ({"deadline_s": 1.5}, [ALL[:2]] * 4),  # too few at the deadline: it asks again, and waits
        ({"deadline_s": 1.5, "minimum": 1}, [ALL[:1]] * 4),
        ({"target": 1, "minimum": 1}, [ALL[:1]] * 4),
        ({"minimum": 3}, [ALL] * 4),
        # c's update on the version before comes 2 s into the next round.
        ({"max_staleness": 1}, [ALL[:2]] + [[("a/0", 0), ("b/0", 0), ("c/0", 1)]] * 3),
        ({"max_staleness": 1, "target": 3}, [ALL[:2]] + [[("a/0", 0), ("b/0", 0), ("c/0", 1)]] * 3),
    ],
    ids=str,
)
def test_other_rules_count_other_updates(with_a_slow_site, changes, rounds):
    lived, came = with_a_slow_site
    assert anew(lived, came, replace(RULES, **changes)) == (rounds, "these were all")


def test_a_round_that_nothing_recorded_would_close_ends_the_replay(with_a_slow_site):
    lived, came = with_a_slow_site
    rounds, reason = anew(lived, came, replace(RULES, minimum=4))
    assert rounds == []
    assert reason == "round 1 would have gone on waiting for updates: 3 of at least 4"
    rounds, reason = anew(lived, came, replace(RULES, minimum=3, on_missing="stop"))
    assert (rounds, reason[:47]) == ([], "round 1 had 2 of at least 3 updates at its dead")


def test_a_skipped_round_leaves_its_updates_to_the_next_one_on_the_same_version(with_a_slow_site):
    lived, came = with_a_slow_site
    rounds, reason = anew(lived, came, replace(RULES, minimum=3, on_missing="skip"))
    assert (rounds, reason) == ([[], ALL, [], ALL], "these were all")


def test_without_a_site_no_round_waits_for_it(with_a_slow_site):
    lived, came = with_a_slow_site
    found = redecide(without(story_of(lived.journal, RULES, 0), frozenset("c")), came)
    assert [[row.client for row in one.rows] for one in found.rounds] == [["a/0", "b/0"]] * 4
    assert [one.seconds for one in found.rounds] == [2.0] * 4
    assert anew(lived, came, gone=frozenset("ab"))[0] == []


def test_a_later_version_begins_with_what_was_still_out(with_a_slow_site):
    lived, came = with_a_slow_site
    story = story_of(lived.journal, replace(RULES, max_staleness=1), 2)
    found = redecide(story, came)
    assert [one.number for one in found.rounds] == [3, 4]
    # Round 3 gets what c was asked in round 2, which isn't a round of the replay.
    assert [[row.client for row in one.rows] for one in found.rounds] == [["a/0", "b/0", "c/0"]] * 2
    assert [one.behind for one in found.rounds] == [(0, 0, 1)] * 2


def test_clients_come_when_they_came(world):
    lived = world(replace(RULES, minimum=1, deadline_s=5.0))
    came = live(lived, steady(a=1.0, b=2.0, c=2.0, d=1.0), later=[(3.0, "d")])
    assert [len(rows) for rows in recorded(lived)] == [3, 3, 4, 4]
    rounds, _ = anew(lived, came, replace(lived.rules, target=2))
    assert [client for client, _ in rounds[0]] == ["a/0", "b/0"]
    assert [client for client, _ in rounds[2]] == ["a/0", "d/0"]
    assert not any("d/0" in dict(rows) for rows in anew(lived, came, gone=frozenset("d"))[0])


def test_clients_go_when_they_went(world):
    lived = world(replace(RULES, rounds=6, minimum=1, deadline_s=5.0, absent_s=12.0))
    # a and b are seen again and again; c says nothing for 20 s, and comes back.
    seen = [(at, site) for at in range(2, 60, 2) for site in ("ab" if at != 20 else "abc")]
    came = live(lived, steady(a=1.0, b=2.0, c=None), later=seen)
    kinds = [entry.kind for entry in lived.journal]
    assert "absent" in kinds
    assert "present" in kinds
    cohorts = [len(entry.rows) for entry in lived.journal if entry.kind == "round-opened"]
    assert {2, 3} <= set(cohorts)
    assert anew(lived, came) == (recorded(lived), "these were all")


@pytest.mark.parametrize(("most", "stale"), [(5, {0, 1, 2}), (1, {0, 1}), (0, {0})])
def test_buffered_rounds_keep_their_place_in_the_log(world, most, stale):
    rules = replace(RULES, rounds=9, buffered=True, concurrency=3, buffer=2, max_staleness=5, deadline_s=60.0)
    lived = world(rules)
    came = live(lived, steady(a=1.0, b=1.5, c=3.2))
    assert {behind for rows in recorded(lived) for _, behind in rows} >= {0, 1, 2}
    found = recount(story_of(lived.journal, replace(rules, max_staleness=most), 0), lived.results)
    rounds = [list(zip((row.client for row in one.rows), one.behind, strict=True)) for one in found.rounds]
    assert rounds == [[row for row in rows if row[1] <= most] for rows in recorded(lived)]
    assert {behind for rows in rounds for _, behind in rows} == stale
    assert len(came) == len(lived.results)


def test_buffered_rounds_take_in_what_was_too_late(world):
    rules = replace(RULES, rounds=6, buffered=True, concurrency=3, buffer=2, max_staleness=0, deadline_s=60.0)
    lived = world(rules)
    live(lived, steady(a=1.0, b=1.5, c=5.0))
    assert not any(client == "c/0" for rows in recorded(lived) for client, _ in rows)
    found = recount(story_of(lived.journal, replace(rules, max_staleness=9), 0), lived.results)
    assert "c/0" in {row.client for one in found.rounds for row in one.rows}


@pytest.mark.parametrize("buffered", [False, True])
def test_what_an_operator_let_in_counts_again(world, buffered):
    def let_in(made):
        if made.results[-1].refusal:
            made.appeal(made.results[-1], refusal="")

    def delay(order):
        return (2.0, {"refusal": "absurdly large"}) if order.client == "c/0" else 1.0

    lived = world(replace(RULES, minimum=3, buffered=buffered, concurrency=3, buffer=3, deadline_s=60.0))
    came = live(lived, delay, then=let_in)
    assert all(("c/0", 0) in rows for rows in recorded(lived))
    if buffered:
        found = recount(story_of(lived.journal, lived.rules, 0), lived.results)
        assert [sorted(row.client for row in one.rows) for one in found.rounds] == [["a/0", "b/0", "c/0"]] * 4
    else:
        assert anew(lived, came) == (recorded(lived), "these were all")


# --- when answers came


def heard_of(came, seconds=None):
    """What a worker for each order says of how long it took."""
    return [Heard(one.answer, one.answer.id, one.after_s if seconds is None else seconds) for one in came]


def test_a_worker_that_tells_the_truth_is_believed(with_a_slow_site):
    lived, came = with_a_slow_site
    story = story_of(lived.journal, RULES, 0)
    for told, true in zip(arrivals(heard_of(came), story), came, strict=True):
        assert told.answer is true.answer
        assert told.after_s == pytest.approx(true.after_s)


@pytest.mark.parametrize("seconds", [0.0, -5.0, 1e300, float("nan"), float("inf")])
def test_whatever_a_worker_claims_its_answer_stays_in_its_round(with_a_slow_site, seconds):
    lived, came = with_a_slow_site
    story = story_of(lived.journal, RULES, 0)
    told = list(arrivals(heard_of(came, seconds), story))
    assert anew(lived, told) == (recorded(lived), "these were all")
    # Under other rules the last round would wait for it, but not for ever.
    assert len(anew(lived, told, replace(RULES, minimum=3))[0]) in (3, 4)


def test_a_worker_does_one_thing_after_the_other(world):
    lived = world(replace(RULES, rounds=1))
    came = live(lived, steady(a=1.0, b=2.0, c=3.0))
    heard = [Heard(one.answer, "the same", 1.0) for one in came]
    story = story_of(lived.journal, lived.rules, 0)
    assert [one.after_s for one in arrivals(heard, story)] == pytest.approx([1.0, 2.0, 3.0])
