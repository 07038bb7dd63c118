"""The wire format: what goes in comes out, no bytes do harm, nothing is allocated on a claim alone."""

from __future__ import annotations

import itertools
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import codec
from shared.broker.port import Part
from shared.codec import Assembler, check_part, decode, encode, pack, split, unpack
from shared.errors import ChecksumError, MessageError, OversizeError, UnknownVersionError
from shared.weights import DTYPES, Layout, Weights

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
    | st.text(max_size=20) | st.binary(max_size=20)
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
HEADERS = st.dictionaries(st.text(max_size=8), VALUES, max_size=5)
LIMIT = 1 << 20
fast = settings(max_examples=60, deadline=None)
#: So that small payloads travel in several parts.
SMALL_PARTS = 100
MODEL = Weights.from_arrays(
    {name: np.arange(2000).reshape(40, 50).astype(dtype) for name, dtype in DTYPES.items()}
)
HEADER = {"kind": "round-task", "version": 3, "layout": MODEL.layout.to_wire(), "none": None, "rate": 0.5}


def framed(header: bytes) -> bytes:
    """Any bytes where a header should be, with a right prefix and padding."""
    head = b"WRN1" + struct.pack("<I", len(header)) + header
    return head + bytes(-len(head) % 64)


def only_message_errors(call: Callable[[], Any]) -> Any:
    """What the call returns; None when it refuses in the one way that is allowed."""
    try:
        return call()
    except MessageError:
        return None


def resealed(part: Part, body: bytes) -> Part:
    """The part with another body, and the sum of that."""
    return replace(part, body=body, crc32=zlib.crc32(body))


@contextmanager
def allocating_at_most(nbytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= nbytes


# --- round trips


@fast
@given(HEADERS, st.binary(max_size=300))
def test_headers_and_payloads_come_back(header: dict[str, Any], payload: bytes) -> None:
    head = encode(header)
    assert len(head) % 64 == 0
    decoded, rest = decode(head + payload)
    assert (decoded, bytes(rest)) == (header, payload)


@fast
@given(VALUES)
def test_values_come_back(value: Any) -> None:
    assert unpack(pack(value)) == value


def test_the_format_is_pinned() -> None:
    """Logs are kept: what they hold must stay readable."""
    head = encode({"kind": "x", "n": [1, 2.5, None]})
    packed = bytes.fromhex("82 a46b696e64 a178 a16e 93 01 cb4004000000000000 c0")
    assert head == b"WRN1" + bytes([len(packed), 0, 0, 0]) + packed + bytes(64 - 8 - len(packed))


@pytest.mark.parametrize("nbytes", [0, 1, 99, 100, 101, 65_535, 65_536, 65_537, 300_000])
@pytest.mark.parametrize("part_bytes", [SMALL_PARTS * 100, 65_536])
def test_parts_are_put_together_again(nbytes: int, part_bytes: int) -> None:
    payload = np.random.default_rng(nbytes).bytes(nbytes)
    parts = split("update", HEADER, payload, part_bytes)
    total = len(encode(HEADER)) + nbytes
    assert (len(parts) == 1) == (total <= codec.SINGLE_PART_BYTES)
    assert [part.part for part in parts] == list(range(parts[0].parts)) == list(range(len(parts)))
    assert {(part.kind, part.nbytes, part.message_id) for part in parts} == {
        ("update", total, parts[0].message_id)
    }
    assert sum(len(part.body) for part in parts) == total
    assembler = Assembler(total)
    *before, whole = feed(assembler, parts)
    assert before == [None] * (len(parts) - 1)
    assert whole == (HEADER, payload)


@pytest.mark.parametrize(
    "model", [MODEL, Weights.from_arrays({"w": np.zeros((0, 3))}), Weights(Layout(()), b"")]
)
def test_a_model_goes_over_the_wire(model: Weights) -> None:
    assembler = Assembler(LIMIT)
    for part in split("round-task", {"layout": model.layout.to_wire()}, model.payload, 10_000):
        whole = assembler.feed(part)
    assert whole is not None
    received = Weights(Layout.from_wire(whole[0]["layout"]), whole[1])
    assert received.digest == model.digest
    assert {name: array.tobytes() for name, array in received.arrays.items()} == {
        name: array.tobytes() for name, array in model.arrays.items()
    }


def test_every_message_has_an_id_of_its_own() -> None:
    assert len({split("update", {})[0].message_id for _ in range(100)}) == 100


# --- no copies


def test_decoding_copies_no_payload() -> None:
    data = bytearray(encode(HEADER) + bytes(MODEL.payload))
    _, payload = decode(data)
    views = MODEL.layout.views(payload).values()
    assert all(np.shares_memory(np.frombuffer(data, np.uint8), view) for view in views)
    assert (len(data) - len(payload)) % 64 == 0


def test_splitting_copies_no_large_payload() -> None:
    payload = np.zeros(300_000, np.uint8)
    _, *parts = split("update", {}, payload.data, 65_536)
    assert all(np.shares_memory(payload, np.frombuffer(part.body, np.uint8)) for part in parts)


# --- bytes that are no messages


@fast
@given(st.binary(max_size=200))
def test_random_bytes_do_no_harm(data: bytes) -> None:
    for attempt in (data, b"WRN1" + data, framed(data)):
        only_message_errors(lambda attempt=attempt: decode(attempt))  # type: ignore[misc]
    only_message_errors(lambda: unpack(data))
    only_message_errors(lambda: Layout.from_wire(unpack(data)))


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with some runs of them replaced, removed, doubled or put in; more often near the begin."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, min(len(data), 80)) | st.integers(0, len(data)))
        stop = min(start + draw(st.integers(0, 9)), len(data))
        new = draw(st.binary(max_size=9) | st.just(data[start:stop] * 2))
        data = data[:start] + new + data[stop:]
    return data


@settings(max_examples=120, deadline=None)
@given(mutated(encode(HEADER)), st.integers(0, 600))
def test_damaged_messages_do_no_harm(data: bytes, end: int) -> None:
    for attempt in (data, data[:end]):
        decoded = only_message_errors(lambda attempt=attempt: decode(attempt))  # type: ignore[misc]
        if decoded is not None:
            header, _ = decoded
            assert all(isinstance(key, str) for key in header)
            only_message_errors(lambda header=header: Layout.from_wire(header.get("layout")))  # type: ignore[misc]


@settings(max_examples=100, deadline=None)
@given(mutated(pack(HEADER)))
def test_damaged_headers_do_no_harm(packed: bytes) -> None:
    decoded = only_message_errors(lambda: decode(framed(packed)))
    if decoded is not None:
        only_message_errors(lambda: Layout.from_wire(decoded[0].get("layout")))


@pytest.mark.parametrize(
    ("data", "error", "sentence"),
    [
        (b"", MessageError, "at least 8 bytes"),
        (b"WRN1\0\0\0", MessageError, "at least 8 bytes"),
        (b"WRN2" + bytes(60), UnknownVersionError, "b'2' is not known here; upgrade"),
        (b"JSON" + bytes(60), MessageError, "does not begin with WRN1"),
        (b"WRN1" + b"\xff" * 4 + bytes(56), OversizeError, "claims 4294967295"),
        (b"WRN1" + struct.pack("<I", (1 << 20) + 1) + bytes(1 << 21), OversizeError, "at most 1048576"),
        (b"WRN1" + struct.pack("<I", 1 << 20) + bytes(56), MessageError, "cut off"),
        (framed(b"\x80")[:63], MessageError, "cut off"),
        (framed(b"\x80")[:-1] + b"x", MessageError, "not padded with zeros"),
        (framed(b"\x90"), MessageError, "a header is a map"),
        (framed(b""), MessageError, "malformed msgpack"),
        (framed(b"\x80\x80"), MessageError, "malformed msgpack"),
    ],
)
def test_what_is_no_message(data: bytes, error: type[MessageError], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        decode(data)


@pytest.mark.parametrize(
    "packed",
    [
        msgpack.packb({1: 2}),
        msgpack.packb({b"a": 2}),
        msgpack.packb({None: 2}),
        msgpack.packb([{"a": [{"b": {3.5: 1}}]}]),
        b"\x81\x90\xc0",  # a list as key
        b"\x81\x80\xc0",  # a map as key
        b"\x82\xa1a\x01\xa1a\x01",  # a key twice
        b"\xc1",  # a byte that msgpack never uses
        b"\xa1\xff",  # no UTF-8
        b"\xa3\xed\xa0\x80",  # half a surrogate pair
        *(
            bytes([code]) + struct.pack(length, size) + kind + bytes(size)
            for code, length in ((0xC7, ">B"), (0xC8, ">H"), (0xC9, ">I"))
            for size in (0, 4, 8, 12)
            for kind in (b"\x05", b"\xff")
        ),
        *(
            bytes([code]) + kind + bytes(size)
            for code, size in ((0xD4, 1), (0xD5, 2), (0xD6, 4), (0xD7, 8), (0xD8, 16))
            for kind in (b"\x05", b"\xff")  # ff: the timestamps that msgpack itself defines
        ),
    ],
)
def test_what_msgpack_would_take_and_we_do_not(packed: bytes) -> None:
    with pytest.raises(MessageError):
        unpack(packed)


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, 1 << 64, (1, 2), np.float64(1), np.int64(1), "\ud800", 1j]
)
def test_what_cannot_travel(value: object) -> None:
    with pytest.raises(MessageError, match="this cannot travel"):
        encode({"x": value})


def test_what_is_too_deep_or_too_large_cannot_travel() -> None:
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(MessageError, match="this cannot travel"):
        pack(deep)
    with pytest.raises(OversizeError, match="at most 1048576 bytes"):
        encode({"x": bytes(1 << 20)})


# --- claims


CLAIMS = {
    "array": b"\xdd\xff\xff\xff\xff",
    "map": b"\xdf\xff\xff\xff\xff",
    "text": b"\xdb\xff\xff\xff\xff",
    "bytes": b"\xc6\xff\xff\xff\xff",
    "extension": b"\xc9\xff\xff\xff\xff\x05",
    "array of its own size": b"\xdd\x00\x00\x10\x00" + bytes(4000),
    "arrays in arrays": (b"\xdd" + struct.pack(">I", 900_000)) * 500 + b"\xc0" * 900_000,
    "maps in arrays": (b"\xdd\x00\x00\x40\x00\x81\xa1a") * 400 + b"\xc0" * 40_000,
    "deep arrays": b"\x91" * 100_000 + b"\xc0",
    "deep maps": b"\x81\xa1a" * 100_000 + b"\xc0",
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_allocates_nothing(claim: str) -> None:
    data = CLAIMS[claim]
    frame = framed(b"\x81\xa1x" + data)
    with allocating_at_most(4 * len(data) + 100_000):
        with pytest.raises(MessageError):
            unpack(data)
        with pytest.raises(MessageError):
            decode(frame)


def test_a_layout_of_terabytes_allocates_nothing() -> None:
    rows = [["w", "float64", [1 << 37], 0]]
    with allocating_at_most(50_000):
        layout = Layout.from_wire(rows)
        with pytest.raises(MessageError, match="its layout 1099511627776"):
            layout.views(b"")
        with pytest.raises(OversizeError):
            Layout.from_wire([*rows, ["v", "int8", [1], 1 << 40]])


def test_a_message_of_terabytes_allocates_nothing() -> None:
    head = split("update", {}, bytes(100_000))[0]
    with allocating_at_most(50_000):
        with pytest.raises(OversizeError, match=f"claims {1 << 60}"):
            Assembler(LIMIT).feed(replace(head, nbytes=1 << 60))
        with pytest.raises(OversizeError, match=f"claims {1 << 40} bytes, at most {LIMIT}"):
            Assembler(LIMIT).feed(replace(head, nbytes=1 << 40))
        # Within the limit it is believed, but memory comes with the parts.
        assert Assembler(1 << 40).feed(replace(head, nbytes=1 << 40, parts=codec.MAX_PARTS)) is None


# --- parts


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"parts": 0}, MessageError),
        ({"parts": -1}, MessageError),
        ({"part": -1}, MessageError),
        ({"part": 1}, MessageError),
        ({"parts": codec.MAX_PARTS + 1}, MessageError),
        ({"nbytes": 1 << 60}, OversizeError),
        ({"nbytes": 9}, ChecksumError),
        ({"nbytes": 11}, ChecksumError),
        ({"nbytes": -1}, ChecksumError),
        ({"parts": 2, "nbytes": 9}, ChecksumError),
        ({"crc32": 0}, ChecksumError),
        ({"crc32": -1}, ChecksumError),
        ({"body": b"0123456780"}, ChecksumError),
    ],
)
def test_a_part_that_contradicts_itself(changes: dict[str, Any], error: type[MessageError]) -> None:
    part = Part.single("update", b"0123456789")
    check_part(part)
    with pytest.raises(error):
        check_part(replace(part, **changes))


@fast
@given(st.binary(min_size=1, max_size=100), st.data())
def test_a_turned_bit_is_seen(body: bytes, data: st.DataObject) -> None:
    at, bit = data.draw(st.integers(0, len(body) - 1)), data.draw(st.integers(0, 7))
    turned = bytearray(body)
    turned[at] ^= 1 << bit
    with pytest.raises(ChecksumError, match="checksum"):
        check_part(replace(Part.single("update", body), body=bytes(turned)))


def in_parts(version: int, pieces: int) -> list[Part]:
    """A message in so many payload parts, small ones: the state that only large payloads have otherwise."""
    bodies = [encode({"version": version}), *(bytes([version, i]) * (i + 1) for i in range(pieces))]
    nbytes = sum(map(len, bodies))
    return [
        Part(f"m{version}", "update", i, len(bodies), nbytes, zlib.crc32(body), body, "site")
        for i, body in enumerate(bodies)
    ]


def feed(assembler: Assembler, parts: Sequence[Part]) -> list[Any]:
    return [assembler.feed(part) for part in parts]


def meaning(parts: Sequence[Part]) -> tuple[dict[str, Any], bytes]:
    return decode(parts[0].body)[0], b"".join(bytes(part.body) for part in parts[1:])


@st.composite
def interleaved(draw: st.DrawFn) -> tuple[list[list[Part]], list[Part]]:
    """Two messages, and their parts in one log: each in order, some of them sent again."""
    messages = [in_parts(version, draw(st.integers(1, 5))) for version in (1, 2)]
    queues = [list(message) for message in messages]
    log: list[Part] = []
    while any(queues):
        again = bool(log) and draw(st.booleans())
        if again:
            log.append(draw(st.sampled_from(log)))
        else:
            log.append(draw(st.sampled_from([queue for queue in queues if queue])).pop(0))
    return messages, log


@fast
@given(interleaved())
def test_interleaved_messages_with_repeated_parts_come_whole(
    drawn: tuple[list[list[Part]], list[Part]],
) -> None:
    messages, log = drawn
    assembler = Assembler(LIMIT)
    wholes = [whole for part in log if (whole := assembler.feed(part)) is not None]
    for message in messages:
        assert meaning(message) in wholes
    assert all(whole in [meaning(message) for message in messages] for whole in wholes)


@fast
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=30))
def test_parts_in_any_order_make_nothing_that_was_not_sent(picks: list[tuple[int, int]]) -> None:
    messages = [in_parts(version, 3) for version in range(3)]
    assembler = Assembler(LIMIT)
    fed: set[tuple[int, int]] = set()
    for version, number in picks:
        fed.add((version, number))
        whole = assembler.feed(messages[version][number])
        if whole is not None:
            assert whole == meaning(messages[version])
            assert fed >= set(itertools.product([version], range(4)))


@pytest.mark.parametrize("lost", [0, 1, 2, 3])
def test_a_message_that_lacks_a_part_never_comes_and_the_next_one_does(lost: int) -> None:
    first, second = in_parts(1, 3), in_parts(2, 3)
    assembler = Assembler(LIMIT)
    assert [assembler.feed(part) for part in first if part.part != lost] == [None] * 3
    assert feed(assembler, second) == [None, None, None, meaning(second)]


def test_a_sender_cannot_finish_anothers_message() -> None:
    parts = in_parts(1, 2)
    assembler = Assembler(LIMIT)
    assert feed(assembler, parts[:2]) == [None, None]
    assert assembler.feed(replace(parts[2], user_id="other")) is None
    assert assembler.feed(parts[2]) == meaning(parts)


def test_of_many_unfinished_messages_the_oldest_is_dropped() -> None:
    messages = [in_parts(version, 1) for version in range(codec.MAX_PENDING + 1)]
    assembler = Assembler(LIMIT)
    for head, _ in messages:
        assembler.feed(head)
    assert [assembler.feed(rest) for _, rest in messages] == [None, *map(meaning, messages[1:])]


@pytest.mark.parametrize(("claimed", "held"), [(11, 12), (13, 12), (6, 12), (5, 6), (0, 2)])
def test_parts_that_do_not_add_up_are_refused(claimed: int, held: int) -> None:
    parts = in_parts(1, 3)
    assembler = Assembler(LIMIT)
    wrong = [replace(part, nbytes=part.nbytes - 12 + claimed) for part in parts]
    with pytest.raises(ChecksumError, match=f"hold {held} bytes, their message claims {claimed}"):
        feed(assembler, wrong)
    # It is gone: its last part again completes nothing, and the next message is taken.
    assert feed(assembler, [wrong[-1], *in_parts(2, 1)]) == [None, None, meaning(in_parts(2, 1))]


def test_the_first_of_several_parts_is_the_header_alone() -> None:
    head = in_parts(1, 2)[0]
    with pytest.raises(MessageError, match="holds no payload"):
        Assembler(LIMIT).feed(resealed(head, bytes(head.body) + b"x"))


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_damaged_parts_do_no_harm(data: st.DataObject) -> None:
    parts = in_parts(1, 3)
    damaged = data.draw(st.integers(0, 3))
    small = st.integers(-2, 6)
    parts[damaged] = replace(
        resealed(parts[damaged], data.draw(mutated(bytes(parts[damaged].body)))),
        part=data.draw(st.just(damaged) | small),
        parts=data.draw(st.just(4) | small),
        nbytes=data.draw(st.just(parts[0].nbytes) | st.integers(-(2**70), 2**70) | st.integers(0, 200)),
    )
    assembler = Assembler(LIMIT)
    for part in parts:
        only_message_errors(lambda part=part: assembler.feed(part))  # type: ignore[misc]
    assert feed(assembler, in_parts(2, 2)) == [None, None, meaning(in_parts(2, 2))]
