"""Messages put together from their parts, as a log is read again."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from coordinator import shelf
from coordinator.shelf import Broken, Message, Shelf
from shared import codec

LARGE = bytes(range(256)) * 1024


@pytest.fixture
def made(tmp_path):
    shelf = Shelf(tmp_path)
    yield shelf
    shelf.close()


def parts(payload, name="m", part_bytes=100_000):
    return codec.split("update", {"name": name}, payload, part_bytes)


def test_interleaved_messages_are_put_together(made):
    one, two = parts(LARGE, "one"), parts(LARGE[::-1], "two")
    taken = [made.take(part) for pair in zip(one, two, strict=True) for part in pair]
    whole = [message for message in taken if message is not None]
    assert [message.header["name"] for message in whole] == ["one", "two"]
    assert [bytes(made.payload(message)) for message in whole] == [LARGE, LARGE[::-1]]
    assert whole[0].sha256 == hashlib.sha256(LARGE).hexdigest()
    assert whole[0].head == hashlib.sha256(one[0].body).hexdigest()


def test_a_header_s_hash_is_that_of_all_before_the_payload(made):
    (part,) = parts(b"abc")
    message = made.take(part)
    assert message.head == hashlib.sha256(part.body[: -len(b"abc")]).hexdigest()
    assert message.sha256 == hashlib.sha256(b"abc").hexdigest()


def test_the_rest_of_a_message_whose_begin_was_dropped_is_passed_over(made):
    cut = [replace(part, crc32=1) for part in parts(LARGE)[1:]]
    assert [made.take(part) for part in cut] == [None] * len(cut)
    assert isinstance(made.take(parts(b"next")[0]), Message)


def test_a_part_that_comes_once_more_changes_nothing(made):
    first, second, *others = parts(LARGE)
    *_, message = [made.take(part) for part in (first, second, first, second, *others)]
    assert bytes(made.payload(message)) == LARGE


@pytest.mark.parametrize("number", [0, 1])
def test_a_flipped_bit_breaks_its_message_where_it_began_and_no_other(made, number):
    broken, good = parts(LARGE, "broken"), parts(LARGE, "good")
    body = bytearray(broken[number].body)
    body[40] ^= 4
    broken[number] = replace(broken[number], body=bytes(body))
    taken = [made.take(replace(part, offset=n)) for n, part in enumerate((*broken, *good))]
    first, second = [each for each in taken if each is not None]
    assert isinstance(first, Broken)
    assert first.offset == 0
    assert f"part {number} of {len(broken)}: the part's checksum" in first.reason
    assert (first.header or {}).get("name") == (None if number == 0 else "broken")
    assert bytes(made.payload(second)) == LARGE


def test_a_missing_part_breaks_its_message(made):
    first, second, third, *_ = parts(LARGE, part_bytes=70_000)
    broken = [made.take(part) for part in (first, second, replace(third, part=3))][-1]
    assert isinstance(broken, Broken)
    assert "part 2 of 5 is missing" in broken.reason


def test_small_payloads_beyond_what_memory_takes_lie_on_disk(made, monkeypatch):
    monkeypatch.setattr(shelf, "MEMORY_BYTES", 4)
    messages = [made.take(part) for text in (b"abc", b"def", b"ghi") for part in parts(text)]
    assert [message.slot is not None for message in messages] == [False, True, True]
    assert [bytes(made.payload(message)) for message in messages] == [b"abc", b"def", b"ghi"]
    made.discard(messages[0])
    assert made.take(parts(b"jkl")[0]).slot is None


def test_room_that_was_given_back_is_used_again(made):
    def place(payload):
        *_, message = [made.take(part) for part in parts(payload)]
        assert bytes(made.payload(message)) == payload
        slot = message.slot
        made.discard(message)
        return slot

    assert place(LARGE) == place(LARGE[::-1])
