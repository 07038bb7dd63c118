"""The embedded broker on a full disk: every write waits for room, and is made once."""

from __future__ import annotations

import logging
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

import pytest

from shared.broker.embedded import EmbeddedBroker, connect
from shared.broker.port import FIRST, Delivery, Part, Publication
from shared.errors import BrokerUnreachable
from shared.topology import Topology

SOON_S = 20.0
TOPOLOGY = Topology("full")
WORK = TOPOLOGY.site_queue("clinic")
SMALL, LARGE = b"small", bytes(200_000)


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture
def broker(tmp_path: Path, stop: threading.Event) -> Iterator[EmbeddedBroker]:
    made = connect(tmp_path, "coordinator", stop)
    made.declare(TOPOLOGY.exchanges(), [*TOPOLOGY.queues(), WORK])
    yield made
    made.close()


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process gets longer than a few bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _order(body: bytes) -> Publication:
    return Publication(TOPOLOGY.assignments, "clinic", Part.single("order", body))


def _event(body: bytes) -> Publication:
    return Publication(TOPOLOGY.events, "x", Part.single("event", body))


def _waits(
    call: Callable[[], object], caplog: pytest.LogCaptureFixture, wait_for: Callable[..., object]
) -> None:
    """A call that waits while the disk is full, and ends when it isn't."""
    caplog.clear()
    thread = threading.Thread(target=call, daemon=True)
    with full_disk():
        thread.start()
        wait_for(lambda: any("trying again" in line for line in caplog.messages), SOON_S)
        assert thread.is_alive()
    thread.join(SOON_S)
    assert not thread.is_alive()


@pytest.mark.parametrize("body", [SMALL, LARGE])
def test_publishes_acks_and_declares_wait(
    broker: EmbeddedBroker,
    body: bytes,
    caplog: pytest.LogCaptureFixture,
    wait_for: Callable[..., object],
) -> None:
    caplog.set_level(logging.WARNING)
    orders: SimpleQueue[Delivery] = SimpleQueue()
    log: SimpleQueue[Delivery] = SimpleQueue()
    broker.publish([_order(b"1"), _order(b"2"), _order(b"3")])
    broker.consume(WORK.name, orders.put)
    first = orders.get(timeout=SOON_S)

    _waits(lambda: broker.publish([_event(body)], then_ack=first), caplog, wait_for)
    second = orders.get(timeout=SOON_S)
    _waits(second.ack, caplog, wait_for)
    third = orders.get(timeout=SOON_S)
    _waits(third.give_back, caplog, wait_for)
    again = orders.get(timeout=SOON_S)
    assert (again.part.body, again.redelivered) == (b"3", 1)
    _waits(lambda: broker.declare((), [TOPOLOGY.site_queue("another")]), caplog, wait_for)

    broker.publish([_event(b"end")])
    broker.follow(TOPOLOGY.events_log, FIRST, log.put)
    assert [bytes(log.get(timeout=SOON_S).part.body) for _ in range(2)] == [body, b"end"]


def test_who_is_told_to_stop_waits_no_longer(broker: EmbeddedBroker, stop: threading.Event) -> None:
    stop.set()
    with full_disk(), pytest.raises(BrokerUnreachable, match="make room"):
        broker.publish([_event(SMALL)])
