"""What is said of what others do again and again."""

from __future__ import annotations

from coordinator.sparing import MAX_KEYS, Sparing


def test_first_times_then_each_doubling():
    sparing = Sparing(3)
    endings = [sparing.ending("a") for _ in range(20)]
    assert endings[:3] == ["", "", ""]
    said = {number: ending for number, ending in enumerate(endings[3:], start=4) if ending is not None}
    assert list(said) == [4, 8, 16]
    assert "15 more of login 'a'" in said[16]
    assert sparing.ending("b") == ""
    sparing.clear()
    assert sparing.ending("a") == ""


def test_too_many_names_are_one():
    sparing = Sparing(1)
    lines = [sparing.ending(str(number)) for number in range(3 * MAX_KEYS)]
    assert sum(line is not None for line in lines) < MAX_KEYS + 15
