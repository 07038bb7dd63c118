"""Partitions' names on the wire."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from shared.errors import OversizeError
from shared.partitions import compact, expand

names = st.lists(
    st.one_of(st.integers(0, 40).map(str), st.from_regex(r"[A-Za-z0-9_.-]{1,8}", fullmatch=True))
)


@given(names)
def test_what_is_compacted_comes_back(given_names):
    assert set(expand(compact(given_names), 1000)) == set(given_names)


def test_thousands_are_one_item():
    assert compact(str(n) for n in range(5000)) == ["0:4999"]
    assert compact(["07", "7", "8", "ward-1", "10"]) == ["7:8", "10", "07", "ward-1"]


@pytest.mark.parametrize("items", [["0:99999999999999"], ["0:600", "a", "1000:1500"], ["x"] * 1001])
def test_claims_are_bounded_before_they_are_made(items):
    with pytest.raises(OversizeError):
        expand(items, 1000)


def test_what_is_no_run_is_left_for_the_reader_to_refuse():
    assert expand(["a:b", "5:", ":", "07:9"], 10) == ["a:b", "5:", ":", "07:9"]
    assert expand(["9:3"], 10) == []
