"""What only RabbitMQ can do to us: connections cut at bad moments, confirms that never come, restarts."""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import pika
import pytest

from shared.broker import _jobs, _mending, _publisher, rabbit
from shared.broker.port import FIRST, NEXT, Delivery, Part, Publication, new_id
from shared.broker.rabbit import RabbitBroker
from shared.errors import (
    BrokerUnreachable,
    ConfigError,
    NotDeclaredError,
    RefusedError,
    UnconfirmedError,
    UnroutableError,
)
from shared.topology import Queue, Topology
from tests.contract.forwarder import Forwarder
from tests.services import RabbitNode, free_port

SITE = "clinic"
SOON_S = 20.0
QUIET_S = 0.3
KIB = 1024
#: Class and method of a confirm, in its frame.
CONFIRM = b"\x00\x3c\x00\x50"
#: And of the answer to a consume.
CONSUMING = b"\x00\x3c\x00\x15"

Connect = Callable[..., RabbitBroker]


class Undecodable(pika.BasicProperties):
    """Properties with a time in them that a broker carries, and that no Python date can hold."""

    def __init__(self) -> None:
        super().__init__(headers={"part": 1 << 62})

    def encode(self) -> list[bytes]:
        number = struct.pack(">cq", b"l", 1 << 62)
        return [b"T" + number[1:] if piece == number else piece for piece in super().encode()]


@pytest.fixture
def topology(federation: str) -> Topology:
    return Topology(federation)


@pytest.fixture
def connect(rabbit_url: str) -> Iterator[Connect]:
    """`connect(url=…, …)` with a patience that ends before the test's time does."""
    opened: list[RabbitBroker] = []

    def connect(url: str = rabbit_url, **settings: Any) -> RabbitBroker:
        opened.append(rabbit.connect(url, **({"patience_s": SOON_S} | settings)))
        return opened[-1]

    yield connect
    for broker in opened:
        broker.close()


@pytest.fixture
def broker(connect: Connect, topology: Topology) -> Iterator[RabbitBroker]:
    """A connection of its own, behind no forwarder, with everything declared."""
    made = connect()
    queues = [*topology.queues(), topology.site_queue(SITE)]
    made.declare(topology.exchanges(), queues)
    yield made
    made.delete([*(queue.name for queue in queues), *(exchange.name for exchange in topology.exchanges())])


@pytest.fixture
def forwarder(rabbit_node: RabbitNode) -> Iterator[Forwarder]:
    made = Forwarder(rabbit_node.port)
    yield made
    made.close()


@pytest.fixture
def detour(forwarder: Forwarder, rabbit_url: str) -> str:
    """The broker's URL through the forwarder."""
    return _at_port(rabbit_url, forwarder.port)


@pytest.fixture
def aside() -> Callable[..., Future[Any]]:
    """`aside(call, …)` makes a call on a thread of its own; a test that fails leaves it behind."""

    def aside(call: Callable[..., Any], *arguments: Any, **settings: Any) -> Future[Any]:
        done: Future[Any] = Future()

        def run() -> None:
            try:
                done.set_result(call(*arguments, **settings))
            except Exception as error:  # noqa: BLE001 - for the test to judge
                done.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return done

    return aside


def _at_port(url: str, port: int) -> str:
    return url.replace(f":{urlsplit(url).port}", f":{port}")


def _task(topology: Topology, body: bytes = b"task") -> Publication:
    return Publication(topology.rounds, "x", Part.single("task", body))


def _order(topology: Topology, body: bytes = b"order") -> Publication:
    return Publication(topology.assignments, SITE, Part.single("order", body))


def _large(topology: Topology, parts: int, part_bytes: int) -> list[Publication]:
    """One message of many parts, each different."""
    name = new_id()
    bodies = [bytes([number]) * part_bytes for number in range(parts)]
    return [
        Publication(
            topology.rounds,
            "x",
            Part(name, "large", number, parts, parts * part_bytes, zlib.crc32(body), body),
        )
        for number, body in enumerate(bodies)
    ]


def _read(broker: RabbitBroker, log_name: str, count: int, start: int = FIRST) -> list[Part]:
    """So many parts of a log, and no more than are there."""
    inbox: SimpleQueue[Delivery] = SimpleQueue()
    subscription = broker.follow(log_name, start, inbox.put)
    parts = _take(inbox, count)
    assert _is_quiet(inbox)
    subscription.close()
    return parts


def _take(inbox: SimpleQueue[Delivery], count: int) -> list[Part]:
    parts = []
    for _ in range(count):
        delivery = inbox.get(timeout=SOON_S)
        delivery.ack()
        parts.append(delivery.part)
    return parts


def _is_quiet(inbox: SimpleQueue[Delivery]) -> bool:
    try:
        inbox.get(timeout=QUIET_S)
    except Empty:
        return True
    return False


def _lines(caplog: pytest.LogCaptureFixture, piece: str) -> list[str]:
    return [line for line in caplog.messages if piece in line]


class TestCuts:
    def test_in_mid_publish(
        self, connect: Connect, broker: RabbitBroker, topology: Topology, detour: str, forwarder: Forwarder
    ) -> None:
        sent = _large(topology, 20, 256 * KIB)
        cut = connect(detour)
        forwarder.cut_after("up", 2048 * KIB)
        cut.publish(sent)
        assert forwarder.connections == 2
        inbox: SimpleQueue[Delivery] = SimpleQueue()
        broker.follow(topology.rounds_log, FIRST, inbox.put)
        seen: dict[int, Part] = {}
        while len(seen) < 20:
            (part,) = _take(inbox, 1)
            seen[part.part] = part
        assert list(seen) == list(range(20)), "the first copies are in order"
        assert all(seen[number].body == each.part.body for number, each in enumerate(sent))

    def test_in_mid_follow(
        self, connect: Connect, broker: RabbitBroker, topology: Topology, detour: str, forwarder: Forwarder
    ) -> None:
        broker.publish(_large(topology, 20, 256 * KIB))
        inbox: SimpleQueue[Delivery] = SimpleQueue()
        forwarder.cut_after("down", 2048 * KIB)
        connect(detour).follow(topology.rounds_log, FIRST, inbox.put, prefetch=3)
        parts = _take(inbox, 20)
        assert forwarder.connections > 2, "one to publish, and two to follow"
        assert [part.part for part in parts] == list(range(20))
        assert _is_quiet(inbox)
        broker.publish([_task(topology, b"live")])
        assert _take(inbox, 1)[0].body == b"live"

    def test_before_a_follower_from_next_saw_anything(
        self, connect: Connect, broker: RabbitBroker, topology: Topology, detour: str, forwarder: Forwarder
    ) -> None:
        inbox: SimpleQueue[Delivery] = SimpleQueue()
        subscription = connect(detour).follow(topology.rounds_log, NEXT, inbox.put)
        forwarder.drops = lambda _direction, _data: True
        broker.publish([_task(topology, b"unseen")])
        forwarder.drops = lambda _direction, _data: False
        forwarder.cut()
        assert _take(inbox, 1)[0].body == b"unseen"
        subscription.close()

    def test_an_ack_of_before_does_not_hit_the_next_delivery(
        self, connect: Connect, broker: RabbitBroker, topology: Topology, detour: str, forwarder: Forwarder
    ) -> None:
        inbox: SimpleQueue[Delivery] = SimpleQueue()
        worker = connect(detour)
        queue = topology.assignments_of(SITE)
        subscription = worker.consume(queue, inbox.put)
        broker.publish([_order(topology)])
        before = inbox.get(timeout=SOON_S)
        forwarder.cut()
        after = inbox.get(timeout=SOON_S)
        assert (before.redelivered, after.redelivered) == (0, 1)
        before.ack()
        worker.publish([_task(topology)], then_ack=before)
        subscription.close()
        other: SimpleQueue[Delivery] = SimpleQueue()
        broker.consume(queue, other.put)
        assert other.get(timeout=SOON_S).redelivered == 2

    def test_many_while_many_publish(
        self, connect: Connect, broker: RabbitBroker, topology: Topology, detour: str, forwarder: Forwarder,
        aside: Callable[..., Future[Any]],
    ) -> None:  # fmt: skip
        sent: list[Publication] = []
        calm = threading.Event()
        through = connect(detour)

        def publish_on() -> None:
            while not calm.is_set():
                publication = _task(topology, bytes(100 * KIB))
                through.publish([publication])
                sent.append(publication)

        inbox: SimpleQueue[Delivery] = SimpleQueue()
        through.follow(topology.rounds_log, FIRST, inbox.put)
        publishers = [aside(publish_on) for _ in range(4)]
        read: list[Part] = []
        for _ in range(8):
            forwarder.cut()
            read += _take(inbox, 5)
        calm.set()
        for publisher in publishers:
            publisher.result(SOON_S)
        missing = {each.part.message_id for each in sent} - {part.message_id for part in read}
        while missing:
            read += _take(inbox, 1)
            missing.discard(read[-1].message_id)
        offsets = [part.offset for part in read]
        assert offsets == sorted(set(offsets)), "in order, and each once, whatever was cut"

    def test_while_declaring(
        self, connect: Connect, topology: Topology, detour: str, forwarder: Forwarder
    ) -> None:
        broker = connect(detour)
        forwarder.cut_after("up", 300)
        broker.declare(topology.exchanges(), topology.queues())
        broker.publish([_task(topology)])
        assert forwarder.connections == 2
        broker.delete([*(queue.name for queue in topology.queues()), *(e.name for e in topology.exchanges())])


class TestConfirms:
    def test_small_publishes_share_their_round_trips(
        self, connect: Connect, broker: RabbitBroker, topology: Topology, detour: str, forwarder: Forwarder
    ) -> None:
        through = connect(detour)
        through.publish([_task(topology)])
        before = forwarder.turns
        through.publish([_task(topology, b"%d" % number) for number in range(100)])
        pipelined = forwarder.turns - before
        for number in range(20):
            through.publish([_task(topology, b"%d" % number)])
        one_by_one = forwarder.turns - before - pipelined
        assert one_by_one >= 20
        assert pipelined < 100, "each confirm one by one makes 200"

    def test_the_last_of_many_is_awaited(
        self, connect: Connect, broker: RabbitBroker, topology: Topology, detour: str, forwarder: Forwarder,
        aside: Callable[..., Future[Any]],
    ) -> None:  # fmt: skip
        through = connect(detour)
        through.publish([_task(topology)])
        forwarder.drops = lambda direction, data: direction == "down" and CONFIRM in data
        published = aside(through.publish, [_task(topology) for _ in range(100)])
        assert len(_read(broker, topology.rounds_log, 101)) == 101
        assert not published.done(), "all are at the broker, and no confirm has come"
        forwarder.drops = lambda _direction, _data: False
        forwarder.cut()
        published.result(SOON_S)

    def test_one_that_never_comes_makes_a_new_connection(
        self, connect: Connect, broker: RabbitBroker, topology: Topology, detour: str, forwarder: Forwarder
    ) -> None:
        through = connect(detour, confirm_timeout_s=0.3)
        through.publish([_task(topology, b"before")])
        mute = threading.Event()
        mute.set()

        def drops(direction: str, data: bytes) -> bool:
            lost = mute.is_set() and direction == "down" and CONFIRM in data
            mute.clear() if lost else None
            return lost

        forwarder.drops = drops
        sent = _task(topology, b"again")
        through.publish([sent])
        assert forwarder.connections == 2
        parts = _read(broker, topology.rounds_log, 3)
        assert [part.message_id for part in parts[1:]] == [sent.part.message_id] * 2

    def test_that_never_come_are_waited_for_where_outages_are(
        self, connect: Connect, broker: RabbitBroker, topology: Topology, detour: str, forwarder: Forwarder,
        aside: Callable[..., Future[Any]],
    ) -> None:  # fmt: skip
        through = connect(detour, confirm_timeout_s=0.02, persist=True)
        forwarder.drops = lambda direction, data: direction == "down" and CONFIRM in data
        published = aside(through.publish, [_task(topology)])
        assert len(_read(broker, topology.rounds_log, _publisher.TRIES + 1)) == _publisher.TRIES + 1
        assert not published.done()
        forwarder.drops = lambda _direction, _data: False
        published.result(SOON_S)

    def test_of_a_queue_that_gives_no_answer_either_make_it_anew(
        self, connect: Connect, topology: Topology, detour: str, forwarder: Forwarder,
        aside: Callable[..., Future[Any]], wait_for: Callable[..., Any], caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        caplog.set_level(logging.WARNING, "shared")
        monkeypatch.setattr(_mending, "PROBE_S", 0.3)
        through = connect(detour, confirm_timeout_s=0.3, persist=True)
        queues = [*topology.queues(), topology.site_queue(SITE)]
        through.declare(topology.exchanges(), queues)
        inbox: SimpleQueue[Delivery] = SimpleQueue()
        through.publish([_order(topology, b"before")])
        forwarder.drops = lambda direction, data: (
            direction == "down" and (CONFIRM in data or CONSUMING in data)
        )
        published = aside(through.publish, [_order(topology, b"after")])
        wait_for(lambda: _lines(caplog, "making it anew"), SOON_S)
        forwarder.drops = lambda _direction, _data: False
        published.result(SOON_S)
        through.consume(topology.assignments_of(SITE), inbox.put)
        assert _take(inbox, 1)[0].body == b"after", "what it held is gone"
        through.delete([*(queue.name for queue in queues), *(e.name for e in topology.exchanges())])

    def test_that_never_come_at_all_fail_the_publish(
        self, connect: Connect, broker: RabbitBroker, topology: Topology, detour: str, forwarder: Forwarder
    ) -> None:
        through = connect(detour, confirm_timeout_s=0.1)
        inbox: SimpleQueue[Delivery] = SimpleQueue()
        through.consume(topology.assignments_of(SITE), inbox.put)
        broker.publish([_order(topology)])
        work = inbox.get(timeout=SOON_S)
        forwarder.drops = lambda direction, data: direction == "down" and CONFIRM in data
        with pytest.raises(UnconfirmedError):
            through.publish([_task(topology)], then_ack=work)
        forwarder.drops = lambda _direction, _data: False
        assert forwarder.connections >= _publisher.TRIES
        while inbox.get(timeout=SOON_S).redelivered < _publisher.TRIES:
            pass  # never acked: each new connection brought it again
        through.publish([_task(topology)])

    def test_what_is_on_its_way_is_bounded(
        self, connect: Connect, broker: RabbitBroker, topology: Topology, detour: str, forwarder: Forwarder,
        aside: Callable[..., Future[Any]], wait_for: Callable[..., Any], monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        window = 1024 * KIB
        monkeypatch.setattr(_jobs, "WINDOW_BYTES", window)
        through = connect(detour)
        through.publish([_task(topology)])
        forwarder.drops = lambda direction, data: direction == "down" and CONFIRM in data
        before = forwarder.passed["up"]
        published = aside(through.publish, _large(topology, 18, 256 * KIB))
        wait_for(lambda: forwarder.passed["up"] - before > window, SOON_S)
        assert len(_read(broker, topology.rounds_log, 5)) == 5, "a window's worth, and the one before"
        forwarder.drops = lambda _direction, _data: False
        forwarder.cut()
        published.result(SOON_S)
        parts = _read(broker, topology.rounds_log, 5 + 18)
        assert {part.part for part in parts[5:]} == set(range(18))

    def test_where_a_large_message_begins_is_learnt_without_reading_it_back(
        self, connect: Connect, detour: str, forwarder: Forwarder, broker: RabbitBroker, topology: Topology
    ) -> None:
        message = _large(topology, 25, 4 << 20)
        came: SimpleQueue[Delivery] = SimpleQueue()
        broker.follow(topology.rounds_log, FIRST, came.put)
        offset = connect(url=detour).publish(message, locate=True)
        first = came.get(timeout=SOON_S).part
        assert (first.message_id, first.part) == (message[0].part.message_id, 0)
        assert offset <= first.offset
        # A broker sends in one go what was published in one, which is a window at the most.
        assert forwarder.passed["down"] < 3 * _jobs.WINDOW_BYTES

    def test_more_than_a_window(self, broker: RabbitBroker, topology: Topology) -> None:
        sent = _large(topology, 17, 2560 * KIB)
        assert sum(len(each.part.body) for each in sent) > _jobs.WINDOW_BYTES
        broker.publish(sent)
        assert [part.body for part in _read(broker, topology.rounds_log, 17)] == [
            each.part.body for each in sent
        ]

    def test_a_blocked_broker_is_waited_for(
        self, connect: Connect, rabbit_node: RabbitNode, broker: RabbitBroker, topology: Topology,
        aside: Callable[..., Future[Any]], wait_for: Callable[..., Any], caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        caplog.set_level(logging.INFO, "shared")
        hasty = connect(confirm_timeout_s=0.5)
        rabbit_node.ctl("set_vm_memory_high_watermark", "0")
        try:
            published = aside(hasty.publish, [_task(topology, b"patient")])
            wait_for(lambda: _lines(caplog, "takes no messages"), SOON_S)
            with pytest.raises(TimeoutError):
                published.result(1.0)
        finally:
            rabbit_node.ctl("set_vm_memory_high_watermark", "0.6")
        published.result(SOON_S)
        assert len(_read(broker, topology.rounds_log, 1)) == 1
        assert len(_lines(caplog, "takes no messages")) == 1
        assert len(_lines(caplog, "takes messages again")) == 1
        assert not _lines(caplog, "connecting again")


class TestRefusals:
    def test_of_a_publish_leave_the_rest_alone(self, broker: RabbitBroker, topology: Topology) -> None:
        inbox: SimpleQueue[Delivery] = SimpleQueue()
        broker.consume(topology.assignments_of(SITE), inbox.put)
        broker.publish([_order(topology)])
        held = inbox.get(timeout=SOON_S)
        nowhere = Publication(f"{topology.rounds}.none", "x", Part.single("x", b""))
        with pytest.raises(NotDeclaredError, match=r"rounds\.none"):
            broker.publish([_task(topology), nowhere], then_ack=held)
        unbound = Publication(topology.assignments, "nobody", Part.single("x", bytes(10)))
        with pytest.raises(UnroutableError, match="nobody"):
            broker.publish([_order(topology, b"next"), unbound, _task(topology)], then_ack=held)
        held.ack()
        assert _take(inbox, 1)[0].body == b"next"

    def test_another_name_than_the_logins(
        self, connect: Connect, broker: RabbitBroker, topology: Topology
    ) -> None:
        with pytest.raises(RefusedError, match="user_id"):
            connect(login_name="somebody-else").publish([_task(topology)])

    def test_a_name_that_is_too_long(self, broker: RabbitBroker, topology: Topology) -> None:
        with pytest.raises(RefusedError, match="too long"):
            broker.publish([Publication(topology.rounds, "k" * 256, Part.single("x", b""))])

    def test_other_arguments_name_the_queue(self, broker: RabbitBroker, topology: Topology) -> None:
        other = Queue(topology.presence_box, "classic", topology.presence, "#", {"x-max-length": 1})
        with pytest.raises(RefusedError, match=r"presence\.box.*delete it"):
            broker.declare([], [other])

    def test_following_a_queue_or_consuming_a_stream(self, broker: RabbitBroker, topology: Topology) -> None:
        with pytest.raises(RefusedError, match="follow streams"):
            broker.follow(topology.assignments_of(SITE), FIRST, print)
        with pytest.raises(RefusedError, match="follow streams"):
            broker.consume(topology.rounds_log, print)

    def test_a_broker_used_from_a_sink(self, broker: RabbitBroker, topology: Topology) -> None:
        caught: SimpleQueue[Exception] = SimpleQueue()

        def sink(delivery: Delivery) -> None:
            try:
                broker.publish([_task(topology)], then_ack=delivery)
            except RuntimeError as error:
                caught.put(error)
                delivery.ack()

        broker.consume(topology.assignments_of(SITE), sink)
        broker.publish([_order(topology)])
        assert "another thread" in str(caught.get(timeout=SOON_S))


class TestSeveralHosts:
    def test_fewer_nodes_than_copies_are_refused(
        self, connect: Connect, rabbit_node: RabbitNode, federation: str
    ) -> None:
        twice = f"amqp://guest:guest@127.0.0.1:{rabbit_node.port},localhost:{rabbit_node.port}/%2F"
        copied = Topology(federation, copies=3)
        with pytest.raises(RefusedError, match=r"3 copies .*only 1 of the broker's nodes") as refused:
            connect(twice).declare(copied.exchanges(), copied.queues())
        assert f"127.0.0.1:{rabbit_node.port}, localhost:{rabbit_node.port}" in str(refused.value)

    def test_the_next_is_taken_when_one_is_gone(
        self, connect: Connect, broker: RabbitBroker, topology: Topology, forwarder: Forwarder,
        rabbit_node: RabbitNode,
    ) -> None:  # fmt: skip
        hosts = f"127.0.0.1:{free_port()},127.0.0.1:{forwarder.port},127.0.0.1:{rabbit_node.port}"
        through = connect(f"amqp://guest:guest@{hosts}/%2F")
        inbox: SimpleQueue[Delivery] = SimpleQueue()
        through.follow(topology.rounds_log, FIRST, inbox.put)
        through.publish([_task(topology, b"1")])
        forwarder.close()
        through.publish([_task(topology, b"2")])
        assert [part.body for part in _take(inbox, 2)] == [b"1", b"2"]

    def test_all_that_are_gone_are_counted(self, connect: Connect) -> None:
        ports = free_port(), free_port()
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        with pytest.raises(BrokerUnreachable, match=f"none of the broker's 2 hosts .*{ports[0]}") as gone:
            connect(f"amqp://u:hush@{hosts}/", patience_s=0.1)
        assert "hush" not in str(gone.value)


class TestConnecting:
    def test_a_wrong_password_is_refused_at_once(self, connect: Connect, rabbit_url: str) -> None:
        with pytest.raises(RefusedError, match="'guest'") as refused:
            connect(rabbit_url.replace(":guest@", ":hush-hush@"), patience_s=None)
        assert "hush-hush" not in str(refused.value)

    def test_a_vhost_that_is_missing_is_refused_at_once(self, connect: Connect, rabbit_url: str) -> None:
        with pytest.raises(RefusedError, match="'nowhere'"):
            connect(rabbit_url.replace("%2F", "nowhere"), patience_s=None)

    @pytest.mark.parametrize(
        "url", ["amqp://u:hush-hush@host:port/", "amqp://u:hush/hush@h:1/", "amqp://u@h/"]
    )
    def test_a_malformed_url_is_not_quoted(self, connect: Connect, url: str) -> None:
        with pytest.raises(ConfigError, match="malformed") as malformed:
            connect(url)
        assert "hush" not in str(malformed.value)

    def test_nobody_there_is_said_with_the_address(
        self, connect: Connect, rabbit_url: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        port = free_port()
        with pytest.raises(BrokerUnreachable, match=rf"127\.0\.0\.1:{port} .*start it"):
            connect(_at_port(rabbit_url, port), patience_s=0.5)
        assert len(_lines(caplog, "trying again")) == 1
        assert not any(record.name.startswith("pika") for record in caplog.records)

    @pytest.mark.parametrize("patience_s", [0.3, None])
    def test_somebody_who_says_nothing(
        self, connect: Connect, rabbit_url: str, patience_s: float | None, aside: Callable[..., Future[Any]]
    ) -> None:
        stop = threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = _at_port(rabbit_url, silent.getsockname()[1])
            connected = aside(connect, url, patience_s=patience_s, stop=stop)
            silent.accept()
            if patience_s is None:
                stop.set()
            with pytest.raises(BrokerUnreachable):
                connected.result(SOON_S)

    def test_stop_ends_a_wait(
        self, connect: Connect, broker: RabbitBroker, topology: Topology, detour: str, forwarder: Forwarder,
        aside: Callable[..., Future[Any]], wait_for: Callable[..., Any], caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        stop = threading.Event()
        through = connect(detour, patience_s=None, stop=stop)
        forwarder.close()
        published = aside(through.publish, [_task(topology)])
        wait_for(lambda: _lines(caplog, "trying again"), SOON_S)
        assert not published.done()
        stop.set()
        with pytest.raises(BrokerUnreachable):
            published.result(SOON_S)
        with pytest.raises(BrokerUnreachable):
            through.publish([_task(topology)])

    def test_stop_ends_no_work_that_has_its_connection(
        self, connect: Connect, broker: RabbitBroker, topology: Topology
    ) -> None:
        stop = threading.Event()
        stopping = connect(stop=stop)
        stop.set()
        stopping.publish([_task(topology, b"last words")])
        assert [part.body for part in _read(broker, topology.rounds_log, 1)] == [b"last words"]

    def test_patience_ends_a_publish(
        self, connect: Connect, broker: RabbitBroker, topology: Topology, detour: str, forwarder: Forwarder
    ) -> None:
        through = connect(detour, patience_s=0.5)
        forwarder.close()
        began = time.monotonic()
        with pytest.raises(BrokerUnreachable, match=str(forwarder.port)):
            through.publish([_task(topology)])
        assert time.monotonic() - began >= 0.4

    def test_its_name_is_seen_at_the_broker(
        self, connect: Connect, rabbit_node: RabbitNode, broker: RabbitBroker
    ) -> None:
        assert "Warren as guest" in rabbit_node.ctl("list_connections", "client_properties")


class TestForeignMessages:
    @pytest.mark.parametrize(
        "properties",
        [
            pika.BasicProperties(),
            pika.BasicProperties(headers={"part": "one", "parts": [2], "bytes": None, "crc32": True}),
            Undecodable(),
            pika.BasicProperties(headers={"part": 1 << 40, "parts": -1}, message_id="\x00", type="odd"),
        ],
        ids=["bare", "other types", "undecodable", "absurd"],
    )
    def test_are_handed_out_for_the_reader_to_refuse(
        self, rabbit_url: str, broker: RabbitBroker, topology: Topology, properties: pika.BasicProperties
    ) -> None:
        inbox: SimpleQueue[Delivery] = SimpleQueue()
        broker.follow(topology.rounds_log, NEXT, inbox.put)
        with pika.BlockingConnection(pika.URLParameters(rabbit_url)) as stranger:
            stranger.channel().basic_publish(topology.rounds, "x", b"who am I", properties)
        (part,) = _take(inbox, 1)
        assert (part.body, part.user_id) == (b"who am I", "")
        assert zlib.crc32(part.body) != part.crc32
        broker.publish([_task(topology, b"ours")])
        (ours,) = _take(inbox, 1)
        assert ours.body == b"ours"
        assert ours.offset > part.offset >= 0
        assert [each.body for each in _read(broker, topology.rounds_log, 2)] == [b"who am I", b"ours"]


class TestLogs:
    def test_next_of_a_log_that_comes_later_misses_nothing(
        self, connect: Connect, topology: Topology, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "shared")
        broker = connect()
        inbox: SimpleQueue[Delivery] = SimpleQueue()
        broker.follow(topology.rounds_log, NEXT, inbox.put)
        broker.declare(topology.exchanges(), topology.queues())
        broker.publish([_task(topology, b"first"), _task(topology, b"second")])
        assert [part.body for part in _take(inbox, 2)] == [b"first", b"second"]
        assert len(_lines(caplog, f"waiting for {topology.rounds_log}")) == 1
        broker.delete([*(queue.name for queue in topology.queues()), *(e.name for e in topology.exchanges())])

    def test_a_follower_goes_over_to_the_log_that_replaces_its_own(
        self, broker: RabbitBroker, topology: Topology
    ) -> None:
        inbox: SimpleQueue[Delivery] = SimpleQueue()
        broker.follow(topology.rounds_log, FIRST, inbox.put)
        broker.publish([_task(topology, b"old") for _ in range(5)])
        _take(inbox, 5)
        broker.delete([topology.rounds_log])
        broker.declare([], topology.queues())
        broker.publish([_task(topology, b"new")])
        assert _take(inbox, 1)[0].body == b"new"

    def test_a_sink_that_fails_is_logged_and_gets_it_again(
        self, broker: RabbitBroker, topology: Topology, caplog: pytest.LogCaptureFixture
    ) -> None:
        inbox: SimpleQueue[Delivery] = SimpleQueue()
        failures = iter([True, False])

        def sink(delivery: Delivery) -> None:
            if next(failures):
                raise ValueError("a bug")
            inbox.put(delivery)

        broker.consume(topology.assignments_of(SITE), sink)
        broker.publish([_order(topology)])
        assert inbox.get(timeout=SOON_S).redelivered == 1
        assert len(_lines(caplog, "the sink for")) == 1


class TestRestart:
    def test_readers_and_writers_go_on(
        self, own_rabbit_node: RabbitNode, connect: Connect, topology: Topology,
        aside: Callable[..., Future[Any]], wait_for: Callable[..., Any],
    ) -> None:  # fmt: skip
        declared = time.monotonic()
        broker = connect(own_rabbit_node.url, patience_s=60)
        broker.declare(topology.exchanges(), [*topology.queues(), topology.site_queue(SITE)])
        log: SimpleQueue[Delivery] = SimpleQueue()
        queue: SimpleQueue[Delivery] = SimpleQueue()
        broker.follow(topology.rounds_log, FIRST, log.put)
        broker.consume(topology.assignments_of(SITE), queue.put)
        broker.publish([_task(topology, b"before"), _order(topology)])
        assert _take(log, 1)[0].body == b"before"
        held = queue.get(timeout=SOON_S)
        # The node writes who its streams are half a second late: killed before, 3.10 has them down for ever.
        wait_for(lambda: time.monotonic() > declared + 3, SOON_S)
        own_rabbit_node.kill()
        published = aside(broker.publish, [_task(topology, b"after")], then_ack=held)
        own_rabbit_node.start()
        published.result(60)
        assert _take(log, 1)[0].body == b"after"
        again = queue.get(timeout=SOON_S)
        assert again.part.message_id == held.part.message_id
        assert again.redelivered == 1
