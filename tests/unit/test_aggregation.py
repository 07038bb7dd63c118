"""The fold: right to the last bit, whatever the order, the threads and the blocks."""

from __future__ import annotations

import itertools
import math
import mmap
import tracemalloc
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coordinator.aggregation import Contribution, aggregate, canonical, check_model, finite, moderate
from coordinator.optimizers import OPTIMIZERS, OptimizerState, create
from shared.errors import FederationFailed, MessageError
from shared.weights import DTYPES, Array, Layout, Weights, subtract

FEDAVG = create("fedavg")
MIXED: dict[str, npt.ArrayLike] = {
    "a": np.zeros((7, 3), np.float32), "b": np.zeros(5, np.float32), "steps": np.zeros((), np.int64),
    "h": np.zeros(9, np.float16), "none": np.zeros((0, 4), np.float32), "d": np.zeros(11),
    "u": np.zeros(3, np.uint8), "i": np.zeros(2, np.int8), "z": np.zeros(13, np.float32),
}  # fmt: skip
#: Small enough that no mean of them leaves any float dtype.
FLOATS = {width: st.floats(-1000, 1000, width=width) for width in (16, 32, 64)}


def contribution(
    client: str,
    weight: float,
    delta: npt.ArrayLike | dict[str, npt.ArrayLike],
) -> Contribution:
    arrays = delta if isinstance(delta, dict) else {"w": delta}
    return Contribution(client, 0, weight, Weights.from_arrays(arrays).payload)


def fold(
    base: Weights,
    contributions: Sequence[Contribution],
    normalise: Literal["weights", "count"] = "weights",
    **options: Any,
) -> dict[str, Array]:
    new, state = aggregate(base, contributions, normalise=normalise, optimizer=FEDAVG, state={}, **options)
    assert state == {}
    return new.arrays


def mean_of(
    base: npt.ArrayLike, deltas: Iterable[npt.ArrayLike], weights: Sequence[float], **options: Any
) -> Array:
    """The new values of a model of one tensor, in base's dtype."""
    base = np.asarray(base)
    rows = [
        contribution(f"s/{i:03}", weight, np.asarray(delta, base.dtype))
        for i, (delta, weight) in enumerate(zip(deltas, weights, strict=True))
    ]
    return fold(Weights.from_arrays({"w": base}), rows, **options)["w"]


def noise(layout: Layout, rng: np.random.Generator) -> bytes:
    """A payload with values in every tensor: floats about 1, integers small."""
    payload = bytearray(layout.nbytes)
    for view in layout.views(payload).values():
        view[...] = (
            rng.standard_normal(view.shape) if view.dtype.kind == "f" else rng.integers(-9, 9, view.shape) % 7
        )
    return bytes(payload)


# --- the mean


CLIENTS = np.array([[1.0, 0.8, 0.5], [1.2, 0.9, 0.6], [0.9, 0.7, 0.4], [1.1, 0.85, 0.55], [1.3, 1.0, 0.65]])
EXAMPLES = (50, 150, 100, 300, 4000)


@pytest.mark.parametrize("base", [np.zeros(3), np.array([1.0, 0.8, 0.5]), np.array([-3.0, 7.5, 0.1])])
def test_worked_example(base: Array) -> None:
    new = mean_of(base, CLIENTS - base, EXAMPLES)
    assert np.round(new, 8).tolist() == [1.27173913, 0.97826087, 0.63478261]


def test_worked_example_against_exact_arithmetic() -> None:
    new = mean_of(np.zeros(3), CLIENTS, EXAMPLES)
    for value, column in zip(new.tolist(), CLIENTS.T.tolist(), strict=True):
        exact = sum(Fraction(w) * n for w, n in zip(column, EXAMPLES, strict=True)) / Fraction(sum(EXAMPLES))
        assert abs(Fraction(value) - exact) <= 2 * Fraction(math.ulp(value))


def test_weights_or_count_as_the_divisor() -> None:
    deltas, weights = [np.array([4.0]), np.array([8.0])], [0.5, 0.25]
    assert mean_of(np.array([1.0]), deltas, weights).tolist() == [1 + 4 / 0.75]
    assert mean_of(np.array([1.0]), deltas, weights, normalise="count").tolist() == [1 + 4 / 2]


def test_weights_are_float64_even_where_the_model_is_not() -> None:
    new = mean_of(np.zeros(1, np.float32), [[0.0], [1.0]], [1.0, 16_777_217.0], normalise="count")
    assert new.tolist() == [8_388_608.0], "half of 2**24 + 1, to even"
    fine = mean_of(np.zeros(1), [[0.0], [1.0]], [1.0, 0.1], normalise="count")
    assert fine.tolist() == [0.05]


def test_a_stale_update_of_weight_nothing_counts_in_the_divisor_alone() -> None:
    assert mean_of(np.zeros(1), [[4.0], [9.0]], [1, 0], normalise="count").tolist() == [2.0]
    assert mean_of(np.zeros(1), [[4.0], [9.0]], [1, 0]).tolist() == [4.0]


@settings(max_examples=40, deadline=None)
@given(
    delta=hnp.arrays(np.float32, 5, elements=FLOATS[32]),
    base=hnp.arrays(np.float32, 5, elements=FLOATS[32]),
    examples=st.lists(st.integers(1, 1 << 20), min_size=1, max_size=20),
)
def test_equal_updates_come_back(delta: Array, base: Array, examples: list[int]) -> None:
    once = (base.astype(np.float64) + delta).astype(np.float32)
    assert mean_of(base, [delta] * len(examples), examples).tobytes() == once.tobytes()


@settings(max_examples=40, deadline=None)
@given(
    base=hnp.arrays(np.float64, 4, elements=FLOATS[64]),
    deltas=hnp.arrays(np.float64, (3, 4), elements=FLOATS[64]),
)
def test_moving_the_base_moves_the_result(base: Array, deltas: Array) -> None:
    weights = (1, 2, 5)
    moved = mean_of(base, list(deltas), weights)
    assert moved == pytest.approx(base + mean_of(np.zeros(4), list(deltas), weights), rel=1e-12, abs=1e-9)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_one_rounding_half_to_even(dtype: Literal["float16", "float32"], data: st.DataObject) -> None:
    elements = FLOATS[16 if dtype == "float16" else 32]
    base = data.draw(hnp.arrays(dtype, 3, elements=elements))
    deltas = data.draw(hnp.arrays(dtype, (4, 3), elements=elements))
    new = mean_of(base, list(deltas), (1, 1, 1, 1))
    # Values of these sizes and a division by four are exact in float64 nearly always; Fractions always.
    for value, start, column in zip(new, base.tolist(), deltas.T.tolist(), strict=True):
        exact = Fraction(start) + sum(map(Fraction, column), Fraction()) / 4
        if Fraction(float(exact)) == exact:
            assert value == nearest_even(exact, dtype)


def nearest_even(exact: Fraction, dtype: str) -> float:
    """The value of that dtype nearest to a number, of two the one with an even last bit."""
    guess = np.float64(float(exact)).astype(dtype)
    around = [np.nextafter(guess, -np.inf, dtype=dtype), guess, np.nextafter(guess, np.inf, dtype=dtype)]
    bits = f"u{np.dtype(dtype).itemsize}"
    return float(min(around, key=lambda v: (abs(Fraction(float(v)) - exact), int(v.view(bits)) & 1)))


def test_float16_is_summed_wider_than_it_is() -> None:
    # In float16 itself, 2048 + 1 is 2048, and 40 updates of 60000 overflow.
    assert mean_of(np.zeros(1, np.float16), [[2048], [1], [1], [2]], [1] * 4).tolist() == [513]
    assert mean_of(np.zeros(1, np.float16), [[60000]] * 40, [1] * 40).tolist() == [60000]


# --- integers


@pytest.mark.parametrize(
    ("dtype", "base", "clients", "expected"),
    [
        ("int64", 10, [12, 13], 12),  # 2.5 → 2
        ("int64", 10, [13, 14], 14),  # 3.5 → 4
        ("int64", 10, [8, 7], 8),  # −2.5 → −2
        ("uint8", 250, [254, 252], 253),
        ("uint8", 5, [1, 3], 2),  # unsigned deltas are negative here
        ("uint8", 250, [3, 5], 4),  # counters wrap
        ("int8", 127, [-127, -127], -127),
        ("uint64", 1 << 60, [(1 << 60) + 6, (1 << 60) + 2], (1 << 60) + 4),
    ],
)
def test_integers_are_averaged_and_rounded(dtype: str, base: int, clients: list[int], expected: int) -> None:
    model = Weights.from_arrays({"n": np.array([base], dtype)})
    rows = [
        Contribution(f"s/{i}", 0, 1.0, subtract({"n": np.array([value], dtype)}, model).payload)
        for i, value in enumerate(clients)
    ]
    assert fold(model, rows)["n"].tolist() == [expected]


@pytest.mark.parametrize("dtype", [name for name, dtype in DTYPES.items() if dtype.kind in "iu"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_equal_integers_come_back(dtype: str, data: st.DataObject) -> None:
    bound = 1 << 42  # times the weights still below 2**53
    info = np.iinfo(dtype)
    values = st.integers(max(int(info.min), -bound), min(int(info.max), bound))
    base, local = (np.array([data.draw(values)], dtype) for _ in range(2))
    model = Weights.from_arrays({"n": base})
    delta = subtract({"n": local}, model).payload
    weights = data.draw(st.lists(st.integers(1, 100), min_size=1, max_size=4))
    rows = [Contribution(f"s/{i}", 0, float(w), delta) for i, w in enumerate(weights)]
    assert fold(model, rows)["n"].tolist() == local.tolist()


@pytest.mark.parametrize("extreme", [-(2**63), 2**63 - 1])
def test_the_widest_integers_do_not_turn_over(extreme: int) -> None:
    new = mean_of(np.zeros(1, np.int64), [[extreme]] * 2, [1, 1])
    assert abs(int(new[0]) - extreme) < 2048


def test_an_optimizer_leaves_integers_alone() -> None:
    base = Weights.from_arrays({"n": np.array([1, 2]), "w": np.array([0.0])})
    rows = [contribution("s/0", 1, {"n": np.array([4, 4]), "w": np.array([1.0])})]
    adam = create("fedadam", learning_rate=0.1)
    new, _ = aggregate(base, rows, normalise="weights", optimizer=adam, state=adam.initial_state(base.layout))
    assert new.arrays["n"].tolist() == [5, 6]
    assert new.arrays["w"] == pytest.approx([0.099005], abs=5e-7)


# --- the same bits


@pytest.fixture(scope="module")
def mixed() -> tuple[Weights, list[Contribution]]:
    """A model of every kind of tensor, and seven updates, three of one client."""
    rng = np.random.default_rng(1)
    layout = Weights.from_arrays(MIXED).layout
    names = [
        ("a/0", 3, ""),
        ("a/0", 4, "x"),
        ("a/0", 4, "y"),
        ("b/0", 4, ""),
        ("b/1", 4, ""),
        ("c/0", 2, ""),
        ("d/0", 4, ""),
    ]
    rows = [
        Contribution(client, version, float(rng.integers(1, 5000)) * 0.7, noise(layout, rng), order)
        for client, version, order in names
    ]
    return Weights(layout, noise(layout, rng)), rows


@pytest.mark.parametrize("name", OPTIMIZERS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_order_threads_and_blocks_change_no_bit(
    mixed: tuple[Weights, list[Contribution]], name: str, data: st.DataObject
) -> None:
    base, rows = mixed
    optimizer = create(name, learning_rate=0.3)

    def two_rounds(rows: Sequence[Contribution], **options: Any) -> list[bytes]:
        weights, state = base, optimizer.initial_state(base.layout)
        for _ in range(2):
            weights, state = aggregate(
                weights, rows, normalise="weights", optimizer=optimizer, state=state, **options
            )
        return [bytes(weights.payload), *(slot.tobytes() for slot in state.values())]

    shuffled = data.draw(st.permutations(rows))
    threads, block = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 40))
    assert two_rounds(shuffled, threads=threads, block=block) == two_rounds(rows)


def test_every_permutation_gives_the_same_digest() -> None:
    # In float64, (0.1 + 0.2) + 0.3 is not 0.1 + (0.2 + 0.3): order is visible if it isn't fixed.
    base = Weights.from_arrays({"w": np.zeros(1)})
    rows = [contribution(f"s/{i}", 1, [value]) for i, value in enumerate((0.1, 0.2, 0.3, 1e16))]
    digests = {
        aggregate(base, order, normalise="count", optimizer=FEDAVG, state={})[0].digest
        for order in itertools.permutations(rows)
    }
    assert len(digests) == 1


@pytest.mark.parametrize("size", [1, 2, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize("threads", [1, 2, 3, 4, 9])
def test_odd_sizes_are_folded_to_the_end(size: int, threads: int) -> None:
    rng = np.random.default_rng(size)
    base, one, two = rng.standard_normal((3, size), np.float32)
    new = mean_of(base, [one, two], (1, 3), threads=threads, block=1024)
    wide = (one * np.float64(1) + two * np.float64(3)) / 4
    assert new.tobytes() == (base + wide).astype(np.float32).tobytes()


def test_inputs_are_left_as_they_are(mixed: tuple[Weights, list[Contribution]]) -> None:
    base, rows = mixed
    adam = create("fedadam")
    state = adam.initial_state(base.layout)
    before = [
        bytes(base.payload),
        *(bytes(row.delta) for row in rows),
        *(s.tobytes() for s in state.values()),
    ]
    aggregate(base, rows, normalise="count", optimizer=adam, state=state)
    assert before == [
        bytes(base.payload), *(bytes(row.delta) for row in rows), *(s.tobytes() for s in state.values())
    ]  # fmt: skip


def test_the_gaps_between_tensors_stay_zero() -> None:
    base = Weights.from_arrays({"n": np.zeros(3, np.int8), "w": np.zeros(2)})
    padded = bytearray(base.layout.nbytes)
    padded[3:8] = b"\xff" * 5
    new, _ = aggregate(
        base, [Contribution("s/0", 0, 1.0, bytes(padded))], normalise="count", optimizer=FEDAVG, state={}
    )
    assert bytes(new.payload) == bytes(base.layout.nbytes)


def test_an_empty_tensor_may_leave_a_gap_inside_a_dtype() -> None:
    named = {"a": np.full(3, 5, np.int8), "none": np.zeros(0), "b": np.full(2, 7, np.int8)}
    base = Weights.from_arrays(named)
    assert [tensor.offset for tensor in base.layout.tensors] == [0, 8, 8]
    new = fold(base, [Contribution("s/0", 0, 1.0, Weights.from_arrays(named).payload)])
    assert (new["a"].tolist(), new["b"].tolist()) == ([10, 10, 10], [14, 14])


def test_canonical_order_is_client_then_base_then_id() -> None:
    keys = [("b/0", 1, ""), ("a/0", 2, "y"), ("a/0", 10, ""), ("a/0", 2, "x"), ("a/10", 0, "")]
    rows = [Contribution(client, version, 1.0, b"", order) for client, version, order in keys]
    assert [row.key for row in canonical(rows)] == [
        ("a/0", 2, "x"), ("a/0", 2, "y"), ("a/0", 10, ""), ("a/10", 0, ""), ("b/0", 1, "")
    ]  # fmt: skip


# --- optimisers over the fold


@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [
        ("fedavgm", {"learning_rate": 1.0}, [1.0, 2.4, 3.41]),
        ("fedadam", {"learning_rate": 0.1}, [0.099005, 0.223605, 0.311748]),
        ("fedyogi", {"learning_rate": 0.1}, [0.099005, 0.223110, 0.310504]),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_state_goes_from_round_to_round(
    name: str, params: dict[str, float], expected: list[float], dtype: str
) -> None:
    weights = Weights.from_arrays({"n": np.zeros(1, np.int8), "w": np.zeros(3, dtype)})
    optimizer = create(name, **params)
    state: OptimizerState = optimizer.initial_state(weights.layout)
    for delta, value in zip((1.0, 0.5, -0.25), expected, strict=True):
        rows = [contribution("s/0", 7, {"n": np.zeros(1, np.int8), "w": np.full(3, delta, dtype)})]
        weights, state = aggregate(
            weights, rows, normalise="weights", optimizer=optimizer, state=state, block=2
        )
        assert weights.arrays["w"] == pytest.approx([value] * 3, abs=1e-6)


# --- bounds


def test_memory_maps_are_folded_without_copies(tmp_path: Path) -> None:
    size = 1 << 20
    base = Weights.from_arrays({"w": np.zeros(size, np.float32)})
    path = tmp_path / "delta"
    path.write_bytes(np.ones(size, np.float32).tobytes())
    with path.open("rb") as file:
        maps = [memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) for _ in range(8)]
    rows = [Contribution(f"s/{i}", 0, 1.0, delta) for i, delta in enumerate(maps)]
    tracemalloc.start()
    new, _ = aggregate(base, rows, normalise="count", optimizer=FEDAVG, state={}, block=1 << 14)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (new.arrays["w"] == 1).all()
    assert peak < base.layout.nbytes + (2 << 20)


def test_a_thousand_small_tensors_are_one_run() -> None:
    """Counted in calls, not in seconds: the optimiser is stepped once for all of them."""
    base = Weights.from_arrays({f"t{i}": np.zeros(3, np.float32) for i in range(1000)})
    steps: list[int] = []

    class Counting(type(FEDAVG)):  # type: ignore[misc]
        def step(self, x: Array, delta: Array, slots: Any, room: Array) -> None:
            steps.append(x.size)
            super().step(x, delta, slots, room)

    rows = [Contribution("s/0", 0, 1.0, np.ones(3000, np.float32).tobytes())]
    new, _ = aggregate(base, rows, normalise="count", optimizer=Counting(), state={})
    assert steps == [3000]
    assert all((array == 1).all() for array in new.arrays.values())


# --- refusals


def test_nothing_to_fold() -> None:
    with pytest.raises(FederationFailed, match="no update"):
        mean_of(np.zeros(2), [], [])
    with pytest.raises(FederationFailed, match="weigh nothing"):
        mean_of(np.zeros(2), [[1.0, 1.0]], [0])


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("normalise", ["weights", "count"])
def test_weights_that_are_none(weight: float, normalise: str) -> None:
    with pytest.raises(FederationFailed, match="update of s/000 has weight"):
        mean_of(np.zeros(1), [[1.0], [1.0]], [weight, 2], normalise=normalise)


def test_an_update_is_never_counted_twice() -> None:
    base, row = Weights.from_arrays({"w": [0.0]}), contribution("s/0", 1, [1.0])
    with pytest.raises(FederationFailed, match="twice"):
        fold(base, [row, row])


def test_a_delta_of_another_length_is_refused() -> None:
    base = Weights.from_arrays({"w": [0.0, 0.0]})
    with pytest.raises(MessageError, match="update of s/0 has 8 bytes, its layout 16"):
        fold(base, [contribution("s/0", 1, [1.0])])


def test_a_foreign_optimizer_state_is_refused() -> None:
    base, rows = Weights.from_arrays({"w": [0.0]}), [contribution("s/0", 1, [1.0])]
    with pytest.raises(FederationFailed, match="another model or optimiser"):
        aggregate(base, rows, normalise="count", optimizer=create("fedadam"), state={})


@pytest.mark.parametrize(
    ("base", "delta"), [(np.float32(3e38), 3e38), (np.float16(6e4), 6e4), (np.float64(1.7e308), 1.7e308)]
)
def test_a_model_that_would_overflow_is_refused_by_name(base: Any, delta: float) -> None:
    with pytest.raises(FederationFailed, match="tensor 'w' infinite"):
        mean_of(np.array([0, base], base.dtype), [[0, delta]], [1])


@pytest.mark.parametrize("dtype", ["bool", "complex64", "complex128"])
def test_models_without_a_mean_are_refused(dtype: str) -> None:
    layout = Layout.of([("w", "float32", (2,)), ("mask", dtype, (2,))])
    with pytest.raises(MessageError, match=f"'mask' is {dtype}, which has no mean"):
        check_model(layout)
    with pytest.raises(MessageError, match="'mask'"):
        fold(Weights(layout, bytes(layout.nbytes)), [Contribution("s/0", 0, 1.0, bytes(layout.nbytes))])


def test_models_with_a_mean_pass() -> None:
    check_model(Weights.from_arrays(MIXED).layout)
    with pytest.raises(MessageError, match="no tensors"):
        check_model(Layout(()))


# --- finite


def test_finite_payloads_pass() -> None:
    layout = Weights.from_arrays(MIXED).layout
    assert finite(layout, noise(layout, np.random.default_rng(3))) is None
    assert finite(Layout(()), b"") is None
    # An integer tensor's bytes are no floats, whatever they look like.
    assert finite(Layout.of([("n", "int32", (2,))]), np.array([np.nan, np.inf], np.float32).tobytes()) is None


@pytest.mark.parametrize("name", ["a", "b", "h", "d", "z"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, -1])
def test_the_first_tensor_that_is_not_finite_is_named(name: str, value: float, place: int) -> None:
    layout = Weights.from_arrays(MIXED).layout
    payload = bytearray(noise(layout, np.random.default_rng(4)))
    views = layout.views(payload)
    views["z"].flat[5] = value
    views[name].flat[place] = value
    assert finite(layout, payload) == name


def test_a_lone_nan_is_found_wherever_it_lies() -> None:
    layout = Layout.of([("big", "float32", (300_001,)), ("small", "float32", (2,))])
    for position in (0, 131_071, 131_072, 262_144, 300_000):
        values = np.ones(300_003, np.float32)
        values[position] = np.nan
        assert finite(layout, values.tobytes()) == "big"
    values = np.ones(300_003, np.float32)
    values[-1] = np.inf
    assert finite(layout, values.tobytes()) == "small"


@pytest.mark.parametrize(("dtype", "fits", "absurd"), [("float16", 250, 300), ("float32", 1e19, 3e38)])
def test_absurdly_large_values_are_not_moderate(dtype: str, fits: float, absurd: float) -> None:
    layout = Layout.of([("n", "int32", (1,)), ("w", dtype, (3,))])
    values = np.array([0, -fits, fits], dtype)
    payload = bytes(8)[: layout.tensors[1].offset] + values.tobytes()
    assert moderate(layout, payload) is None
    for bad in (absurd, -absurd, np.nan, np.inf):
        values[1] = bad
        assert moderate(layout, bytes(8)[: layout.tensors[1].offset] + values.tobytes()) == "w"


def test_finite_wants_the_whole_payload() -> None:
    with pytest.raises(MessageError, match="7 bytes, its layout 8"):
        finite(Layout.of([("w", "float64", (1,))]), bytes(7))
