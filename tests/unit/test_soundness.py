"""Rounds that follow one another, and such that don't."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.facts import Closed
from coordinator.ledger import Leader, Round
from coordinator.soundness import Books


def row(client, id_):
    return Closed(client, id_, 0, 10, 7, f"message-{id_}", client.partition("/")[0])


def made(version, digest, parent, *rows, number=None, skipped=False):
    return Round(
        number=version if number is None else number,
        version=version,
        digest=digest,
        parent=parent,
        leader=Leader("token", "process 1", 0.0, 1),
        skipped=skipped,
        opened_at=0.0,
        closed_at=1.0,
        rows=rows,
        decided=9,
        task_from=-1,
        checkpoint_from=-1,
        counts={},
        refusals={},
        metrics={},
        scores=(),
        readmitted=(),
        line={},
    )


CHAIN = (
    made(0, "d0", "", row("a/0", "i")),
    made(1, "d1", "d0", row("a/0", "1a"), row("b/0", "1b")),
    made(1, "d1", "d1", number=2, skipped=True),
    made(2, "d2", "d1", row("a/0", "2a"), row("b/0", "2b"), number=3),
)


def faults(*rounds, buffered=False):
    books = Books(buffered)
    return [fault for round_ in rounds for fault in books.faults(round_)]


def test_a_chain_that_holds():
    assert faults(*CHAIN) == []


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (replace(CHAIN[3], parent="dx"), "its parent is dx, and the version before is d1"),
        (replace(CHAIN[3], version=3), "the journal has version 1 before it"),
        (replace(CHAIN[3], skipped=True, version=1), "round 3 was skipped, and changed the model"),
        (
            replace(CHAIN[3], rows=(row("a/0", "1a"), row("b/0", "2b"))),
            "the update of a/0 at offset 7 counts twice: in round 1 and in round 3",
        ),
        (replace(CHAIN[3], rows=(row("a/0", "2a"), row("a/0", "2c"))), "two updates of a/0 count in round 3"),
    ],
)
def test_what_contradicts_the_rounds_before_is_named(last, said):
    (fault,) = faults(*CHAIN[:3], last)
    assert said in fault


def test_in_buffered_mode_a_client_may_count_more_than_once_in_a_round():
    twice = replace(CHAIN[3], rows=(row("a/0", "2a"), row("a/0", "2c")))
    assert faults(*CHAIN[:3], twice, buffered=True) == []
