"""The spool: parts in any mixture, whole payloads out, and nothing a sender does hurts another."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from coordinator.spool import QUOTA_MESSAGES, Arrival, Broken, Spool
from shared import codec

SMALL_PARTS = 1000


def message(payload, sender="a", **header):
    """A message's parts, as its sender published them."""
    parts = codec.split("update", {"version": 0, **header}, payload, part_bytes=SMALL_PARTS)
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
    spool.forget_older(1)
    assert spool.read_from(whole.offset) == whole.offset + 1


def test_a_flooding_site_loses_only_its_own(spool):
    spool.limit = 5 * codec.PART_BYTES
    patient = message(BIG, "patient")
    spool.take(patient[0])
    for _ in range(QUOTA_MESSAGES + 3):
        head = message(BIG, "flood")[0]
        spool.take(replace(head, nbytes=spool.limit))
    assert len([key for key in spool._unfinished if key[0] == "flood"]) <= QUOTA_MESSAGES
    (arrival,) = take_all(spool, patient[1:])
    assert bytes(spool.payload(arrival.key)) == BIG


def test_payload_outlives_its_discarding_and_leaves_no_file(spool, tmp_path):
    (arrival,) = take_all(spool, message(BIG))
    payload = spool.payload(arrival.key)
    spool.discard(arrival.key)
    assert spool.payload(arrival.key) is None
    assert bytes(payload) == BIG
    assert list(tmp_path.iterdir()) == []
