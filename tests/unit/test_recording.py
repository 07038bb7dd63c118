"""Accepted updates found in a results log among everything else that a login may have sent."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from types import SimpleNamespace

import pytest

from coordinator import tapes
from coordinator.facts import Closed
from coordinator.recording import Recording
from coordinator.tapes import Damaged, Trimmed
from shared import codec
from shared.messages import Update, order_id
from shared.topology import Topology

PAYLOAD = bytes(range(250)) * 800


def message(payload=PAYLOAD, message_id="m", **changes):
    """An update's parts, of client a/0 by login a; several, since it is large."""
    update = Update(
        federation="f", run="run", id=order_id("train", "a/0", 1, "d0", 0), work="train", client="a/0",
        worker="w", round=1, version=0, digest="d0", turn=0, layout=[], layout_digest="l",
        sha256=hashlib.sha256(payload).hexdigest(), examples=10, metrics={}, evaluated=0, evaluation={},
        seconds=1.0, error="",
    )  # fmt: skip
    parts = codec.split(Update.KIND, replace(update, **changes).to_header(), payload, 100_000)
    return [replace(part, message_id=message_id, user_id="a") for part in parts]


def closed(parts, offset):
    head = hashlib.sha256(parts[0].body).hexdigest()
    return Closed("a/0", order_id("train", "a/0", 1, "d0", 0), 0, 10, offset, "m", "a", head)


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Reads the update of a row from a results log that begins at an offset."""

    def read(row, parts, begin=0):
        placed = [replace(part, offset=begin + n) for n, part in enumerate(parts)]
        monkeypatch.setattr(tapes, "read_log", lambda *_: (part for part in placed))
        round_ = SimpleNamespace(number=1, version=1, rows=(row,), scores=(), decided=begin + len(parts))
        ledger = SimpleNamespace(
            topology=Topology("f"), run="run", versions={1: round_}, outcome=None, evaluation=None
        )
        with Recording(None, ledger, tmp_path) as recording:
            found = recording.update(round_, row)
            return bytes(found.payload)

    return read


def test_an_update_is_found_by_its_place(recorded):
    parts = message()
    assert recorded(closed(parts, 0), parts) == PAYLOAD


def test_what_the_login_sent_under_the_same_id_before_is_passed_over(recorded):
    other = message(bytes(200_000), examples=99)
    accepted = message()
    log = [*other, *other[:2], *accepted]
    assert recorded(closed(accepted, len(other) + 2), log) == PAYLOAD


def test_a_copy_at_another_offset_is_the_same_update(recorded):
    parts = message()
    assert recorded(closed(parts, 7), parts) == PAYLOAD


def test_what_was_cut_off_is_trimmed_and_what_is_gone_is_missing(recorded):
    parts = message()
    with pytest.raises(Trimmed, match="of a/0 at offset 9 is not in the log any more"):
        recorded(closed(parts, 9), parts[1:], begin=10)
    with pytest.raises(Damaged, match="of a/0 at offset 10 is missing from the log"):
        recorded(closed(parts, 10), [replace(part, message_id="other") for part in parts], begin=10)


def test_an_update_that_is_not_the_accepted_one_is_named(recorded):
    with pytest.raises(Damaged, match="the update of a/0 at offset 0 has another header than the one"):
        recorded(closed(message(), 0), message(examples=11))
    other_payload = [message()[0], *message(PAYLOAD[::-1])[1:]]
    with pytest.raises(Damaged, match="the update of a/0 at offset 0 has a payload without the SHA-256"):
        recorded(closed(message(), 0), other_payload)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"examples": 11}, "says that its examples is 11, and was accepted with 10"),
        ({"sha256": "0" * 64}, "has a payload without the SHA-256 that it claims"),
        ({"run": "other"}, "says that it belongs to another run"),
        ({"turn": 1}, "has an assignment id that is not that of what it answers"),
    ],
)
def test_without_the_header_s_hash_it_is_held_to_its_row(recorded, changes, said):
    with pytest.raises(Damaged, match=said):
        recorded(closed(message(), 0)._replace(head=""), message(**changes))
