"""The benchmark's pure parts: its arithmetic, its report, and what it counts on in the product."""

from __future__ import annotations

import importlib
from functools import reduce

import pytest

from tests.benchmarks.crowds import Trips
from tests.benchmarks.federation import Shape
from tests.benchmarks.figures import Spread, exponent, percentile, significant, spread
from tests.benchmarks.report import Section, Table, Target, as_json, document, targets_table
from tests.benchmarks.targets import TARGETS, figures_of
from tests.benchmarks.wrapping import COORDINATOR, WORKER, Stopwatch


def test_a_spread_is_the_median_between_the_outer_tenths():
    values = [float(n) for n in (10, 0, 5, 1, 9, 2, 8, 3, 7, 4, 6)]
    assert spread(values) == Spread(11, 5.0, 1.0, 9.0)
    assert spread([2.0]) == Spread(1, 2.0, 2.0, 2.0)
    assert spread([0.001, 0.003]).text(unit=1e-3) == "2.00 (1.20 to 2.80)"


def test_percentiles_lie_between_neighbours_in_proportion():
    assert percentile([0.0, 10.0], 0.25) == 2.5
    assert percentile([3.0, 1.0, 2.0], 1.0) == 3.0
    with pytest.raises(ValueError, match="empty"):
        percentile([], 0.5)


@pytest.mark.parametrize("e", [0.0, 1.0, 1.5, -0.5])
def test_an_exponent_is_found_again(e):
    sizes = [1, 10, 300, 5_000]
    assert exponent(sizes, [0.7 * size**e for size in sizes]) == pytest.approx(e)


def test_one_size_or_a_zero_has_no_exponent():
    with pytest.raises(ValueError, match="two different sizes"):
        exponent([5, 5], [1.0, 2.0])
    with pytest.raises(ValueError, match="above 0"):
        exponent([1, 2], [0.0, 2.0])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.012345, "0.0123"), (4.5, "4.50"), (1234.5, "1,230"), (99.96, "100"), (9.996, "10.0"), (0, "0")],
)
def test_numbers_have_three_significant_digits(value, text):
    assert significant(value) == text


def test_a_table_in_markdown_and_a_row_that_does_not_fit():
    table = Table("Speeds", ["what", "GB/s"], [["fold", "1.5"]])
    assert table.markdown() == "**Speeds**\n\n| what | GB/s |\n| --- | --- |\n| fold | 1.5 |"
    with pytest.raises(ValueError, match="2 columns, and a row of 1"):
        Table("Speeds", ["what", "GB/s"], [["fold"]]).markdown()


def test_targets_are_met_or_not_or_not_measured():
    targets = [
        Target("at most 3", "a: low", 3, "s"),
        Target("at most 3", "a: high", 3),
        Target("at least 3", "a: high", 3, at_least=True),
        Target("at least 3", "a: none", 3, at_least=True),
    ]
    section = Section("a", "A", figures={"low": 2, "high": 4.0, "series": [1.0]})
    table = targets_table(targets, figures_of([section]))
    assert [row[1:] for row in table.rows] == [
        ["2.00 s", "met"],
        ["4.00", "**not met**"],
        ["4.00", "met"],
        ["not measured", ""],
    ]


def test_the_report_holds_all_sections_for_people_and_for_programs():
    section = Section("a", "Title of it", [Table("T", ["h"], [["c"]])], ["How."], {"x": 1.0})
    targets = targets_table(TARGETS, {})
    text = document(["CPU: one"], targets, [section])
    assert "- CPU: one" in text
    assert text.index("**Targets**") < text.index("## Title of it") < text.index("| c |")
    whole = as_json({"CPU": "one"}, targets, [section])
    assert whole["sections"][0]["figures"] == {"x": 1.0}
    assert len(whole["targets"]["rows"]) == len(TARGETS)


def test_a_phase_within_a_phase_stops_the_outer_one(monkeypatch: pytest.MonkeyPatch):
    now = iter(range(100))
    monkeypatch.setattr("tests.benchmarks.wrapping.time.perf_counter", lambda: float(next(now)))
    watch = Stopwatch()
    inner = watch.wrap(lambda: None, "inner")
    watch.wrap(inner, "outer")()
    totals = watch.totals()
    assert {phase: totals[phase] for phase in ("outer", "inner", "other")} == {
        "outer": 2.0, "inner": 1.0, "other": 2.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "place", [*COORDINATOR, *WORKER, "coordinator.local:command", "worker.training:load"]
)
def test_what_is_wrapped_is_there(place):
    module, _, path = place.partition(":")
    assert callable(reduce(getattr, path.split("."), importlib.import_module(module)))


def test_scripts_sent_to_redis_are_round_trips_and_what_they_do_are_operations():
    calls = {"evalsha": 3, "script|load": 1, "hset": 20, "get": 4, "info": 2, "hello": 1}
    stats = {f"cmdstat_{name}": {"calls": count} for name, count in calls.items()}
    assert Trips.of(stats) == Trips(sent=4, done=24)


def test_shapes_have_at_most_ten_workers():
    assert Shape(4, 1_000).sites == {"s0": 1, "s1": 1, "s2": 1, "s3": 1}
    assert Shape(51, 1_000).sites == {"s0": 26, "s1": 25}
    assert (Shape(51, 1_000).workers, Shape(3, 1_000).workers) == (10, 3)
    assert Shape(100, 25_000_000).log_bytes > 3 * 101 * 100_000_000
