"""Model weights: one contiguous buffer and a layout that names the tensors in it.

Payload: the tensors' raw little-endian bytes in C order, one after another, each starting at the next
multiple of its item size (so a model of one dtype has no gaps, and every view is aligned). A layout is
therefore fully determined by its names, dtypes and shapes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.errors import MessageError, OversizeError

Array = npt.NDArray[Any]
Buffer = bytes | bytearray | memoryview

#: dtypes that may travel, by their name on the wire. No objects, no strings, no platform-sized types.
DTYPES: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        "float16", "float32", "float64", "int8", "int16", "int32", "int64",
        "uint8", "uint16", "uint32", "uint64", "bool", "complex64", "complex128",
    )
}  # fmt: skip
#: Bounds on what a header may claim, checked before anything is allocated.
MAX_TENSORS = 65_536
MAX_NAME_CHARS = 512
MAX_DIMENSIONS = 32
MAX_PAYLOAD_BYTES = 1 << 40


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor's place in the payload: `offset` and `nbytes` in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.nbytes // DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Layout:
    """Names, dtypes and shapes of a model's tensors, in payload order."""

    tensors: tuple[Tensor, ...]

    @classmethod
    def of(cls, specs: Iterable[tuple[str, str, Sequence[int]]]) -> Layout:
        """Builds the layout of (name, dtype, shape) triples.

        Raises:
            MessageError: a name repeats, or a dtype, shape or name is not allowed.
            OversizeError: more tensors or bytes than the bounds allow.
        """
        tensors: list[Tensor] = []
        names: set[str] = set()
        end = 0
        for name, dtype, shape in specs:
            if len(tensors) >= MAX_TENSORS:
                raise OversizeError(f"a layout holds at most {MAX_TENSORS} tensors")
            tensor = _place(name, dtype, shape, end)
            if name in names:
                raise MessageError(f"tensor {name!r} stands twice in the layout")
            names.add(name)
            tensors.append(tensor)
            end = tensor.offset + tensor.nbytes
        return cls(tuple(tensors))

    @classmethod
    def from_wire(cls, rows: object) -> Layout:
        """Reads what `to_wire` wrote; every claim is checked.

        Raises:
            MessageError: the rows are not a layout in its canonical form.
        """
        if not isinstance(rows, list | tuple):
            raise MessageError("a layout is a list of [name, dtype, shape, offset]")
        if len(rows) > MAX_TENSORS:
            raise OversizeError(f"a layout holds at most {MAX_TENSORS} tensors")
        for row in rows:
            if not isinstance(row, list | tuple) or len(row) != 4 or type(row[3]) is not int:
                raise MessageError("a layout's row is [name, dtype, shape, offset]")
        layout = cls.of((row[0], row[1], row[2]) for row in rows)
        for row, tensor in zip(rows, layout.tensors, strict=True):
            if row[3] != tensor.offset:
                raise MessageError(f"tensor {tensor.name!r} must start at byte {tensor.offset}, not {row[3]}")
        return layout

    def to_wire(self) -> list[list[Any]]:
        """Rows of [name, dtype, shape, offset] for a message header."""
        return [[t.name, t.dtype, list(t.shape), t.offset] for t in self.tensors]

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the payload."""
        return self.tensors[-1].offset + self.tensors[-1].nbytes if self.tensors else 0

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the layout's canonical JSON, in hex."""
        return hashlib.sha256(self.canonical()).hexdigest()

    def canonical(self) -> bytes:
        """The layout as JSON without spaces: what digests are made of."""
        return json.dumps(self.to_wire(), separators=(",", ":")).encode()

    def __len__(self) -> int:
        return len(self.tensors)

    def views(self, buffer: Buffer) -> dict[str, Array]:
        """The tensors of a payload, by name, as views of it: nothing is copied.

        Raises:
            MessageError: the payload's length is not the layout's.
        """
        data = memoryview(buffer).cast("B") if not isinstance(buffer, bytes) else buffer
        if len(data) != self.nbytes:
            raise MessageError(f"the payload has {len(data)} bytes, its layout {self.nbytes}")
        return {
            t.name: np.frombuffer(data, DTYPES[t.dtype], t.size, t.offset).reshape(t.shape)
            if t.nbytes
            else np.zeros(t.shape, DTYPES[t.dtype])
            for t in self.tensors
        }


@dataclass(frozen=True)
class Weights:
    """A model: its layout and the payload that holds it."""

    layout: Layout
    payload: Buffer

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.ArrayLike]) -> Weights:
        """Copies arrays (any order, any memory layout) into one payload.

        Raises:
            MessageError: an array's dtype cannot travel.
        """
        named = {name: np.asarray(value) for name, value in arrays.items()}
        layout = Layout.of((name, value.dtype.name, value.shape) for name, value in named.items())
        payload = zeros(layout.nbytes)
        for tensor, view in zip(layout.tensors, layout.views(payload).values(), strict=True):
            if tensor.nbytes:
                view[...] = named[tensor.name]
        return cls(layout, payload)

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """The tensors by name, as views of the payload."""
        return self.layout.views(self.payload)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over layout and payload, in hex: by this a version is known everywhere."""
        return digest_of(self.layout, self.payload)


def digest_of(layout: Layout, payload: Buffer) -> str:
    """SHA-256, in hex, over the layout's canonical JSON, a zero byte, and the payload."""
    sha = hashlib.sha256(layout.canonical())
    sha.update(b"\0")
    sha.update(payload)
    return sha.hexdigest()


def zeros(nbytes: int) -> memoryview:
    """That many zero bytes as the system hands them out, untouched; a bytearray would write them, and then
    again what comes."""
    return np.zeros(nbytes, np.uint8).data


def subtract(local: Mapping[str, npt.ArrayLike], base: Weights) -> Weights:
    """The delta `local − base`, tensor by tensor, in the base's layout.

    Integer tensors wrap in two's complement, so that base + delta gives local back exactly.

    Raises:
        MessageError: local has other names, shapes or dtypes than base; the sentence says which.
    """
    missing = [name for name in base.arrays if name not in local]
    surplus = [name for name in local if name not in base.arrays]
    if missing or surplus:
        raise MessageError(f"the weights' names differ: missing {missing}, not expected {surplus}")
    payload = zeros(base.layout.nbytes)
    for name, out in base.layout.views(payload).items():
        new, old = np.asarray(local[name]), base.arrays[name]
        # Other bytes' order is no other dtype; names are slow to make, and seldom needed.
        if new.shape != old.shape or (new.dtype != old.dtype and new.dtype.name != old.dtype.name):
            raise MessageError(
                f"tensor {name!r} is {new.dtype}{list(new.shape)}, "
                f"the model's is {old.dtype}{list(old.shape)}"
            )
        if out.dtype == bool:
            np.logical_xor(new, old, out=out)
        elif out.size:
            np.subtract(new, old, out=out)
    return Weights(base.layout, payload)


def _place(name: object, dtype: object, shape: object, end: int) -> Tensor:
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARS:
        raise MessageError(f"a tensor's name is a text of 1 to {MAX_NAME_CHARS} characters")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise MessageError(f"tensor {name!r} has dtype {dtype!r}; allowed are {', '.join(DTYPES)}")
    if not isinstance(shape, list | tuple) or len(shape) > MAX_DIMENSIONS:
        raise MessageError(f"tensor {name!r}: a shape is a list of at most {MAX_DIMENSIONS} numbers")
    if any(type(n) is not int or not 0 <= n <= MAX_PAYLOAD_BYTES for n in shape):
        raise MessageError(f"tensor {name!r}: a shape holds whole numbers from 0 on")
    itemsize = DTYPES[dtype].itemsize
    nbytes = math.prod(shape) * itemsize
    offset = -(-end // itemsize) * itemsize
    # A tensor without elements is bounded as well: an array's other dimensions must multiply to a size.
    if max(offset + nbytes, math.prod(n or 1 for n in shape) * itemsize) > MAX_PAYLOAD_BYTES:
        raise OversizeError(f"tensor {name!r} ends past {MAX_PAYLOAD_BYTES} bytes")
    return Tensor(name, dtype, tuple(shape), offset, nbytes)
