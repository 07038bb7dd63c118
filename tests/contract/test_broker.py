"""What every broker promises (`shared.broker.port`): each test runs on a folder and on a RabbitMQ node."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import pytest

from shared.broker.connect import connect
from shared.broker.port import FIRST, NEXT, Broker, Delivery, Part, Publication, new_id
from shared.errors import NotDeclaredError, RefusedError, UnroutableError
from shared.topology import Exchange, Queue, Topology

#: How long something may take that must come; and how long to look for what must not.
SOON_S = 20.0
QUIET_S = 0.4
MIB = 1 << 20
SITE = "clinic"

WaitFor = Callable[..., Any]


class Brokers:
    """Opens connections to one broker, from here and from child processes; ends them all."""

    def __init__(self, address: str, login: str) -> None:
        self.address = address
        self.login = login
        self._opened: list[Broker] = []
        self._children: list[subprocess.Popen[str]] = []

    def __call__(self) -> Broker:
        broker = connect(self.address, self.login, patience_s=SOON_S)
        self._opened.append(broker)
        return broker

    def child(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        """A process that runs a script with `broker`, `arguments` and the port's names at hand."""
        command = [sys.executable, "-c", CHILD + script, self.address, self.login, *arguments]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._children.append(child)
        return child

    def close(self) -> None:
        for child in self._children:
            child.kill()
            child.communicate()
        for broker in self._opened:
            broker.close()


CHILD = """
import sys, zlib
from queue import SimpleQueue
from shared.broker.connect import connect
from shared.broker.port import FIRST, NEXT, Part, Publication, new_id
address, login, *arguments = sys.argv[1:]
broker = connect(address, login)
"""


class Inbox:
    """A sink that keeps what it is handed."""

    def __init__(self) -> None:
        self._handed: SimpleQueue[Delivery] = SimpleQueue()

    def __call__(self, delivery: Delivery) -> None:
        self._handed.put(delivery)

    def next(self) -> Delivery:
        return self._handed.get(timeout=SOON_S)

    def take(self, count: int, *, ack: bool = True) -> list[Delivery]:
        taken = []
        for _ in range(count):
            taken.append(self.next())
            if ack:
                taken[-1].ack()
        return taken

    def bodies(self, count: int) -> list[bytes]:
        return [bytes(delivery.part.body) for delivery in self.take(count)]

    def is_quiet(self) -> bool:
        try:
            self._handed.get(timeout=QUIET_S)
        except Empty:
            return True
        return False


@pytest.fixture(params=["embedded", "rabbit"])
def brokers(request: pytest.FixtureRequest, tmp_path: Path, topology: Topology) -> Iterator[Brokers]:
    if request.param == "embedded":
        made = Brokers(str(tmp_path / "log"), "site-a")
    else:
        url = request.getfixturevalue("rabbit_url")
        made = Brokers(url, urlsplit(url).username or "guest")
    yield made
    try:
        made().delete([*_names(topology), _own_queue(topology).name])
    finally:
        made.close()


@pytest.fixture
def topology(federation: str) -> Topology:
    return Topology(federation)


@pytest.fixture
def broker(brokers: Brokers, topology: Topology) -> Broker:
    """A connection to a broker where the federation's names and one site's queue are declared."""
    made = brokers()
    made.declare(topology.exchanges(), [*topology.queues(), topology.site_queue(SITE)])
    return made


def _names(topology: Topology) -> list[str]:
    queues = [*topology.queues(), topology.site_queue(SITE)]
    return [exchange.name for exchange in topology.exchanges()] + [queue.name for queue in queues]


def _own_queue(topology: Topology, kind: Any = "classic", **arguments: str | int) -> Queue:
    """A queue of a test's own, bound to the presence exchange."""
    dashed = {f"x-{name.replace('_', '-')}": value for name, value in arguments.items()}
    return Queue(f"warren.{topology.federation}.test.box", kind, topology.presence, "#", dashed)


def _part(body: bytes = b"body") -> Part:
    return Part.single("test", body)


def _event(topology: Topology, body: bytes) -> Publication:
    return Publication(topology.events, "coordinator", _part(body))


def _assignment(topology: Topology, body: bytes = b"body", expires_s: float | None = None) -> Publication:
    return Publication(topology.assignments, SITE, _part(body), expires_s)


def _split(topology: Topology, pieces: list[bytes]) -> list[Publication]:
    name, nbytes = new_id(), sum(map(len, pieces))
    parts = [
        Part(name, "split", number, len(pieces), nbytes, zlib.crc32(piece), piece)
        for number, piece in enumerate(pieces)
    ]
    return [Publication(topology.rounds, "coordinator", part) for part in parts]


class TestLog:
    def test_first_reads_what_was_there_then_what_comes(self, broker: Broker, topology: Topology) -> None:
        broker.publish([_event(topology, b"1"), _event(topology, b"2")])
        inbox = Inbox()
        broker.follow(topology.events_log, FIRST, inbox)
        assert inbox.bodies(2) == [b"1", b"2"]
        broker.publish([_event(topology, b"3")])
        assert inbox.bodies(1) == [b"3"]

    def test_reading_removes_nothing(self, broker: Broker, topology: Topology) -> None:
        broker.publish([_event(topology, b"1"), _event(topology, b"2")])
        for _ in range(2):
            inbox = Inbox()
            subscription = broker.follow(topology.events_log, FIRST, inbox)
            assert inbox.bodies(2) == [b"1", b"2"]
            subscription.close()

    def test_offsets_grow_and_one_can_begin_at_any(self, broker: Broker, topology: Topology) -> None:
        for number in range(5):
            broker.publish([_event(topology, b"%d" % number), _assignment(topology)])
        inbox = Inbox()
        broker.follow(topology.events_log, FIRST, inbox)
        offsets = [delivery.part.offset for delivery in inbox.take(5)]
        assert offsets == sorted(set(offsets))
        assert offsets[0] >= 0
        later = Inbox()
        broker.follow(topology.events_log, offsets[2], later)
        assert [delivery.part.offset for delivery in later.take(3)] == offsets[2:]

    def test_next_gets_all_that_is_published_after_the_call(self, broker: Broker, topology: Topology) -> None:
        for number in range(10):
            broker.publish([_event(topology, b"before")])
            inbox = Inbox()
            subscription = broker.follow(topology.events_log, NEXT, inbox)
            broker.publish([_event(topology, b"%d" % number)])
            assert inbox.bodies(1) == [b"%d" % number]
            subscription.close()

    def test_a_part_arrives_as_it_was_published(
        self, brokers: Brokers, broker: Broker, topology: Topology
    ) -> None:
        sent = Part("an-id", "kind", 3, 7, 12_345, 0xFFFFFFFF, memoryview(b"\0\xff raw"))
        broker.publish([Publication(topology.results, SITE, sent)])
        inbox = Inbox()
        broker.follow(topology.results_log, FIRST, inbox)
        got = inbox.next().part
        assert (got.message_id, got.kind, got.part, got.parts) == ("an-id", "kind", 3, 7)
        assert (got.nbytes, got.crc32, bytes(got.body)) == (12_345, 0xFFFFFFFF, b"\0\xff raw")
        assert got.user_id == brokers.login

    def test_interleaved_messages_are_told_apart_by_their_ids(
        self, broker: Broker, topology: Topology
    ) -> None:
        one, two = (_split(topology, [b"%d%d" % (m, p) for p in range(4)]) for m in (1, 2))
        broker.publish([publication for pair in zip(one, two, strict=True) for publication in pair])
        inbox = Inbox()
        broker.follow(topology.rounds_log, FIRST, inbox)
        parts = [delivery.part for delivery in inbox.take(8)]
        for sent in (one, two):
            got = [part for part in parts if part.message_id == sent[0].part.message_id]
            assert [part.part for part in got] == [0, 1, 2, 3]
            assert [bytes(part.body) for part in got] == [publication.part.body for publication in sent]

    def test_large_parts_survive_byte_for_byte(self, broker: Broker, topology: Topology) -> None:
        sizes = [5 * MIB, 64 * 1024, 64 * 1024 + 1, 0, 5 * MIB]
        sent = [os.urandom(size) for size in sizes]
        broker.publish([_event(topology, body) for body in sent])
        inbox = Inbox()
        broker.follow(topology.events_log, FIRST, inbox, prefetch=2)
        assert inbox.bodies(len(sent)) == sent

    def test_prefetch_bounds_what_is_out_and_acks_make_room(self, broker: Broker, topology: Topology) -> None:
        broker.publish([_event(topology, b"%d" % number) for number in range(7)])
        inbox = Inbox()
        broker.follow(topology.events_log, FIRST, inbox, prefetch=3)
        out = inbox.take(3, ack=False)
        assert inbox.is_quiet()
        for delivery in out:
            delivery.ack()
        assert inbox.bodies(4) == [b"3", b"4", b"5", b"6"]

    def test_order_is_kept_within_and_across_publishes(self, broker: Broker, topology: Topology) -> None:
        inbox = Inbox()
        broker.follow(topology.events_log, NEXT, inbox, prefetch=50)
        for hundred in range(3):
            broker.publish([_event(topology, b"%d" % (hundred * 100 + number)) for number in range(100)])
        assert inbox.bodies(300) == [b"%d" % number for number in range(300)]

    def test_locate_gives_an_offset_from_where_the_message_is_found(
        self, broker: Broker, topology: Topology
    ) -> None:
        broker.publish([_event(topology, b"%d" % number) for number in range(20)])
        sent = _event(topology, b"task")
        offset = broker.publish([sent, _assignment(topology)], locate=True)
        inbox = Inbox()
        broker.follow(topology.events_log, offset, inbox)
        part = inbox.next().part
        while part.message_id != sent.part.message_id:
            part = inbox.next().part
        assert 0 <= offset <= part.offset
        assert broker.publish([_event(topology, b"more")]) == -1

    def test_follow_waits_for_a_log_that_is_not_declared(self, brokers: Brokers, topology: Topology) -> None:
        inbox, late = Inbox(), brokers()
        late.follow(topology.events_log, FIRST, inbox)
        broker = brokers()
        broker.declare(topology.exchanges(), topology.queues())
        broker.publish([_event(topology, b"at last")])
        assert inbox.bodies(1) == [b"at last"]

    def test_close_with_deliveries_pending_ends_them(self, broker: Broker, topology: Topology) -> None:
        broker.publish([_event(topology, b"%d" % number) for number in range(20)])
        inbox = Inbox()
        subscription = broker.follow(topology.events_log, FIRST, inbox, prefetch=1)
        pending = inbox.next()
        subscription.close()
        pending.ack()
        broker.publish([_event(topology, b"more")])
        assert inbox.is_quiet()
        subscription.close()
        again = Inbox()
        broker.follow(topology.events_log, FIRST, again)
        assert again.bodies(21)[-1] == b"more"

    def test_delete_then_declare_starts_anew(self, broker: Broker, topology: Topology) -> None:
        broker.publish([_event(topology, b"old"), _event(topology, os.urandom(MIB)), _assignment(topology)])
        broker.delete([*_names(topology), "warren.none.such"])
        with pytest.raises(NotDeclaredError):
            broker.publish([_event(topology, b"nowhere")])
        broker.declare(topology.exchanges(), [*topology.queues(), topology.site_queue(SITE)])
        broker.publish([_event(topology, b"new"), _assignment(topology, b"new")])
        log, queue = Inbox(), Inbox()
        broker.follow(topology.events_log, FIRST, log)
        broker.consume(topology.assignments_of(SITE), queue)
        assert log.bodies(1) == [b"new"]
        assert queue.bodies(1) == [b"new"]


class TestQueue:
    def test_each_message_goes_to_one_of_the_competing(
        self, brokers: Brokers, broker: Broker, topology: Topology
    ) -> None:
        inboxes = [Inbox(), Inbox(), Inbox()]
        for inbox in inboxes:
            brokers().consume(topology.assignments_of(SITE), inbox)
        broker.publish([_assignment(topology, b"%d" % number) for number in range(3)])
        held = [inbox.next() for inbox in inboxes]
        assert sorted(bytes(delivery.part.body) for delivery in held) == [b"0", b"1", b"2"]
        assert all(delivery.part.offset == -1 for delivery in held)
        assert all(inbox.is_quiet() for inbox in inboxes)

    def test_prefetch_bounds_what_is_out_and_acks_make_room(self, broker: Broker, topology: Topology) -> None:
        broker.publish([_assignment(topology, b"%d" % number) for number in range(5)])
        inbox = Inbox()
        broker.consume(topology.assignments_of(SITE), inbox, prefetch=2)
        first, second = inbox.take(2, ack=False)
        assert inbox.is_quiet()
        first.ack()
        assert inbox.next().part.body == b"2"
        assert inbox.is_quiet()
        second.ack()
        assert inbox.next().part.body == b"3"

    def test_messages_come_in_order(self, broker: Broker, topology: Topology) -> None:
        broker.publish([_assignment(topology, b"%d" % number) for number in range(50)])
        inbox = Inbox()
        broker.consume(topology.assignments_of(SITE), inbox, prefetch=5)
        assert inbox.bodies(50) == [b"%d" % number for number in range(50)]

    @pytest.mark.parametrize("size", [10, 5 * MIB])
    def test_close_hands_what_was_not_acked_to_another(
        self, brokers: Brokers, broker: Broker, topology: Topology, size: int
    ) -> None:
        body = os.urandom(size)
        broker.publish([_assignment(topology, body)])
        inbox, other = Inbox(), Inbox()
        subscription = broker.consume(topology.assignments_of(SITE), inbox)
        assert inbox.next().redelivered == 0
        subscription.close()
        brokers().consume(topology.assignments_of(SITE), other)
        again = other.next()
        assert (again.part.body, again.redelivered) == (body, 1)

    def test_close_of_the_broker_hands_it_on_too(
        self, brokers: Brokers, broker: Broker, topology: Topology
    ) -> None:
        broker.publish([_assignment(topology)])
        first, inbox, other = brokers(), Inbox(), Inbox()
        first.consume(topology.assignments_of(SITE), inbox)
        inbox.next()
        broker.consume(topology.assignments_of(SITE), other)
        first.close()
        assert other.next().redelivered == 1

    def test_give_back_hands_it_out_again(self, broker: Broker, topology: Topology) -> None:
        broker.publish([_assignment(topology, b"x")])
        inbox = Inbox()
        broker.consume(topology.assignments_of(SITE), inbox)
        inbox.next().give_back()
        again = inbox.next()
        assert (again.part.body, again.redelivered) == (b"x", 1)

    def test_a_killed_process_loses_nothing(
        self, brokers: Brokers, broker: Broker, topology: Topology
    ) -> None:
        broker.publish([_assignment(topology, b"work")])
        child = brokers.child(
            "got = SimpleQueue(); broker.consume(arguments[0], got.put)\n"
            "print(bytes(got.get().part.body).decode(), flush=True); sys.stdin.read()",
            topology.assignments_of(SITE),
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "work\n"
        inbox = Inbox()
        broker.consume(topology.assignments_of(SITE), inbox)
        assert inbox.is_quiet()
        child.kill()
        again = inbox.next()
        assert (again.part.body, again.redelivered) == (b"work", 1)

    def test_an_ack_counts_once_and_for_its_own_delivery(
        self, brokers: Brokers, broker: Broker, topology: Topology
    ) -> None:
        broker.publish([_assignment(topology, b"%d" % number) for number in range(3)])
        inbox = Inbox()
        subscription = broker.consume(topology.assignments_of(SITE), inbox, prefetch=2)
        first, second = inbox.take(2, ack=False)
        first.ack()
        first.ack()
        third = inbox.next()
        assert inbox.is_quiet()
        subscription.close()
        second.ack()
        third.give_back()
        other = Inbox()
        brokers().consume(topology.assignments_of(SITE), other, prefetch=5)
        assert sorted(bytes(d.part.body) for d in other.take(2, ack=False)) == [b"1", b"2"]
        second.ack()
        assert other.is_quiet()

    def test_a_late_ack_does_not_hit_the_next_delivery(
        self, brokers: Brokers, broker: Broker, topology: Topology
    ) -> None:
        broker.publish([_assignment(topology, b"x")])
        stale, held, last = Inbox(), Inbox(), Inbox()
        queue = topology.assignments_of(SITE)
        subscription = broker.consume(queue, stale)
        late = stale.next()
        subscription.close()
        subscription = broker.consume(queue, held)
        assert held.next().redelivered == 1
        late.ack()
        broker.publish([_event(topology, b"x")], then_ack=late)
        subscription.close()
        brokers().consume(queue, last)
        assert last.next().redelivered == 2

    def test_consume_waits_for_a_queue_that_is_not_declared(
        self, brokers: Brokers, topology: Topology
    ) -> None:
        inbox, late = Inbox(), brokers()
        late.consume(topology.assignments_of(SITE), inbox)
        broker = brokers()
        broker.declare(topology.exchanges(), topology.queues())
        broker.declare([], [topology.site_queue(SITE)])
        broker.publish([_assignment(topology, b"at last")])
        assert inbox.bodies(1) == [b"at last"]

    def test_nothing_reaches_the_sink_after_close(self, broker: Broker, topology: Topology) -> None:
        inbox = Inbox()
        subscription = broker.consume(topology.assignments_of(SITE), inbox, prefetch=5)
        publisher = threading.Thread(
            target=lambda: [broker.publish([_assignment(topology)]) for _ in range(30)]
        )
        publisher.start()
        inbox.next()
        subscription.close()
        while not inbox.is_quiet():
            pass
        publisher.join()
        broker.publish([_assignment(topology)])
        assert inbox.is_quiet()


class TestDeadLetters:
    def test_one_that_comes_back_too_often(
        self, brokers: Brokers, broker: Broker, topology: Topology
    ) -> None:
        limited = _own_queue(topology, "quorum", delivery_limit=2, dead_letter_exchange=topology.dead)
        broker.declare([], [limited])
        sent = _part(b"poison")
        broker.publish([Publication(topology.presence, SITE, sent)])
        inbox, dead = Inbox(), Inbox()
        broker.consume(limited.name, inbox)
        for attempt in range(3):
            delivery = inbox.next()
            assert delivery.redelivered == attempt
            delivery.give_back()
        broker.consume(topology.dead_box, dead)
        got = dead.next().part
        assert (got.message_id, got.body, got.user_id) == (sent.message_id, b"poison", brokers.login)
        assert inbox.is_quiet()

    @pytest.mark.parametrize("size", [10, MIB])
    def test_one_that_nobody_took_in_time(
        self, brokers: Brokers, broker: Broker, topology: Topology, size: int
    ) -> None:
        sent = _assignment(topology, os.urandom(size), expires_s=0.2)
        broker.publish([sent])
        dead, inbox = Inbox(), Inbox()
        broker.consume(topology.dead_box, dead)
        delivery = dead.next()
        assert (delivery.part.message_id, delivery.part.body) == (sent.part.message_id, sent.part.body)
        assert delivery.part.user_id == brokers.login
        delivery.ack()
        broker.publish([_assignment(topology, b"fresh", expires_s=60)])
        broker.consume(topology.assignments_of(SITE), inbox)
        assert inbox.bodies(1) == [b"fresh"]
        assert dead.is_quiet()

    def test_one_that_is_being_worked_on_does_not_expire(self, broker: Broker, topology: Topology) -> None:
        inbox, dead = Inbox(), Inbox()
        broker.consume(topology.dead_box, dead)
        broker.consume(topology.assignments_of(SITE), inbox)
        broker.publish([_assignment(topology, b"taken", expires_s=0.3)])
        taken = inbox.next()
        broker.publish([_assignment(topology, b"left", expires_s=0.3)])
        assert dead.bodies(1) == [b"left"]
        taken.ack()
        assert dead.is_quiet()


class TestBox:
    def test_a_full_one_drops_its_oldest(self, broker: Broker, topology: Topology) -> None:
        box = _own_queue(topology, max_length=3, overflow="drop-head")
        broker.declare([], [box])
        for number in range(5):
            broker.publish([Publication(topology.presence, SITE, _part(b"%d" % number))])
        inbox = Inbox()
        broker.consume(box.name, inbox, prefetch=10)
        assert inbox.bodies(3) == [b"2", b"3", b"4"]
        assert inbox.is_quiet()

    def test_old_ones_go(self, broker: Broker, topology: Topology) -> None:
        box = _own_queue(topology, message_ttl=200, dead_letter_exchange=topology.dead)
        broker.declare([], [box])
        broker.publish([Publication(topology.presence, SITE, _part(b"old"))])
        dead, inbox = Inbox(), Inbox()
        broker.consume(topology.dead_box, dead)
        assert dead.bodies(1) == [b"old"]
        broker.consume(box.name, inbox)
        broker.publish([Publication(topology.presence, SITE, _part(b"young"))])
        assert inbox.bodies(1) == [b"young"]


class TestPublish:
    def test_then_ack_goes_with_the_publish(
        self, brokers: Brokers, broker: Broker, topology: Topology
    ) -> None:
        broker.publish([_assignment(topology, b"work")])
        inbox, log, rest = Inbox(), Inbox(), Inbox()
        subscription = broker.consume(topology.assignments_of(SITE), inbox)
        work = inbox.next()
        broker.publish([Publication(topology.results, SITE, _part(b"update"))], then_ack=work)
        subscription.close()
        work.ack()
        broker.follow(topology.results_log, FIRST, log)
        assert log.bodies(1) == [b"update"]
        brokers().consume(topology.assignments_of(SITE), rest)
        assert rest.is_quiet()

    def test_then_ack_makes_room(self, broker: Broker, topology: Topology) -> None:
        broker.publish([_assignment(topology, b"%d" % number) for number in range(3)])
        inbox = Inbox()
        broker.consume(topology.assignments_of(SITE), inbox)
        for number in range(3):
            work = inbox.next()
            assert work.part.body == b"%d" % number
            broker.publish([Publication(topology.results, SITE, _part())], then_ack=work)

    def test_no_ack_when_the_publish_fails(self, broker: Broker, topology: Topology) -> None:
        broker.publish([_assignment(topology, b"work")])
        inbox, again = Inbox(), Inbox()
        subscription = broker.consume(topology.assignments_of(SITE), inbox)
        work = inbox.next()
        with pytest.raises(UnroutableError):
            broker.publish([Publication(topology.assignments, "nobody", _part())], then_ack=work)
        subscription.close()
        broker.consume(topology.assignments_of(SITE), again)
        assert again.bodies(1) == [b"work"]

    def test_a_key_without_a_queue_is_unroutable(self, broker: Broker, topology: Topology) -> None:
        with pytest.raises(UnroutableError):
            broker.publish([Publication(topology.assignments, "nobody", _part())])
        inbox = Inbox()
        broker.consume(topology.assignments_of(SITE), inbox)
        broker.publish([_assignment(topology, b"still works")])
        assert inbox.bodies(1) == [b"still works"]

    def test_an_exchange_that_is_missing(self, broker: Broker, topology: Topology) -> None:
        with pytest.raises(NotDeclaredError):
            broker.publish([Publication(f"{topology.events}.none", "x", _part())])
        broker.publish([_event(topology, b"still works")])

    def test_from_many_threads(self, broker: Broker, topology: Topology) -> None:
        threads = [
            threading.Thread(
                target=lambda t=t: [broker.publish([_event(topology, b"%d.%d" % (t, n))]) for n in range(20)]
            )
            for t in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        inbox = Inbox()
        broker.follow(topology.events_log, FIRST, inbox)
        bodies = inbox.bodies(80)
        for t in range(4):
            mine = [body for body in bodies if body.startswith(b"%d." % t)]
            assert mine == [b"%d.%d" % (t, n) for n in range(20)]

    def test_from_several_processes_all_followers_see_one_order(
        self, brokers: Brokers, broker: Broker, topology: Topology
    ) -> None:
        inboxes = [Inbox(), Inbox()]
        for inbox in inboxes:
            brokers().follow(topology.results_log, NEXT, inbox)
        children = [
            brokers.child(
                "print(flush=True); sys.stdin.readline()\n"
                "for n in range(40):\n"
                "    body = f'{arguments[1]}.{n}'.encode().ljust(100_000 if n % 4 == 0 else 1)\n"
                "    broker.publish([Publication(arguments[0], 'x', Part.single('test', body))])\n"
                "broker.close()",
                topology.results,
                str(number),
            )
            for number in range(3)
        ]
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        one, two = ([body.strip().decode() for body in inbox.bodies(120)] for inbox in inboxes)
        assert one == two
        for number in range(3):
            mine = [body for body in one if body.startswith(f"{number}.")]
            assert mine == [f"{number}.{n}" for n in range(40)]
        assert [child.wait() for child in children] == [0, 0, 0]

    def test_a_process_killed_while_publishing_leaves_a_clean_log(
        self, brokers: Brokers, broker: Broker, topology: Topology
    ) -> None:
        child = brokers.child(
            "bodies = [bytes([n]) * (n << 20) for n in (1, 2, 3)]\n"
            "while True:\n"
            "    name = new_id()\n"
            "    parts = [Part(name, 'big', n, 3, 6 << 20, zlib.crc32(b), b) for n, b in enumerate(bodies)]\n"
            "    broker.publish([Publication(arguments[0], 'x', part) for part in parts])",
            topology.results,
        )
        inbox = Inbox()
        subscription = broker.follow(topology.results_log, FIRST, inbox, prefetch=2)
        inbox.take(7)
        child.kill()
        child.wait()
        subscription.close()
        broker.publish([Publication(topology.results, "x", _part(b"end"))])
        again = Inbox()
        broker.follow(topology.results_log, FIRST, again, prefetch=2)
        parts = [again.take(1)[0].part]
        while parts[-1].body != b"end":
            parts.extend(delivery.part for delivery in again.take(1))
        assert all(zlib.crc32(part.body) == part.crc32 for part in parts)
        numbers = [part.part for part in parts[:-1]]
        assert len(numbers) >= 7
        assert numbers == [n % 3 for n in range(len(numbers))]


class TestDeclare:
    def test_twice_changes_nothing(self, broker: Broker, topology: Topology) -> None:
        broker.publish([_event(topology, b"kept")])
        broker.declare(topology.exchanges(), [*topology.queues(), topology.site_queue(SITE)])
        broker.publish([_event(topology, b"once")])
        inbox = Inbox()
        broker.follow(topology.events_log, FIRST, inbox)
        assert inbox.bodies(2) == [b"kept", b"once"]
        assert inbox.is_quiet()

    def test_other_arguments_are_refused(self, broker: Broker, topology: Topology) -> None:
        broker.declare([], [_own_queue(topology, max_length=3)])
        with pytest.raises(RefusedError):
            broker.declare([], [_own_queue(topology, max_length=4)])
        with pytest.raises(RefusedError):
            broker.declare([], [_own_queue(topology, "quorum")])
        with pytest.raises(RefusedError):
            broker.declare([Exchange(topology.events, "direct")], [])
        broker.publish([_event(topology, b"still works")])

    def test_direct_keys_and_fanout_route_as_amqp_does(self, broker: Broker, topology: Topology) -> None:
        other = Queue(f"warren.{topology.federation}.test.box", "classic", topology.assignments, "other")
        broker.declare([], [other])
        site, box, dead = Inbox(), Inbox(), Inbox()
        broker.consume(topology.assignments_of(SITE), site)
        broker.consume(other.name, box)
        broker.consume(topology.dead_box, dead)
        broker.publish(
            [
                Publication(topology.assignments, "other", _part(b"to other")),
                _assignment(topology, b"to site"),
                Publication(topology.dead, "any key", _part(b"to all")),
            ]
        )
        assert (box.bodies(1), site.bodies(1), dead.bodies(1)) == ([b"to other"], [b"to site"], [b"to all"])
        assert box.is_quiet()
