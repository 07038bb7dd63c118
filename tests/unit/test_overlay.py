"""Maps that are replaced: they behave as dicts that are copied, and cost less."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coordinator.overlay import put, without

KEYS = st.integers(0, 30)
CHANGES = st.lists(
    st.one_of(st.tuples(KEYS, st.integers()), st.sets(KEYS, max_size=4).map(frozenset)), max_size=120
)


@given(st.dictionaries(KEYS, st.integers()), CHANGES)
def test_every_state_is_that_of_a_copied_dict(start, changes):
    model, mapping = dict(start), start
    states = []
    for change in changes:
        states.append((mapping, dict(model)))
        if isinstance(change, frozenset):
            model = {key: value for key, value in model.items() if key not in change}
            mapping = without(mapping, change)
        else:
            model = {**model, change[0]: change[1]}
            mapping = put(mapping, *change)
    for seen, copied in [*states, (mapping, model)]:
        assert dict(seen) == copied
        assert list(seen) == list(copied)
        assert len(seen) == len(copied)
        assert [key in seen for key in range(31)] == [key in copied for key in range(31)]


def test_a_change_copies_little_of_a_large_map():
    mapping = {number: number for number in range(10_000)}
    copied = 0
    for number in range(10_000):
        before = mapping
        mapping = without(mapping, (number,))
        copied += len(mapping) if isinstance(mapping, dict) else len(mapping._removed)
        assert mapping is not before
    assert not mapping
    assert copied < 100 * 10_000
