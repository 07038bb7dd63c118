"""When a coordinator looks whether the model that it has published is still in the log."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from coordinator.config import parse
from coordinator.dispatch import Dispatch
from coordinator.facts import Rules
from coordinator.models import TaskRef
from coordinator.moves import Seen
from shared import codec
from shared.broker.port import FIRST, Publication
from shared.messages import Assignment
from shared.topology import Topology


@pytest.fixture
def looks():
    """The numbers of the issues before which the task was looked for."""
    return []


@pytest.fixture
def issue(looks):
    """`issue(state, orders)` sends orders out."""
    issued = []
    task = TaskRef("d", "m", 1, 1, 0)
    model = SimpleNamespace(look_for_task=lambda: looks.append(len(issued)), publish=lambda *_: (task, [], 0))
    broker = SimpleNamespace(publish=issued.append)
    return Dispatch(parse({"federation": {"name": "f"}}, "test"), broker, Topology("f"), model).issue


def open_round(world, **rules):
    made = world(Rules(rounds=1, deadline_s=10.0, min_clients=2, initial_from_site=False, **rules))
    made.feed(Seen(made.now, "a", ("0", "1")))
    return made


def test_in_buffered_mode_the_task_is_looked_for_once_in_a_deadline_while_orders_are_given_up(
    world, issue, looks
):
    made = open_round(world, buffered=True, concurrency=1, buffer=4)
    issue(made.state, made.issued[-1:])
    made.answer(made.issued[-1])
    issue(made.state, made.issued[-1:])
    assert looks == [], "who is answered has the task"
    for _ in range(3):
        made.tick(10.0)
        issue(made.state, made.issued[-1:])
    assert looks == [2, 3, 4]
    issue(made.state, made.issued[-1:])
    assert looks == [2, 3, 4], "nothing more was given up"


def test_an_order_on_an_older_version_does_not_name_the_newest_ones_task(world):
    made = open_round(world, minimum=1)
    broker = SimpleNamespace(publish=lambda publications: sent.extend(publications))
    sent: list[Publication] = []
    task = TaskRef(made.state.digest, "m", 3, 9, 7)
    model = SimpleNamespace(publish=lambda *_: (task, [], 0))
    dispatch = Dispatch(parse({"federation": {"name": "f"}}, "test"), broker, Topology("f"), model)
    newest = made.issued[-1]
    dispatch.issue(made.state, [newest, replace(newest, version=newest.version - 1, digest="older")])
    there, older = (Assignment.from_header(codec.decode(each.part.body)[0]) for each in sent)
    assert (there.task_message, there.task_offset) == ("m", 7)
    assert (older.task_message, older.task_offset) == ("", FIRST)
    assert (older.task_parts, older.task_bytes) == (3, 9), "as large as the newest"
