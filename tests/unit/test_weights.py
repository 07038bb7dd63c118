"""Layouts and payloads: every dtype and shape, every claim checked, no copies."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared import weights
from shared.errors import MessageError, OversizeError
from shared.weights import DTYPES, Array, Layout, Weights, subtract

DTYPE_NAMES = st.sampled_from(sorted(DTYPES))
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)
fast = settings(max_examples=60, deadline=None)


@st.composite
def arrays(draw: st.DrawFn, dtype: str | None = None, shape: tuple[int, ...] | None = None) -> Array:
    """An array as libraries hand them out: in C or Fortran order, strided, reversed, of either byte order."""
    made = draw(hnp.arrays(dtype or draw(DTYPE_NAMES), SHAPES if shape is None else shape))
    if draw(st.booleans()):
        made = made.astype(made.dtype.newbyteorder(">"))
    match draw(st.sampled_from(["as it is", "fortran", "reversed", "strided"])):
        case "fortran":
            made = np.array(made, order="F")
        case "reversed":
            made = np.flip(made)
        case "strided":
            made = np.stack([made, made], axis=-1)[..., 1]
    return made


def raw(array: Array) -> bytes:
    """An array's elements, little-endian, in C order."""
    return array.astype(array.dtype.newbyteorder("<")).tobytes(order="C")


# --- round trips


@fast
@given(st.dictionaries(NAMES, arrays(), max_size=5))
def test_arrays_come_back_bit_for_bit(named: dict[str, Array]) -> None:
    made = Weights.from_arrays(named)
    received = Weights(Layout.from_wire(made.layout.to_wire()), bytes(made.payload))
    assert received.layout == made.layout
    assert received.digest == made.digest
    assert list(received.arrays) == list(named)
    for name, array in named.items():
        assert received.arrays[name].shape == array.shape
        assert received.arrays[name].dtype == DTYPES[array.dtype.name]
        assert received.arrays[name].tobytes() == raw(array)


@fast
@given(st.dictionaries(NAMES, arrays(), max_size=6))
def test_tensors_lie_aligned_one_after_another(named: dict[str, Array]) -> None:
    made = Weights.from_arrays(named)
    end = 0
    for tensor, array in zip(made.layout.tensors, named.values(), strict=True):
        assert tensor.offset % array.dtype.itemsize == 0
        assert 0 <= tensor.offset - end < array.dtype.itemsize
        assert not any(made.payload[end : tensor.offset]), "gaps are zeros"
        assert (tensor.size, tensor.nbytes) == (array.size, array.nbytes)
        end = tensor.offset + tensor.nbytes
    assert made.layout.nbytes == len(made.payload) == end


def test_views_share_the_payloads_memory() -> None:
    made = Weights.from_arrays({"a": np.arange(6, dtype="float32").reshape(2, 3), "b": np.arange(4)})
    whole = np.frombuffer(made.payload, np.uint8)
    assert all(np.shares_memory(whole, view) for view in made.arrays.values())
    made.arrays["a"][1, 2] = 9
    assert np.frombuffer(made.payload, "float32", 6)[-1] == 9


def test_received_views_cannot_be_written() -> None:
    made = Weights.from_arrays({"a": np.zeros(3)})
    view = Weights(made.layout, bytes(made.payload)).arrays["a"]
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1


def test_from_arrays_copies() -> None:
    source = np.zeros(3)
    made = Weights.from_arrays({"a": source})
    source[0] = 1
    assert made.arrays["a"].tolist() == [0, 0, 0]


# --- digests


def test_the_digest_is_pinned() -> None:
    """It names versions in logs that are kept: it must never change."""
    made = Weights.from_arrays({"w": np.array([1, -2], "float32"), "n": np.array(7, "int64")})
    rows = b'[["w","float32",[2],0],["n","int64",[],8]]'
    payload = bytes.fromhex("0000803f 000000c0 0700000000000000")
    assert made.layout.canonical() == rows
    assert bytes(made.payload) == payload
    assert made.layout.digest == hashlib.sha256(rows).hexdigest()
    assert made.digest == hashlib.sha256(rows + b"\0" + payload).hexdigest()
    assert made.digest == "aa267d0839226f5921a79b980b101498d066816a40350e5c8456f868a86122fa"


def test_digests_tell_names_shapes_dtypes_order_and_bits_apart() -> None:
    one, zero = np.ones(2, "float32"), np.zeros(2, "float32")
    models: list[dict[str, Array]] = [
        {"a": one, "b": zero}, {"b": zero, "a": one}, {"a": zero, "b": one}, {"a": one, "c": zero},
        {"a": one.reshape(1, 2), "b": zero}, {"a": one, "b": -zero}, {"a": one.view("int32"), "b": zero},
        {"a": one},
    ]  # fmt: skip
    assert len({Weights.from_arrays(model).digest for model in models}) == len(models)


# --- claims


@fast
@given(JUNK)
def test_junk_is_no_layout(rows: object) -> None:
    try:
        layout = Layout.from_wire(rows)
    except MessageError:
        return
    assert layout.to_wire() == rows == []


@st.composite
def damaged_rows(draw: st.DrawFn) -> list[Any]:
    """A layout's rows with one value in them replaced."""
    specs = draw(
        st.lists(st.tuples(NAMES, DTYPE_NAMES, SHAPES), min_size=1, max_size=4, unique_by=lambda s: s[0])
    )
    rows: list[Any] = Layout.of(specs).to_wire()
    row = draw(st.integers(0, len(rows) - 1))
    value = draw(
        JUNK
        | st.integers(-(2**70), 2**70)
        | st.lists(st.sampled_from([-1, 0, 1, 2**20, 2**40, 2**63, True, 1.0, None]), max_size=40)
        | st.sampled_from([*DTYPES, "object", "<U4", ">f4", "float128", "O", "V8", "datetime64[s]"])
    )
    if draw(st.booleans()):
        rows[row] = value
    else:
        rows[row][draw(st.integers(0, 3))] = value
    return rows


@settings(max_examples=120, deadline=None)
@given(damaged_rows())
def test_damaged_rows_are_refused_or_are_a_layout(rows: list[Any]) -> None:
    try:
        layout = Layout.from_wire(rows)
    except MessageError:
        return
    assert layout.to_wire() == [list(row) for row in rows]
    assert layout.nbytes <= weights.MAX_PAYLOAD_BYTES
    if layout.nbytes < 1 << 20:
        assert len(layout.views(bytes(layout.nbytes))) == len(rows)


def _row(**changes: object) -> list[object]:
    return list({"name": "w", "dtype": "float32", "shape": [2], "offset": 0, **changes}.values())


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ({}, "a layout is a list"),
        ([["w", "float32", [2]]], "a layout's row is"),
        ([_row(offset=True)], "a layout's row is"),
        ([_row(offset=4)], "'w' must start at byte 0, not 4"),
        ([_row(), _row(offset=8)], "'w' stands twice"),
        ([_row(), _row(name="v", offset=4)], "'v' must start at byte 8, not 4"),
        ([_row(name="")], "1 to 512 characters"),
        ([_row(name="x" * 513)], "1 to 512 characters"),
        ([_row(name=b"w")], "1 to 512 characters"),
        ([_row(dtype="object")], "'w' has dtype 'object'; allowed are"),
        ([_row(dtype=["float32"])], "allowed are"),
        ([_row(shape=2)], "a shape is a list"),
        ([_row(shape=[1] * 33)], "at most 32"),
        ([_row(shape=[-1])], "whole numbers"),
        ([_row(shape=[True])], "whole numbers"),
        ([_row(shape=[2.0])], "whole numbers"),
        ([_row(shape=[1 << 38])], None),
        ([_row(shape=[(1 << 38) + 1])], "ends past"),
        ([_row(shape=[1 << 41])], "whole numbers"),
        ([_row(shape=[1 << 40] * 32)], "ends past"),
        ([_row(shape=[0, 1 << 40, 1 << 40])], "ends past"),
        ([_row(shape=[1 << 38]), _row(name="v", offset=1 << 40)], "'v' ends past"),
    ],
)
def test_claims(rows: Any, sentence: str | None) -> None:
    if sentence is None:
        assert Layout.from_wire(rows).nbytes == 1 << 40
    else:
        with pytest.raises(MessageError, match=sentence):
            Layout.from_wire(rows)


def test_the_number_of_tensors_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "MAX_TENSORS", 3)
    specs = [(f"t{i}", "int8", (1,)) for i in range(4)]
    assert len(Layout.of(specs[:3])) == 3
    with pytest.raises(OversizeError, match="at most 3 tensors"):
        Layout.of(specs)
    with pytest.raises(OversizeError, match="at most 3 tensors"):
        Layout.from_wire([[name, dtype, list(shape), i] for i, (name, dtype, shape) in enumerate(specs)])


@pytest.mark.parametrize(
    "array", [np.array(["text"]), np.array([object()]), np.zeros(1, "datetime64[s]"), np.zeros(1, "i4,f4")]
)
def test_what_cannot_travel_is_refused(array: Array) -> None:
    with pytest.raises(MessageError, match="'w' has dtype"):
        Weights.from_arrays({"w": array})


@pytest.mark.parametrize("nbytes", [0, 7, 9])
def test_a_payload_of_another_length_is_refused(nbytes: int) -> None:
    layout = Layout.of([("w", "float32", (2,))])
    for payload in (bytes(nbytes), bytearray(nbytes), memoryview(bytes(nbytes))):
        with pytest.raises(MessageError, match=f"has {nbytes} bytes, its layout 8"):
            layout.views(payload)


# --- deltas


@fast
@given(st.data())
def test_base_plus_delta_is_local(data: st.DataObject) -> None:
    """Exactly, for whole numbers and truth values; for floats, delta is the difference as numpy has it."""
    dtype, shape = data.draw(DTYPE_NAMES), data.draw(SHAPES)
    old, new = data.draw(arrays(dtype, shape)), data.draw(arrays(dtype, shape))
    base = Weights.from_arrays({"w": old})
    with np.errstate(all="ignore"):
        delta = subtract({"w": new}, base).arrays["w"]
        if dtype == "bool":
            assert ((old ^ delta) == new).all()
        elif DTYPES[dtype].kind in "iu":
            assert (old + delta == new).all()
        else:
            assert delta.tobytes() == raw(np.asarray(new - old))


def test_the_order_of_the_names_does_not_matter() -> None:
    base = Weights.from_arrays({"a": np.array([1.0]), "b": np.array([2.0])})
    delta = subtract({"b": np.array([5.0]), "a": np.array([2.0])}, base)
    assert delta.layout is base.layout
    assert {name: array.tolist() for name, array in delta.arrays.items()} == {"a": [1.0], "b": [3.0]}


@pytest.mark.parametrize(
    ("local", "sentence"),
    [
        ({}, r"missing \['w'\], not expected \[\]"),
        ({"w": np.zeros(2, "float32"), "v": 0}, r"missing \[\], not expected \['v'\]"),
        ({"w": np.zeros(2)}, r"'w' is float64\[2\], the model's is float32\[2\]"),
        ({"w": np.zeros((2, 1), "float32")}, r"'w' is float32\[2, 1\], the model's is float32\[2\]"),
    ],
)
def test_weights_of_another_model_have_no_delta(local: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MessageError, match=sentence):
        subtract(local, Weights.from_arrays({"w": np.zeros(2, "float32")}))
