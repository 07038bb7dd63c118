"""What a site's words are worth: they are cut, and hold nothing that a log or a terminal would act on."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from coordinator import intake
from coordinator.facts import Rules, State
from coordinator.spool import Arrival, Broken, Spool
from coordinator.validation import judge
from shared import codec
from shared.codec import MAX_HEADER_BYTES
from shared.messages import MAX_REASON_CHARS, Update

NOTHING = hashlib.sha256().hexdigest()
HEADER = Update(
    federation="f", run="r", id="i", work="train", client="a/0", worker="w", round=1, version=0, digest="d",
    turn=0, layout=[], layout_digest="", sha256=NOTHING, examples=1, metrics={}, evaluated=0, evaluation={},
    seconds=0.0, error="",
).to_header()  # fmt: skip
LONG = "x" * (MAX_HEADER_BYTES - 1000)


@pytest.fixture
def answer_to(tmp_path):
    """What the coordinator makes of an update with these fields."""
    spool = Spool(tmp_path)

    def answer(**fields):
        (part,) = codec.split("update", {**HEADER, **fields})
        arrived = spool.take(replace(part, user_id="a"))
        if isinstance(arrived, Broken):
            return intake.broken(arrived)
        assert isinstance(arrived, Arrival)
        return intake.answer_of(arrived, b"", "f", "r", None)[0]

    yield answer
    spool.close()


@pytest.mark.parametrize(
    "fields",
    [
        {"work": LONG},
        {"kind": LONG},
        {LONG: 1},
        {"metrics": {LONG: "text"}},
        {"client": LONG},
        {"error": LONG},
        {"work": "initialise", "layout": [[LONG, "float32", [1], 0]]},
    ],
)
def test_reasons_are_short_whatever_the_bytes_say(answer_to, fields):
    answer = answer_to(**fields)
    assert len(answer.refusal) <= MAX_REASON_CHARS
    assert len(answer.error) <= MAX_REASON_CHARS
    assert len(judge(State(Rules()), answer).reason) <= MAX_REASON_CHARS


@pytest.mark.parametrize("fields", [{"error": "a\x1b[2Jb\nc"}, {"metrics": {"a\x1b[2J\n": "text"}}])
def test_reasons_hold_nothing_that_a_terminal_acts_on(answer_to, fields):
    answer = answer_to(**fields)
    assert (answer.error + answer.refusal).isprintable()
    assert "[2J" in answer.error + answer.refusal


def test_a_name_with_unprintable_letters_is_nobody_s(answer_to):
    assert answer_to(client="a/0\n").client not in ("a/0", "a/0\n")
    assert answer_to(client="a/0").client == "a/0"


def test_an_update_of_nobody_s_is_told_so(answer_to):
    forged = answer_to(client="", sha256="")
    assert judge(State(Rules()), replace(forged, refusal="")).reason == "it names no client"
