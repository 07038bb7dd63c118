"""Logs with limits, on both brokers: what is beyond them goes, readers go on, space comes back."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

from shared.broker import embedded, rabbit
from shared.broker.embedded import EmbeddedBroker
from shared.broker.port import FIRST, Broker, Delivery, Part, Publication
from shared.errors import RefusedError
from shared.topology import Limits, Queue, Topology
from tests.services import RabbitNode

SOON_S = 20.0
MAX_BYTES = 1_000_000
LIMITS = Limits(MAX_BYTES, 3600)
#: So much lies in a file of its own at the embedded broker, and so little in its database.
LARGE, SMALL = 100_000, 2_000

Wait = Callable[..., object]


@pytest.fixture
def topology(federation: str) -> Topology:
    return Topology(federation)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture(params=["embedded", "rabbit"])
def connect(request: pytest.FixtureRequest, folder: Path) -> Iterator[Callable[[], Broker]]:
    """Connects once more."""
    opened: list[Broker] = []

    def one_more() -> Broker:
        if request.param == "embedded":
            opened.append(embedded.connect(folder, "coordinator"))
        else:
            opened.append(rabbit.connect(request.getfixturevalue("rabbit_url"), patience_s=SOON_S))
        return opened[-1]

    yield one_more
    for broker in opened:
        broker.close()


@pytest.fixture
def broker(connect: Callable[[], Broker], topology: Topology) -> Iterator[Broker]:
    made = connect()
    made.declare(topology.exchanges(), topology.queues(LIMITS))
    yield made
    made.delete([*(queue.name for queue in topology.queues()), *(e.name for e in topology.exchanges())])


@pytest.fixture
def own(folder: Path, topology: Topology) -> Iterator[EmbeddedBroker]:
    """The embedded broker, with limits."""
    made = embedded.connect(folder, "coordinator")
    made.declare(topology.exchanges(), topology.queues(LIMITS))
    yield made
    made.close()


def _result(topology: Topology, number: int, size: int) -> Publication:
    body = b"%08d" % number + os.urandom(size - 8)
    return Publication(topology.results, "site-a", Part.single("test", body))


def _fill(broker: Broker, topology: Topology, count: int, size: int = LARGE, first: int = 0) -> None:
    at_once = max(LARGE // size, 1)
    for begin in range(first, first + count, at_once):
        numbers = range(begin, min(begin + at_once, first + count))
        broker.publish([_result(topology, number, size) for number in numbers])


def _numbers(broker: Broker, log: str, last: int, start: int = FIRST) -> list[int]:
    """The numbers of the bodies from `start` on, up to the last."""
    got: list[int] = []
    for part in _parts(broker, log, start):
        got.append(int(bytes(part.body[:8])))
        if got[-1] == last:
            return got
    return got


def _parts(broker: Broker, log: str, start: int) -> Iterator[Part]:
    inbox: SimpleQueue[Delivery] = SimpleQueue()
    subscription = broker.follow(log, start, inbox.put)
    try:
        while True:
            delivery = inbox.get(timeout=SOON_S)
            yield delivery.part
            delivery.ack()
    finally:
        subscription.close()


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


class TestBothBrokers:
    @pytest.mark.parametrize("size", [LARGE, SMALL])
    def test_the_oldest_goes_and_the_newest_stays(
        self, broker: Broker, topology: Topology, size: int, wait_for: Wait
    ) -> None:
        count = 4 * MAX_BYTES // size
        _fill(broker, topology, count, size)

        def kept() -> list[int]:
            return _numbers(broker, topology.results_log, count - 1)

        # RabbitMQ drops a segment some time after it has begun another.
        wait_for(lambda: len(kept()) * size < 1.6 * MAX_BYTES, SOON_S, "the oldest to go")
        numbers = kept()
        assert numbers == list(range(numbers[0], count))
        assert len(numbers) * size > 0.6 * MAX_BYTES

    def test_a_reader_at_a_dropped_offset_goes_on_at_the_first_kept(
        self, broker: Broker, topology: Topology, wait_for: Wait
    ) -> None:
        _fill(broker, topology, 40)
        wait_for(lambda: _numbers(broker, topology.results_log, 39)[0] > 0, SOON_S, "the oldest to go")
        first = _numbers(broker, topology.results_log, 39)[0]
        assert _numbers(broker, topology.results_log, 39, start=1)[0] >= first

    def test_a_follower_that_keeps_up_misses_nothing(self, broker: Broker, topology: Topology) -> None:
        got: list[int] = []
        done = threading.Event()

        def sink(delivery: Delivery) -> None:
            got.append(int(bytes(delivery.part.body[:8])))
            delivery.ack()
            room.release()
            if got[-1] == 59:
                done.set()

        room = threading.Semaphore(3)
        broker.follow(topology.results_log, FIRST, sink)
        for number in range(60):
            assert room.acquire(timeout=SOON_S)
            broker.publish([_result(topology, number, LARGE)])
        assert done.wait(SOON_S)
        assert got == list(range(60))

    def test_what_is_too_old_goes_when_there_is_newer(
        self, connect: Callable[[], Broker], topology: Topology, wait_for: Wait
    ) -> None:
        broker = connect()
        queues = topology.queues(Limits(2 * MAX_BYTES, max_age_s=1))
        broker.declare(topology.exchanges(), queues)
        _fill(broker, topology, 6)
        last = 5

        def first_kept() -> int:
            nonlocal last
            last += 1
            broker.publish([_result(topology, last, 10_000)])
            return _numbers(broker, topology.results_log, last)[0]

        wait_for(lambda: first_kept() > 0, SOON_S, "the oldest to be too old")
        assert 6 * LARGE + last * 10_000 < 1.8 * MAX_BYTES, "that was the other limit"
        broker.delete([*(queue.name for queue in queues), *(e.name for e in topology.exchanges())])

    def test_the_journal_keeps_everything(self, broker: Broker, topology: Topology) -> None:
        for number in range(30):
            body = b"%08d" % number + bytes(LARGE)
            broker.publish([Publication(topology.events, "test", Part.single("test", body))])
        assert _numbers(broker, topology.events_log, 29) == list(range(30))

    def test_other_limits_are_refused_until_the_logs_are_deleted(
        self, broker: Broker, topology: Topology
    ) -> None:
        broker.declare(topology.exchanges(), topology.queues(LIMITS))
        other = topology.queues(Limits(2 * MAX_BYTES, 3600))
        with pytest.raises(RefusedError):
            broker.declare((), other)
        broker.delete(queue.name for queue in other)
        broker.declare((), other)


class TestRabbit:
    def test_the_files_stay_within_the_limit(
        self, rabbit_node: RabbitNode, topology: Topology, wait_for: Wait
    ) -> None:
        broker = rabbit.connect(rabbit_node.url, patience_s=SOON_S)
        try:
            broker.declare(topology.exchanges(), topology.queues(LIMITS))
            _fill(broker, topology, 100)

            def size() -> int:
                folders = rabbit_node.folder.rglob(f"*{topology.federation}_results_log*")
                return sum(_size(path) for path in folders)

            assert size() > MAX_BYTES / 2
            wait_for(lambda: size() < 1.6 * MAX_BYTES, SOON_S, "RabbitMQ to drop segments")
        finally:
            broker.delete([queue.name for queue in topology.queues()])
            broker.delete([exchange.name for exchange in topology.exchanges()])
            broker.close()


class TestEmbedded:
    @pytest.mark.parametrize("size", [LARGE, SMALL])
    def test_the_folder_stays_small(
        self, own: EmbeddedBroker, folder: Path, topology: Topology, size: int
    ) -> None:
        _fill(own, topology, 30 * MAX_BYTES // size, size)
        assert 0.7 * MAX_BYTES < own.held(topology.results_log) < 1.3 * MAX_BYTES
        files = _size(folder / "segments") if size > SMALL else (folder / "broker.db").stat().st_size
        assert files < 2.5 * MAX_BYTES
        assert (folder / "broker.db-wal").stat().st_size < 18 * 2**20

    def test_two_writers_share_the_limit_and_give_their_files_back(
        self, own: EmbeddedBroker, folder: Path, topology: Topology
    ) -> None:
        # Two bodies fill a segment: it is always the first writer who begins one, and drops.
        other = embedded.connect(folder, "site-a")
        for number in range(40):
            own.publish([_result(topology, number, LARGE)])
            other.publish([_result(topology, number, LARGE)])
        assert own.held(topology.results_log) < 1.3 * MAX_BYTES
        assert _size(folder / "segments") < (1.3 + 2 * 0.25) * MAX_BYTES
        other.close()

    def test_files_go_when_only_small_bodies_follow(
        self, own: EmbeddedBroker, folder: Path, topology: Topology
    ) -> None:
        _fill(own, topology, 3)
        _fill(own, topology, 2 * MAX_BYTES // SMALL, SMALL)
        assert _size(folder / "segments") == 0

    def test_logs_have_their_limits_each_for_itself(self, own: EmbeddedBroker, topology: Topology) -> None:
        own.publish([Publication(topology.rounds, "x", Part.single("test", b"00000000"))])
        _fill(own, topology, 40)
        assert _numbers(own, topology.rounds_log, 0) == [0]
        assert own.held(topology.rounds_log) < 1000

    def test_age_drops_what_is_old_but_never_the_newest(
        self, own: EmbeddedBroker, topology: Topology, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _fill(own, topology, 6)
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 3601)
        # A reader's mark after a long rest.
        own.publish([_result(topology, 6, 8)])
        assert _numbers(own, topology.results_log, 6) == [4, 5, 6]
        _fill(own, topology, 4, first=7)
        assert _numbers(own, topology.results_log, 10) == [6, 7, 8, 9, 10]

    def test_a_slow_reader_passes_over_what_was_dropped(
        self, own: EmbeddedBroker, folder: Path, topology: Topology, caplog: pytest.LogCaptureFixture
    ) -> None:
        reader = embedded.connect(folder, "reader")
        got: SimpleQueue[Delivery] = SimpleQueue()
        gate, inside = threading.Event(), threading.Event()

        def sink(delivery: Delivery) -> None:
            inside.set()
            assert gate.wait(SOON_S)
            got.put(delivery)

        _fill(own, topology, 8)
        reader.follow(topology.results_log, FIRST, sink, prefetch=8)
        assert inside.wait(SOON_S)
        # Its next rows are in its hands, their bodies are not: now all of them go.
        _fill(own, topology, 40, first=8)
        gate.set()
        numbers = []
        while not numbers or numbers[-1] != 47:
            delivery = got.get(timeout=SOON_S)
            numbers.append(int(bytes(delivery.part.body[:8])))
            delivery.ack()
        assert numbers[0] == 0
        assert numbers[1] > 8
        assert numbers[1:] == list(range(numbers[1], 48))
        assert "tries again" not in caplog.text
        reader.close()

    def test_a_folder_from_before_there_were_limits_goes_on(
        self, own: EmbeddedBroker, folder: Path, topology: Topology
    ) -> None:
        _fill(own, topology, 2)
        own.close()
        with sqlite3.connect(folder / "broker.db") as older:
            older.executescript("DROP TABLE chapters; PRAGMA user_version = 1;")
        older.close()
        again = embedded.connect(folder, "coordinator")
        _fill(again, topology, 2, first=2)
        assert _numbers(again, topology.results_log, 3) == [0, 1, 2, 3]
        assert again.held(topology.results_log) > 2 * LARGE
        again.close()

    def test_ages_in_other_units_are_refused(self, own: EmbeddedBroker, topology: Topology) -> None:
        queue = Queue("warren.x.log", "stream", topology.results, "#", {"x-max-age": "7D"})
        with pytest.raises(RefusedError, match="x-max-age"):
            own.declare((), [queue])
