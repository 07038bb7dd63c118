"""Messages to bytes and back.

A message is

    magic "WRN1" | header length, u32 little-endian | header | zeros to a multiple of 64 | payload

The header is a msgpack map with text keys. The payload is a model's raw bytes (see `shared.weights`) or a
msgpack list. A message of up to 64 KiB travels as one part; of a larger one, part 0 is everything before
the payload and the other parts are the payload in slices.

Decoding runs no code, copies no payload, and checks every size before anything is allocated for it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgpack

from shared.broker.port import Part, new_id
from shared.errors import ChecksumError, MessageError, OversizeError, UnknownVersionError
from shared.weights import MAX_PAYLOAD_BYTES, Buffer, zeros

MAGIC = b"WRN1"
ALIGNMENT = 64
MAX_HEADER_BYTES = 1 << 20
#: The largest message that stays in one piece, and the size of the pieces otherwise.
SINGLE_PART_BYTES = 64 * 1024
PART_BYTES = 4 * 1024 * 1024
MAX_PARTS = 1 << 20
#: Room set aside for a payload when its first bytes come; what isn't written to takes no memory.
ROOM_BYTES = 1 << 30
#: Unfinished messages that an Assembler keeps.
MAX_PENDING = 2

_PREFIX = struct.Struct("<4sI")


def encode(header: Mapping[str, Any]) -> bytes:
    """Prefix, header and padding: all of a message but its payload.

    Raises:
        OversizeError: the header is over MAX_HEADER_BYTES.
        MessageError: the header holds something that msgpack cannot carry.
    """
    packed = pack(header)
    if len(packed) > MAX_HEADER_BYTES:
        raise OversizeError(f"a header has at most {MAX_HEADER_BYTES} bytes, this one {len(packed)}")
    head = _PREFIX.pack(MAGIC, len(packed)) + packed
    return head + bytes(-len(head) % ALIGNMENT)


def decode(data: Buffer) -> tuple[dict[str, Any], memoryview]:
    """The header, and the payload as a view of `data` (of part 0 of a larger message: an empty one).

    Raises:
        UnknownVersionError: the magic is that of another Warren.
        OversizeError: the header claims more than its bound.
        MessageError: anything else that is no message.
    """
    view = memoryview(data).cast("B")
    if len(view) < _PREFIX.size:
        raise MessageError("a message has at least 8 bytes")
    magic, length = _PREFIX.unpack_from(view)
    if magic != MAGIC:
        if magic[:3] == MAGIC[:3]:
            raise UnknownVersionError(f"wire version {magic[3:]!r} is not known here; upgrade Warren")
        raise MessageError("this is no message: it does not begin with WRN1")
    if length > MAX_HEADER_BYTES:
        raise OversizeError(f"a header has at most {MAX_HEADER_BYTES} bytes, this one claims {length}")
    end = _PREFIX.size + length
    padded = -(-end // ALIGNMENT) * ALIGNMENT
    if len(view) < padded or any(view[end:padded]):
        raise MessageError("the header is cut off, or not padded with zeros")
    header = unpack(view[_PREFIX.size : end])
    if not isinstance(header, dict):
        raise MessageError("a header is a map")
    return header, view[padded:]


def pack(value: object) -> bytes:
    """Msgpack bytes of plain values.

    Raises:
        MessageError: the value holds something else.
    """
    try:
        return bytes(msgpack.packb(value, use_bin_type=True, strict_types=True))
    except (TypeError, ValueError, OverflowError) as error:
        raise MessageError(f"this cannot travel: {error}") from error


def unpack(data: Buffer) -> Any:
    """The value in msgpack bytes: text keys only, no extension types, nothing behind it.

    Raises:
        MessageError: the bytes are anything else.
    """
    size = len(data)
    try:
        _walk(data)
        return msgpack.unpackb(
            data, raw=False, strict_map_key=True, ext_hook=_no_extensions, object_pairs_hook=_text_keys,
            max_str_len=size, max_bin_len=size, max_array_len=size, max_map_len=size, max_ext_len=0,
        )  # fmt: skip
    except MessageError:
        raise
    # msgpack documents no closed list of what malformed input raises: ValueError and its kin, and
    # RecursionError's StackError for deep nesting.
    except (ValueError, TypeError, KeyError, RecursionError, msgpack.UnpackException) as error:
        raise MessageError(f"malformed msgpack: {type(error).__name__}") from error


def split(
    kind: str, header: Mapping[str, Any], payload: Buffer = b"", part_bytes: int = PART_BYTES
) -> list[Part]:
    """The parts of a message, under one fresh id. Large payloads are sliced, not copied."""
    head = encode(header)
    body = memoryview(payload).cast("B")
    nbytes = len(head) + len(body)
    message_id = new_id()
    if nbytes <= SINGLE_PART_BYTES:
        whole = head + body
        return [Part(message_id, kind, 0, 1, nbytes, zlib.crc32(whole), whole)]
    pieces: list[bytes | memoryview] = [
        head,
        *(body[i : i + part_bytes] for i in range(0, len(body), part_bytes)),
    ]
    return [
        Part(message_id, kind, number, len(pieces), nbytes, zlib.crc32(piece), piece)
        for number, piece in enumerate(pieces)
    ]


def check_part(part: Part) -> None:
    """Checks what a part says of itself, before anything is kept for it.

    Raises:
        OversizeError: it claims more bytes or parts than a message may have.
        ChecksumError: its body is not what its sender hashed.
        MessageError: its numbers contradict each other.
    """
    if not 0 < part.parts <= MAX_PARTS or not 0 <= part.part < part.parts:
        raise MessageError(f"part {part.part} of {part.parts} is no part")
    if part.nbytes > MAX_PAYLOAD_BYTES + MAX_HEADER_BYTES:
        raise OversizeError(f"a message has at most {MAX_PAYLOAD_BYTES} bytes, this one claims {part.nbytes}")
    if len(part.body) > part.nbytes or (part.parts == 1 and len(part.body) != part.nbytes):
        raise ChecksumError(f"the part has {len(part.body)} bytes, its message claims {part.nbytes}")
    if zlib.crc32(part.body) != part.crc32:
        raise ChecksumError("the part's checksum does not match its bytes")


@dataclass
class _Pending:
    """A message on its way: what its part 0 said, and what has come of its payload."""

    header: dict[str, Any]
    parts: int
    nbytes: int
    payload: Buffer = b""
    filled: int = 0
    next_part: int = 1

    def add(self, body: Buffer) -> None:
        """Takes in the next part's bytes, none beyond what the message claims; all in one go uncopied."""
        start, self.filled = self.filled, self.filled + len(body)
        self.next_part += 1
        if self.filled > self.nbytes or not len(body):
            return
        if len(body) == self.nbytes:
            self.payload = body
            return
        if self.filled > len(self.payload):
            larger = zeros(min(self.nbytes, max(2 * start, self.filled, ROOM_BYTES)))
            larger[:start] = self.payload[:start]
            self.payload = larger
        memoryview(self.payload)[start : self.filled] = body


class Assembler:
    """Puts multi-part messages together, in memory: each one's part 0 first, then in order.

    Messages may lie interleaved, as when a coordinator that was given up for dead goes on beside the next; of
    more than MAX_PENDING unfinished ones, the one begun first is dropped. Memory grows with what has come,
    not with what was claimed.
    """

    def __init__(self, limit: int) -> None:
        """`limit`: the most bytes that a message may have here."""
        self._limit = limit
        self._pending: dict[tuple[str, str], _Pending] = {}

    def feed(self, part: Part) -> tuple[dict[str, Any], Buffer] | None:
        """Takes a part; returns header and payload when it was the last. Stray parts are passed over.

        Raises:
            MessageError: the message is malformed or over the limit; others on their way are not touched.
        """
        check_part(part)
        key = (part.user_id, part.message_id)
        if part.part == 0:
            return self._begin(key, part)
        pending = self._pending.get(key)
        if pending is None or (part.part, part.parts) != (pending.next_part, pending.parts):
            return None
        pending.add(part.body)
        if pending.filled <= pending.nbytes and pending.next_part < pending.parts:
            return None
        del self._pending[key]
        if pending.filled != pending.nbytes:
            raise ChecksumError(
                f"the parts hold {pending.filled} bytes, their message claims {pending.nbytes}"
            )
        return pending.header, pending.payload

    def _begin(self, key: tuple[str, str], part: Part) -> tuple[dict[str, Any], Buffer] | None:
        header, rest = decode(part.body)
        if part.parts == 1:
            return header, rest
        if part.nbytes > self._limit:
            raise OversizeError(f"the message claims {part.nbytes} bytes, at most {self._limit} are taken")
        if len(rest):
            raise MessageError("part 0 of several holds no payload")
        # One that is there already was sent once more after a lost connection.
        if key not in self._pending:
            nbytes = part.nbytes - len(part.body)
            if nbytes < 0:
                raise ChecksumError(f"part 0 alone has more bytes than the {part.nbytes} of its message")
            self._pending[key] = _Pending(header, part.parts, nbytes)
        if len(self._pending) > MAX_PENDING:
            del self._pending[next(iter(self._pending))]
        return None


def _walk(data: Buffer) -> None:
    """Fails unless the bytes hold what their lengths claim: only then may lists be made for them."""
    unpacker = msgpack.Unpacker(None, max_buffer_size=max(len(data), 1))
    unpacker.feed(data)
    unpacker.skip()


def _text_keys(pairs: Iterator[tuple[object, object]]) -> dict[object, object]:
    made: dict[object, object] = {}
    for key, value in pairs:
        if not isinstance(key, str) or key in made:
            raise MessageError("a map's keys are texts, each once")
        made[key] = value
    return made


def _no_extensions(code: int, _data: bytes) -> object:
    raise MessageError(f"msgpack extension type {code} is not taken")
