"""Floods: what trips a balance, what never does, and what is said of it."""

from __future__ import annotations

import pytest

from coordinator.facts import Entry
from coordinator.flood import Floods
from shared.broker.port import Part
from shared.codec import PART_BYTES

GB = 10**9
MB = 10**6


def cut_off(login):
    return [f"shut {login}"]


def make(payload=10 * MB, max_bytes=20 * GB, attest=True, max_staleness=0):
    floods = Floods(max_bytes, max_staleness, attest, cut_off)
    floods.bounds.payload_bytes = payload
    return floods


def part_of(login="a", size=1000, part=0, parts=1, kind="update"):
    return Part("m", kind, part, parts, size, 0, bytes(size), login, 7)


def parts_of(login, payload):
    """A message of the model's size in parts, as a worker sends it."""
    sizes = [2000] + [min(PART_BYTES, payload - at) for at in range(0, payload, PART_BYTES)]
    return [part_of(login, size, number, len(sizes)) for number, size in enumerate(sizes)]


def opened(*clients, evaluators=()):
    return Entry("round-opened", 0.0, {"evaluators": list(evaluators)}, list(clients))


def closed(version):
    return Entry("round-closed", 0.0, {"version": version})


def until_dropped(floods, part, at_most=100_000):
    """How many such parts pass before one is dropped."""
    return next(number for number in range(at_most) if not floods.take(part))


def all_pass(floods, parts):
    return all(floods.take(part) for part in parts)


@pytest.mark.parametrize(("times", "is_said"), [(2, False), (3, True)])
def test_every_order_may_be_answered_three_times_for_ever_and_twice_without_a_word(times, is_said):
    floods = make(payload=100 * MB)
    answer = parts_of("a", 100 * MB)
    for version in range(30):
        floods.entry(opened(*(f"a/{n}" for n in range(8))))
        for _ in range(times * 8):
            assert all_pass(floods, answer)
        floods.entry(closed(version))
    assert bool(floods.shown()) == is_said


def test_a_small_model_s_answers_may_come_eight_times():
    floods = make(payload=4 * PART_BYTES)
    for version in range(5):
        floods.entry(opened("a/0", "a/1"))
        for _ in range(16):
            assert all_pass(floods, parts_of("a", 4 * PART_BYTES))
        floods.entry(closed(version))


def test_answers_to_orders_of_earlier_versions_are_allowed_for():
    floods = make(payload=100 * MB, max_staleness=3)
    for version in range(4):
        floods.entry(opened(*(f"a/{n}" for n in range(10))))
        floods.entry(closed(version))
    for _ in range(40):
        assert all_pass(floods, parts_of("a", 100 * MB))


def test_a_site_that_is_seldom_asked_keeps_what_it_was_allowed():
    floods = make(payload=100 * MB)
    floods.entry(opened("a/0", "a/1"))
    for version in range(50):
        floods.entry(closed(version))
        floods.entry(opened("b/0"))
    assert all_pass(floods, parts_of("a", 100 * MB) + parts_of("a", 100 * MB))


def test_evaluations_replacements_and_second_requests_are_orders_too():
    floods = make(payload=100 * MB)
    floods.entry(opened("b/0", evaluators=["a/0"]))
    floods.entry(Entry("assigned", 0.0, {"work": "train"}, [["a/1", 0, ""], ["a/2", 1, "x"]]))
    for _ in range(9):
        assert all_pass(floods, parts_of("a", 100 * MB))


def test_a_new_leader_may_ask_again_and_be_answered_again():
    floods = make(payload=4 * PART_BYTES)
    floods.entry(opened("a/0"))
    for _ in range(20):
        floods.entry(Entry("leader", 0.0, {"who": "x"}))
        for _ in range(2):
            assert all_pass(floods, parts_of("a", 4 * PART_BYTES))


@pytest.mark.parametrize("payload", [None, 4000, 10 * MB, 100 * MB])
def test_a_login_without_orders_is_cut_at_four_mebibytes(payload):
    floods = make(payload=payload)
    assert all_pass(floods, [part_of("stranger", 60_000) for _ in range(60)])
    assert until_dropped(floods, part_of("stranger", 60_000)) < 10


@pytest.mark.parametrize("size", [0, 100, 60_000, PART_BYTES])
def test_a_flood_is_noticed_while_it_is_a_small_share_of_the_log(size):
    floods = make(payload=100 * MB)
    floods.entry(opened("a/0", "b/0"))
    passed = until_dropped(floods, part_of("a", size), at_most=10**7)
    assert passed * (size + 1024) < 20 * GB / 20
    (text,) = floods.news()
    assert "login 'a' floods the results log" in text
    assert "shut a" in text


def test_in_a_log_that_is_just_large_enough_too_much_is_said_before_it_is_dropped():
    # The least for two clients: three rounds of three models.
    floods = make(payload=100 * MB, max_bytes=1050 * MB)
    floods.entry(opened("a/0", "b/0"))
    flood = part_of("a", PART_BYTES)
    said_at = next(n for n in range(1000) if floods.take(flood) and list(floods.news()))
    dropped_at = said_at + until_dropped(floods, flood)
    assert 200 * MB < said_at * PART_BYTES < 350 * MB
    assert 300 * MB < dropped_at * PART_BYTES < 550 * MB


def test_others_are_not_touched():
    floods = make()
    floods.entry(opened("a/0", "b/0"))
    until_dropped(floods, part_of("a", 60_000))
    assert all_pass(floods, parts_of("b", 10 * MB))
    assert list(floods.shown()) == ["a"]


def test_a_new_order_has_room_for_its_answer_whatever_came_before():
    floods = make(payload=10 * MB)
    floods.entry(opened(*(f"a/{n}" for n in range(20))))
    until_dropped(floods, part_of("a", PART_BYTES))
    for version in range(3):
        assert not floods.take(part_of("a", PART_BYTES))
        floods.entry(closed(version))
        # Far fewer orders than those that the flood came on.
        floods.entry(opened("a/0"))
        assert all_pass(floods, parts_of("a", 10 * MB) + parts_of("a", 10 * MB))
        assert until_dropped(floods, part_of("a", PART_BYTES)) < 20 * 8 * 10 * MB / PART_BYTES


def test_a_flood_gets_no_further_than_its_orders_allow():
    floods = make(payload=10 * MB)
    passed = 0
    for version in range(20):
        floods.entry(opened("a/0"))
        passed += sum(floods.take(part_of("a", PART_BYTES)) for _ in range(1000))
        floods.entry(closed(version))
    assert passed * PART_BYTES < 20 * 10 * 10 * MB


def test_the_initial_weights_may_be_as_large_as_the_log_can_hold_them():
    floods = make(payload=None, max_bytes=6 * GB)
    floods.entry(Entry("assigned", 0.0, {"work": "initialise"}, [["a/0", 0, ""]]))
    initial = parts_of("a", 900 * MB)
    assert all_pass(floods, initial + initial)
    floods.bounds.payload_bytes = 900 * MB
    floods.entry(closed(0))
    floods.entry(opened("a/0"))
    assert all_pass(floods, initial)


def test_it_is_said_at_once_and_at_each_doubling():
    floods = make()
    said = 0
    for _ in range(100_000):
        floods.take(part_of("a", 10_000))
        said += len(list(floods.news()))
    # 4 MiB at first, 1.1 GB at the end.
    assert said == 9


def test_dropped_messages_are_counted_by_their_last_parts():
    floods = make()
    until_dropped(floods, part_of("a", 60_000))
    before = floods.shown()["a"]["dropped"]
    for number in (0, 1, 2):
        floods.take(part_of("a", 60_000, number, 3))
    about = floods.shown()["a"]
    assert about["dropped"] == before + 1
    assert about["flooding"]
    assert about["to_cut_it_off"] == ["shut a"]


def test_where_logins_are_not_held_to_sites_all_are_weighed_together_and_nothing_is_dropped():
    floods = make(payload=1 * MB, max_bytes=1 * GB, attest=False)
    floods.entry(opened(*(f"a/{n}" for n in range(10)), *(f"b/{n}" for n in range(10))))
    for _ in range(10):
        assert all_pass(floods, parts_of("shared", 1 * MB) + parts_of("b", 1 * MB))
    assert not list(floods.news())
    assert all_pass(floods, [part_of("shared", MB) for _ in range(200)])
    (text,) = floods.news()
    assert "most by login 'shared'" in text
    assert "nothing is dropped" in text
    assert list(floods.shown()) == ["shared"]


def test_marks_are_weighed_but_for_the_coordinator_s_own():
    floods = make()
    floods.own = "coordinator"
    assert all(floods.take(part_of("coordinator", 200, kind="mark")) for _ in range(10_000))
    assert until_dropped(floods, part_of("a", 200, kind="mark")) < 4000


def test_a_flood_of_parts_that_end_nothing_is_noticed():
    floods = make()
    assert until_dropped(floods, part_of("a", 60_000, 1, 3)) < 100
    assert floods.shown()["a"]["messages"] == 0
