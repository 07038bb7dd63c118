"""The rules: what they make of many updates, against plain numpy; the same bits however they are folded."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator import rules
from coordinator.aggregation import Contribution, aggregate
from coordinator.config import Aggregation
from coordinator.optimizers import create
from coordinator.rules import Median, Rule, TrimmedMean
from shared.errors import ConfigError
from shared.weights import Array, Weights

FEDAVG = create("fedavg")
ROBUST = [Median(), TrimmedMean(), TrimmedMean(0.2), TrimmedMean(0.4)]


def folded(rule: Rule, deltas: Sequence[npt.ArrayLike], base: npt.ArrayLike = 0.0, **options: Any) -> Array:
    """The new values of a model of one tensor whose clients brought these deltas."""
    rows = [np.asarray(delta) for delta in deltas]
    model = Weights.from_arrays({"w": np.full_like(rows[0], base)})
    contributions = [
        # Weights that would show if the rule looked at them.
        Contribution(f"s/{i:03}", 0, 10.0**i, Weights.from_arrays({"w": row}).payload)
        for i, row in enumerate(rows)
    ]
    new, _ = aggregate(
        model, contributions, normalise="weights", rule=rule, optimizer=FEDAVG, state={}, **options
    )
    return new.arrays["w"]


def reference(rule: Rule, deltas: Array) -> Array:
    """The same in numpy's own words."""
    if isinstance(rule, Median):
        return np.asarray(np.median(deltas.astype(np.float64), axis=0))
    assert isinstance(rule, TrimmedMean)
    cut = int(rule.trim * len(deltas))
    return np.asarray(np.sort(deltas.astype(np.float64), axis=0)[cut : len(deltas) - cut].mean(axis=0))


# --- what they make


@pytest.mark.parametrize("rule", ROBUST, ids=str)
@pytest.mark.parametrize("updates", [1, 2, 3, 4, 5, 9, 10, 31])
@pytest.mark.parametrize(("dtype", "near"), [("float16", 1e-3), ("float32", 1e-6), ("float64", 1e-14)])
def test_against_plain_numpy(rule: Rule, updates: int, dtype: str, near: float) -> None:
    deltas = np.random.default_rng(updates).standard_normal((updates, 257)).astype(dtype)
    ours, plain = folded(rule, list(deltas)), reference(rule, deltas).astype(dtype)
    np.testing.assert_allclose(ours, plain, rtol=near, atol=near)
    if isinstance(rule, Median):
        assert ours.tobytes() == plain.tobytes()


@pytest.mark.parametrize(
    ("rule", "values", "expected"),
    [
        (Median(), [3, 1, 2], 2),
        (Median(), [3, 1, 2, 10], 2.5),
        (Median(), [7], 7),
        (TrimmedMean(0.2), [100, 1, 2, 3, -100], 2),
        (TrimmedMean(0.25), [100, 1, 3, -100], 2),
        (TrimmedMean(0.24), [100, 1, 3, -100], 1),
        (TrimmedMean(0.4), [9, 8, 7, 1, 2], 7),
        (TrimmedMean(0.1), [*range(9), 1000], 4.5),
        (TrimmedMean(0), [1, 2, 6], 3),
    ],
)
def test_vectors(rule: Rule, values: list[float], expected: float) -> None:
    for order in itertools.islice(itertools.permutations(values), 200):
        assert folded(rule, [np.array([value], float) for value in order]).tolist() == [expected]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([2, 3], 2), ([3, 4], 4), ([-3, -2], -2), ([1, 2, 200], 2), ([-128, 127, 127], 127)],
)
def test_integers_are_rounded_half_to_even(values: list[int], expected: int) -> None:
    dtype = np.int8 if max(values) < 128 else np.int64
    assert folded(Median(), [np.array([value], dtype) for value in values]).tolist() == [expected]


def test_deltas_of_unsigned_counters_are_signed() -> None:
    # 5 became 3, 4 and 250: deltas −2, −1 and −11 modulo 256.
    base = np.array([5], np.uint8)
    deltas = [np.array([value], np.uint8) - base for value in (3, 4, 250)]
    assert folded(Median(), deltas, base).tolist() == [3]


@pytest.mark.parametrize("rule", ROBUST, ids=str)
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_equal_updates_come_back_and_moving_all_moves_the_result(rule: Rule, data: st.DataObject) -> None:
    whole = st.integers(-1000, 1000).map(float)
    rows = data.draw(st.lists(st.lists(whole, min_size=3, max_size=3), min_size=1, max_size=8))
    deltas, shift = np.array(rows), data.draw(whole)
    assert folded(rule, [deltas[0]] * len(rows)).tolist() == rows[0]
    np.testing.assert_allclose(folded(rule, list(deltas + shift)), folded(rule, list(deltas)) + shift)


# --- what lies does not carry


@pytest.mark.parametrize("updates", [3, 4, 5, 10, 11])
@pytest.mark.parametrize("lie", [1e18, -1e18])
def test_the_median_holds_up_to_half_of_liars_and_no_further(updates: int, lie: float) -> None:
    honest = np.linspace(-1, 1, updates)
    for liars in range(updates):
        values = [lie] * liars + honest[liars:].tolist()
        moved = abs(folded(Median(), [np.array([value]) for value in values])[0])
        assert (moved <= 1) == (liars <= (updates - 1) // 2)


@pytest.mark.parametrize(("trim", "liars", "holds"), [(0.2, 2, True), (0.2, 3, False), (0.1, 1, True)])
def test_the_trimmed_mean_holds_as_many_liars_as_it_cuts(trim: float, liars: int, holds: bool) -> None:
    values = [1e18] * liars + [1.0] * (10 - liars)
    assert (folded(TrimmedMean(trim), [np.array([v]) for v in values])[0] == 1) == holds


# --- the same bits


@pytest.mark.parametrize("rule", ROBUST, ids=str)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_order_threads_blocks_and_pieces_change_no_bit(rule: Rule, data: st.DataObject) -> None:
    rng = np.random.default_rng(5)
    named = [
        {
            # Values that often tie, and zeros of both signs.
            "w": np.round(rng.standard_normal(50), 1).astype(np.float32) * np.float32(0.1),
            "n": rng.integers(-3, 3, 7),
            "d": rng.standard_normal(9),
        }
        for _ in range(6)
    ]
    base = Weights.from_arrays({name: -np.zeros_like(array) for name, array in named[0].items()})
    rows = [
        Contribution(f"s/{i}", 0, 1.0, Weights.from_arrays(arrays).payload) for i, arrays in enumerate(named)
    ]

    def bits(order: Sequence[Contribution], **options: int) -> bytes:
        new, _ = aggregate(base, order, normalise="count", rule=rule, optimizer=FEDAVG, state={}, **options)
        return bytes(new.payload)

    plain = bits(rows)
    threads, block = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 40))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "SORTED", data.draw(st.integers(1, 100)))
        assert bits(data.draw(st.permutations(rows)), threads=threads, block=block) == plain


def test_zeros_of_both_signs_are_one_value() -> None:
    zeros = [np.array([0.0]), np.array([-0.0]), np.array([-0.0])]
    results = {folded(Median(), order, base=-0.0).tobytes() for order in itertools.permutations(zeros)}
    assert len(results) == 1


def test_many_updates_are_sorted_in_bounded_memory() -> None:
    size, updates = 1 << 16, 200
    deltas = [np.full(size, float(i), np.float32) for i in range(updates)]
    payload = [Weights.from_arrays({"w": delta}).payload for delta in deltas]
    rows = [Contribution(f"s/{i:03}", 0, 1.0, delta) for i, delta in enumerate(payload)]
    base = Weights.from_arrays({"w": np.zeros(size, np.float32)})
    tracemalloc.start()
    new, _ = aggregate(base, rows, normalise="count", rule=Median(), optimizer=FEDAVG, state={})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (new.arrays["w"] == 99.5).all()
    # All of them at once would be 52 MB.
    assert peak < base.layout.nbytes + 4 * rules.SORTED + (4 << 20)


# --- by name


def test_rules_by_their_settings() -> None:
    assert rules.make(Aggregation()) == rules.Mean()
    assert rules.make(Aggregation(rule="median")) == Median()
    assert rules.make(Aggregation(rule="trimmed-mean")) == TrimmedMean(0.1)
    assert rules.make(Aggregation(rule="trimmed-mean", trim=0.25)) == TrimmedMean(0.25)
    with pytest.raises(ConfigError, match="'krumm' is not known; take mean, median or trimmed-mean"):
        rules.make(Aggregation.model_construct(rule="krumm", trim=None))


def test_a_rule_says_when_it_protects_from_nothing() -> None:
    assert "mean: it needs three" in Median().warning(2)
    assert Median().warning(3) == ""
    assert TrimmedMean(0.1).warning(9) == "a trim of 0.1 cuts none of 9 updates: set aggregation.trim higher"
    assert TrimmedMean(0.1).warning(10) == ""
    assert rules.Mean().warning(1) == ""
