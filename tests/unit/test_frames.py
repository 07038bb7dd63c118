"""AMQP's frames: however the bytes are cut, what goes in is what comes out."""

from __future__ import annotations

import random
import struct
from itertools import pairwise

import pytest

from shared.broker._frames import COPIED_BYTES, Body, FramingError, Unframer, framed, joined

METHOD = struct.pack(">BHL", 1, 7, 4) + b"push" + b"\xce"
HEARTBEAT = struct.pack(">BHL", 8, 0, 0) + b"\xce"


def header(channel: int, nbytes: int) -> bytes:
    return struct.pack(">BHLHHQH", 2, channel, 14, 60, 0, nbytes, 0) + b"\xce"


def body(channel: int, data: bytes) -> bytes:
    return struct.pack(">BHL", 3, channel, len(data)) + data + b"\xce"


def fed(unframer: Unframer, data: bytes, cuts: list[int]) -> list[object]:
    """What comes out: frames as they are, bodies as (channel, bytes)."""
    edges = [0, *sorted(cuts), len(data)]
    pieces = [data[start:end] for start, end in pairwise(edges)]
    came = [each for piece in pieces for each in unframer.feed(piece)]
    return [(each.channel, bytes(each.data)) if isinstance(each, Body) else each for each in came]


def test_however_it_is_cut_the_same_comes_out() -> None:
    rng = random.Random(1)
    first, second = rng.randbytes(300), rng.randbytes(40)
    data = METHOD + header(7, 300) + body(7, first[:130]) + HEARTBEAT + body(7, first[130:])
    data += METHOD + header(2, 40) + body(2, second) + HEARTBEAT
    expected = [METHOD, header(7, 300), HEARTBEAT, (7, first), METHOD, header(2, 40), (2, second), HEARTBEAT]
    for cut in range(len(data)):
        assert fed(Unframer(), data, [cut]) == expected
    assert fed(Unframer(), data, list(range(1, len(data)))) == expected
    for _ in range(200):
        cuts = [rng.randrange(len(data)) for _ in range(rng.randrange(20))]
        assert fed(Unframer(), data, cuts) == expected


def test_bodies_of_two_channels_may_come_in_turn() -> None:
    data = header(1, 4) + header(2, 4) + body(1, b"ab") + body(2, b"AB") + body(1, b"cd") + body(2, b"CD")
    assert fed(Unframer(), data, []) == [header(1, 4), header(2, 4), (1, b"abcd"), (2, b"ABCD")]


def test_a_body_that_breaks_off_leaves_no_trace() -> None:
    data = header(7, 4) + body(7, b"ab") + METHOD + header(7, 2) + body(7, b"cd")
    assert fed(Unframer(), data, []) == [header(7, 4), METHOD, header(7, 2), (7, b"cd")]


def test_a_body_without_bytes_is_told_by_its_header_alone() -> None:
    assert fed(Unframer(), header(7, 0) + METHOD, [3]) == [header(7, 0), METHOD]


@pytest.mark.parametrize("cut", [0, 2, 5])
def test_a_server_of_another_protocol_says_its_name(cut: int) -> None:
    assert fed(Unframer(), b"AMQP\0\0\x09\1", [cut]) == [b"AMQP\0\0\x09\1"]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"HTTP/1.1 400 Bad Request", "type 72"),
        (METHOD[:-1] + b"x", "without its end"),
        (header(7, 2) + body(7, b"ab")[:-1] + b"x", "without its end"),
        (body(7, b"ab"), "not announced"),
        (header(7, 1) + body(7, b"ab"), "not announced"),
        (header(7, 2) + body(8, b"ab"), "not announced"),
    ],
)
def test_what_is_no_frame_is_told(data: bytes, what: str) -> None:
    with pytest.raises(FramingError, match=what):
        fed(Unframer(), data, [])


@pytest.mark.parametrize("nbytes", [0, 1, COPIED_BYTES, COPIED_BYTES + 1, 3 * COPIED_BYTES + 5])
@pytest.mark.parametrize("step", [COPIED_BYTES // 2, COPIED_BYTES + 1, 2 * COPIED_BYTES])
def test_what_is_framed_is_unframed(nbytes: int, step: int) -> None:
    data = random.Random(nbytes).randbytes(nbytes)
    sent = b"".join(framed(METHOD + header(7, nbytes), 7, data, step))
    expected = [METHOD, header(7, nbytes), *([(7, data)] if data else [])]
    assert fed(Unframer(), sent, [len(sent) // 3, len(sent) // 2]) == expected


def test_a_large_body_is_not_copied() -> None:
    data = bytearray(3 * COPIED_BYTES)
    pieces = framed(b"head", 7, data, 2 * COPIED_BYTES)
    assert sum(isinstance(piece, memoryview) and piece.obj is data for piece in pieces) == 1
    data[0] = 1
    assert b"".join(pieces)[len(b"head") + 7] == 1


@pytest.mark.parametrize("seed", range(20))
def test_joined_buffers_are_the_same_bytes_and_no_two_neighbours_would_fit_together(seed: int) -> None:
    rng = random.Random(seed)
    most = rng.choice([10, COPIED_BYTES, 2 * COPIED_BYTES])
    buffers = [memoryview(rng.randbytes(rng.randrange(1, most))) for _ in range(rng.randrange(60))]
    made = list(joined(buffers))
    assert b"".join(made) == b"".join(buffers)
    assert all(len(one) + len(other) > COPIED_BYTES for one, other in pairwise(made))
    large = [each for each in buffers if len(each) > COPIED_BYTES]
    assert [each for each in made if len(each) > COPIED_BYTES] == large
