"""The spool: parts in any mixture, whole payloads out, and nothing a sender does hurts another."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace

import pytest

from coordinator.spool import AWAITED_VERSIONS, QUOTA_MESSAGES, QUOTA_PAYLOADS, Arrival, Broken, Spool
from shared import codec
from shared.messages import Update

SMALL_PARTS = 1000


def message(payload, sender="a", **header):
    """A message's parts, as its sender published them."""
    update = Update(
        federation="f", run="r", id="i", work="train", client="a/0", worker="w", round=1, version=0,
        digest="d", turn=0, layout=[], layout_digest="", sha256="", examples=1, metrics={},
        evaluated=0, evaluation={}, seconds=0.0, error="",
    )  # fmt: skip
    parts = codec.split("update", {**update.to_header(), **header}, payload, part_bytes=SMALL_PARTS)
    return [replace(part, user_id=sender) for part in parts]


def log_of(parts):
    """The parts as a log hands them out: offsets grow, with gaps."""
    return [replace(part, offset=10 + 3 * number) for number, part in enumerate(parts)]


def take_all(spool, parts):
    return [taken for part in log_of(parts) if (taken := spool.take(part)) is not None]


@pytest.fixture
def spool(tmp_path):
    made = Spool(tmp_path)
    yield made
    made.close()


BIG = bytes(range(256)) * 400


def test_interleaved_messages_come_out_whole(spool):
    first, second = message(BIG, "a"), message(BIG[::-1], "b")
    mixed = [part for pair in zip(first, second, strict=True) for part in pair]
    one, two = take_all(spool, mixed)
    assert bytes(spool.payload(one.key)) == BIG
    assert bytes(spool.payload(two.key)) == BIG[::-1]
    assert one.sha256 == hashlib.sha256(BIG).hexdigest()
    assert (one.first, one.last) == (10, 10 + 3 * (len(mixed) - 2))


def test_single_part_and_empty_payload(spool):
    taken = take_all(spool, message(b"tiny") + message(b""))
    assert [bytes(spool.payload(arrival.key)) for arrival in taken] == [b"tiny", b""]


def test_same_message_id_of_another_login_is_another_message(spool):
    mine = message(BIG, "a")
    forged = [replace(part, user_id="b", body=bytes(len(part.body)), crc32=0) for part in mine[1:]]
    mixed = [mine[0], *[part for pair in zip(forged, mine[1:], strict=True) for part in pair]]
    arrivals = [taken for taken in take_all(spool, mixed) if isinstance(taken, Arrival)]
    assert [bytes(spool.payload(arrival.key)) for arrival in arrivals] == [BIG]


def test_parts_sent_once_more_after_a_lost_connection_do_no_harm(spool):
    parts = message(BIG)
    (arrival,) = take_all(spool, [*parts[:5], *parts[2:5], *parts[5:], *parts])
    assert bytes(spool.payload(arrival.key)) == BIG


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda p: [p[0], *p[2:]], "part 1 of"),
        (lambda p: [replace(p[0], body=b"garbage", crc32=0), *p[1:]], "checksum"),
        (lambda p: [p[0], replace(p[1], body=bytes(len(p[1].body))), *p[2:]], "checksum"),
        (lambda p: [replace(part, nbytes=part.nbytes - 500) for part in p], "more bytes"),
        (lambda p: [replace(part, nbytes=part.nbytes + 500) for part in p], "fewer bytes"),
    ],
)
def test_a_spoilt_message_is_broken_once_with_a_reason(spool, spoil, reason):
    broken = [taken for taken in take_all(spool, spoil(message(BIG))) if isinstance(taken, Broken)]
    assert reason in broken[0].reason
    assert not any(isinstance(taken, Arrival) for taken in broken)


def test_too_large_is_refused_before_anything_is_kept(spool):
    spool.limit = len(BIG) - 1
    parts = log_of(message(BIG))
    assert isinstance(spool.take(parts[0]), Broken)
    assert spool.read_from(parts[0].offset) == parts[0].offset + 1


def test_read_from_is_the_first_part_of_what_is_unfinished(spool):
    parts = log_of(message(BIG, "a") + message(b"done", "b"))
    unfinished, whole = parts[:3], parts[-1]
    for part in (*unfinished, whole):
        spool.take(part)
    assert spool.read_from(whole.offset) == unfinished[0].offset
    spool.forget_outside(1, 5)
    assert spool.read_from(whole.offset) == whole.offset + 1


def test_what_is_no_update_is_never_held(spool):
    (broken,) = take_all(spool, message(BIG, junk=[0] * 1000)[:1])
    assert "fields" in broken.reason
    assert spool.read_from(100) == 101


def test_an_empty_payload_in_parts_is_refused(spool):
    head, *_ = message(BIG)
    (broken,) = take_all(spool, [replace(head, nbytes=len(head.body), parts=2)])
    assert "payload" in broken.reason


def test_hundreds_of_large_updates_cost_one_descriptor(spool):
    before = len(os.listdir("/proc/self/fd"))
    arrivals = take_all(spool, [part for n in range(300) for part in message(BIG, f"site-{n}")])
    views = [spool.payload(arrival.key) for arrival in arrivals]
    assert len(views) == 300
    assert all(bytes(view) == BIG for view in views)
    assert len(os.listdir("/proc/self/fd")) <= before + 4


def test_room_that_was_given_back_is_used_again(spool):
    spool.limit = len(BIG)
    for _ in range(50):
        (arrival,) = take_all(spool, message(BIG))
        assert bytes(spool.payload(arrival.key)) == BIG
        spool.discard(arrival.key)
    assert spool._slots._end <= 2 * len(BIG)


def test_unfinished_messages_are_bounded_by_number_and_by_their_headers(spool):
    for _ in range(QUOTA_MESSAGES + 50):
        spool.take(message(BIG, "flood")[0])
    assert len(spool._unfinished) == QUOTA_MESSAGES
    heavy = {"metrics": {}, "error": "x" * 900_000}
    for _ in range(QUOTA_MESSAGES):
        spool.take(message(BIG, "heavy", **heavy)[0])
    held = [arrival for key, arrival in spool._unfinished.items() if key[0] == "heavy"]
    assert sum(arrival.header_bytes for arrival in held) < 64 << 20


def test_a_base_that_does_not_exist_yet_is_not_kept(spool):
    spool.take(log_of(message(BIG, version=2**62))[0])
    spool.forget_outside(0, 3)
    assert not spool._unfinished


def test_what_can_only_be_late_is_awaited_and_nothing_of_it_is_held(spool):
    log = log_of(message(BIG, version=3))
    for part in log[:50]:
        spool.take(part)
    spool.forget_outside(4, 5)
    assert spool.read_from(log[49].offset) == log[49].offset + 1
    assert next(iter(spool._unfinished.values())).cost < len(BIG)
    (arrival,) = [taken for part in log[50:] if (taken := spool.take(part)) is not None]
    assert arrival.late
    assert spool.payload(arrival.key) is None


def test_what_is_late_is_not_awaited_for_ever(spool):
    spool.take(log_of(message(BIG, version=3))[0])
    spool.forget_outside(4, 5)
    spool.forget_outside(4 + AWAITED_VERSIONS, 5 + AWAITED_VERSIONS)
    assert not spool._unfinished


def test_a_flooding_site_loses_only_its_own(spool):
    spool.limit = 5 * codec.PART_BYTES
    most = QUOTA_PAYLOADS * spool.limit
    patient = message(BIG, "patient")
    spool.take(patient[0])
    for _ in range(QUOTA_PAYLOADS + 3):
        head = message(BIG, "flood")[0]
        spool.take(replace(head, nbytes=spool.limit))
    assert sum(a.cost for key, a in spool._unfinished.items() if key[0] == "flood") <= most
    (arrival,) = take_all(spool, patient[1:])
    assert bytes(spool.payload(arrival.key)) == BIG


def test_a_login_that_is_given_up_loses_what_is_unfinished_and_only_that(spool):
    mine, other, whole = message(BIG, "a"), message(BIG, "b"), message(BIG, "a")
    (held,) = take_all(spool, whole)
    log = log_of(mine[:5] + other[:5] + mine[5:] + other[5:])
    for part in log[:10]:
        spool.take(part)
    spool.give_up("a")
    assert spool.read_from(log[9].offset) == log[5].offset
    (arrival,) = [taken for part in log[10:] if (taken := spool.take(part)) is not None]
    assert bytes(spool.payload(arrival.key)) == bytes(spool.payload(held.key)) == BIG
    assert arrival.key[0] == "b"


def test_what_is_discarded_is_gone_and_leaves_no_file(spool, tmp_path):
    (arrival,) = take_all(spool, message(BIG))
    assert bytes(spool.payload(arrival.key)) == BIG
    spool.discard(arrival.key)
    assert spool.payload(arrival.key) is None
    assert list(tmp_path.iterdir()) == []
