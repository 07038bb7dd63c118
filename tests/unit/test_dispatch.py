"""When a coordinator looks whether the model that it has published is still in the log."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from coordinator.config import parse
from coordinator.dispatch import Dispatch
from coordinator.facts import Rules
from coordinator.models import TaskRef
from coordinator.moves import Seen
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
