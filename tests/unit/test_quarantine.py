"""Which cases there are, what is said of them, and figures of tensors."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.config import parse
from coordinator.facts import Answer, Entry
from coordinator.measures import measures
from coordinator.quarantine import Quarantine
from coordinator.quarantine_text import case_text
from shared.messages import order_id
from shared.weights import Weights

LARGE = "refused: tensor 'w' holds values that are absurdly large"
NAN = "refused: tensor 'w' holds values that are not finite"


def closing(number, refusals):
    data = {"round": number, "skipped": False, "decided": 9, "read_from": 10, "refusals": refusals}
    return Entry("round-closing", 10.0 + number, data, [[], [], []])


def closed(number):
    data = {"round": number, "version": number, "digest": f"d{number}"}
    return Entry("round-closed", 10.0 + number, data)


def opened(number):
    data = {"round": number, "version": number - 1, "digest": f"d{number - 1}", "deadline_at": 99.0}
    return Entry("round-opened", 10.0 + number, {**data, "target": None, "evaluators": []}, ["a/0", "b/0"])


@pytest.fixture
def known():
    """A federation in its second round; in the first, an assignment died and updates were refused."""
    config = parse({"federation": {"name": "f"}, "staleness": {"max": 1}}, "test").binding()
    made = Quarantine()
    died = {
        "id": order_id("train", "b/0", 1, "d0", 0),
        "client": "b/0",
        "reason": "its site never answered it",
    }
    for entry in (
        Entry("federation-started", 1.0, {"run": "run", "config": config}),
        Entry("registered", 2.0, {}, [["a", ["0"]], ["b", ["0"]]]),
        closing(0, {}),
        closed(0),
        opened(1),
        Entry("failed", 11.5, died),
        closing(1, {LARGE: [3, [17, 25]], NAN: [1, [31]], "failed: no memory": [1, [8]]}),
        closed(1),
        opened(2),
    ):
        made.take(entry)
    return made


def answer(offset, version=0, **changes):
    digest = f"d{version}"
    id_ = order_id("train", "a/0", version + 1, digest, 0)
    fields = {
        "id": id_, "work": "train", "client": "a/0", "round": version + 1, "version": version,
        "digest": digest, "turn": 0, "offset": offset, "message_id": "m", "sender": "a", "examples": 10,
    }  # fmt: skip
    return Answer(**{**fields, **changes})


def test_cases_come_from_the_journal_and_the_open_round_newest_first(known):
    cases = known.cases({NAN: (1, [40])})
    assert [(case.kind, case.round, case.offset, case.more) for case in cases] == [
        ("refused", 2, 40, 0),
        ("failed", 1, 8, 0),
        ("refused", 1, 31, 0),
        ("refused", 1, None, 1),
        ("refused", 1, 25, 0),
        ("refused", 1, 17, 0),
        ("dead", 1, None, 0),
    ]
    assert cases[0].at is None
    assert cases[-1].client == "b/0"
    assert cases[-1].version == 0


@pytest.mark.parametrize(
    ("offset", "changes", "out"),
    [
        (17, {}, ""),
        (17, {"version": 1}, ""),
        (31, {}, "not finite"),
        (8, {"error": "no memory"}, "failure report"),
        (17, {"examples": 0}, "no weight"),
        (17, {"id": "0" * 32}, "not that of what it answers"),
        (17, {"refusal": "a message has at least 8 bytes", "client": ""}, "absurdly large"),
    ],
)
def test_what_a_header_says_tells_whether_it_may_be_let_in(known, offset, changes, out):
    case = next(case for case in known.cases({}) if case.offset == offset)
    looked_at = known.looked_at(case, answer(offset, **changes))
    assert looked_at.out == "" if not out else out in looked_at.out
    text = case_text(looked_at)
    assert ("quarantine readmit 17" in text) == (not out)
    assert ("stays out" in text) == bool(out and case.kind == "refused")


def test_what_was_let_in_and_what_is_too_old_says_so(known):
    case = next(case for case in known.cases({}) if case.offset == 17)
    update = {"offset": 17, "client": "a/0", "id": "x"}
    data = {"request": "r", "refused": "no round is open now", "round": 2, "position": 9, "update": update}
    known.take(Entry("readmitted", 13.0, data))
    assert known.looked_at(case, answer(17)).out == ""
    for entry in (closing(2, {}), closed(2), opened(3)):
        known.take(entry)
    assert "versions behind" in known.looked_at(case, answer(17)).out


def test_sites_words_do_nothing_to_a_terminal(known):
    case = known.looked_at(known.cases({})[0], answer(8, client="\x1b[2Ja/0", sender="\x07"))
    assert all(char.isprintable() or char == "\n" for char in case_text(case))


def test_figures_of_tensors_leave_out_what_is_no_number():
    arrays = {
        "plain": np.array([[3.0, -4.0]], np.float32),
        "odd": np.array([np.nan, np.inf, 2.0], np.float64),
        "none": np.array([np.nan], np.float16),
        "large": np.full(9, 1e200),
        "whole": np.arange(-3, 4, dtype=np.int8),
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.array(True),
    }
    weights = Weights.from_arrays(arrays)
    found = {each.name: each for each in measures(weights.layout, weights.payload)}
    assert (found["plain"].low, found["plain"].high, found["plain"].norm) == (-4.0, 3.0, 5.0)
    assert (found["odd"].not_finite, found["odd"].low, found["odd"].norm) == (2, 2.0, 2.0)
    assert (found["none"].not_finite, found["none"].norm) == (1, 0.0)
    assert found["large"].norm == pytest.approx(3e200)
    assert (found["whole"].low, found["whole"].high) == (-3.0, 3.0)
    assert (found["empty"].not_finite, found["empty"].norm) == (0, 0.0)
    assert found["scalar"].high == 1.0


def test_figures_are_the_same_over_many_blocks():
    values = np.random.default_rng(3).normal(size=700_001).astype(np.float32)
    weights = Weights.from_arrays({"w": values})
    (found,) = measures(weights.layout, weights.payload)
    assert found.norm == pytest.approx(float(np.linalg.norm(values.astype(np.float64))))
    assert (found.low, found.high) == (values.min(), values.max())
