"""What is sent again, and in what order: readers put the parts of a message together in theirs."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from shared.broker._jobs import Job
from shared.broker._publisher import Publisher
from shared.broker.port import Part, Publication
from shared.errors import UnroutableError


class Link:
    """A link whose timers go off when the test says so."""

    waits_outages_out = True

    def __init__(self):
        self.timers = []

    def later(self, delay_s, call):
        self.timers.append(call)


class Channel:
    is_open = True

    def add_on_close_callback(self, callback):
        self.closed = callback

    def add_on_return_callback(self, callback):
        self.returned = callback

    def confirm_delivery(self, confirmed, callback):
        self.confirmed = confirmed
        callback(None)


class Connection:
    """A connection that opens channels at once."""

    is_open = True
    #: Whether what is sent now goes out together.
    gathers = False

    @contextmanager
    def together(self):
        self.gathers = True
        yield
        self.gathers = False

    def add_on_connection_blocked_callback(self, callback):
        self.blocked = callback

    def add_on_connection_unblocked_callback(self, callback):
        self.unblocked = callback

    def channel(self, on_open_callback):
        self.opened = Channel()
        on_open_callback(self.opened)


class Desk:
    """A publisher, what it has sent so far, and the broker's side of its channel."""

    def __init__(self):
        self.sent = []
        self.link = Link()
        self.publisher = Publisher(self.link, self._send, 30.0, SimpleNamespace())
        self.connection = None

    def _send(self, _channel, publication):
        assert self.connection.gathers
        self.sent.append((publication.part.message_id, publication.part.part))

    def connect(self):
        if self.connection is not None:
            self.publisher.down()
        self.connection = Connection()
        self.publisher.up(self.connection)

    def take_sent(self):
        sent, self.sent = self.sent, []
        return sent

    def confirm(self, tag, multiple=False):
        method = SimpleNamespace(NAME="Basic.Ack", delivery_tag=tag, multiple=multiple)
        self.connection.opened.confirmed(SimpleNamespace(method=method))

    def give_back(self, publication):
        """The broker finds no queue for a part: it returns it, and confirms it as well."""
        properties = SimpleNamespace(
            message_id=publication.part.message_id, headers={"part": publication.part.part}
        )
        method = SimpleNamespace(exchange=publication.exchange, routing_key=publication.key)
        self.connection.opened.returned(None, method, properties, b"")


def message(name, parts, exchange="results"):
    return [Publication(exchange, "a", Part(name, "update", n, parts, 10, 0, b"")) for n in range(parts)]


@pytest.fixture
def desk():
    made = Desk()
    made.connect()
    return made


def test_a_message_of_which_the_broker_took_all_but_one_part_is_sent_again_whole(desk):
    job = Job([*message("before", 2), *message("m", 3), *message("other", 2)])
    desk.publisher.submit(job)
    desk.connect()
    desk.take_sent()
    desk.give_back(job.publications[3])
    desk.confirm(7, multiple=True)
    assert not job.done.done()
    desk.link.timers[-1]()
    assert desk.take_sent() == [("m", 0), ("m", 1), ("m", 2)]
    desk.confirm(10, multiple=True)
    assert job.done.result(0) is None


def test_of_a_message_whose_last_parts_had_no_queue_only_those_are_sent_again(desk):
    job = Job(message("m", 3))
    desk.publisher.submit(job)
    desk.connect()
    desk.take_sent()
    for part in job.publications[1:]:
        desk.give_back(part)
    desk.confirm(3, multiple=True)
    desk.link.timers[-1]()
    assert desk.take_sent() == [("m", 1), ("m", 2)]


def test_on_a_connection_that_was_never_lost_a_missing_queue_is_an_error(desk):
    job = Job(message("m", 2))
    desk.publisher.submit(job)
    desk.give_back(job.publications[0])
    desk.confirm(2, multiple=True)
    with pytest.raises(UnroutableError):
        job.done.result(0)


def test_a_message_with_a_confirmed_part_behind_an_unconfirmed_one_is_sent_again_whole(desk):
    job = Job([*message("m", 3), *message("other", 2)])
    desk.publisher.submit(job)
    assert desk.take_sent() == [("m", 0), ("m", 1), ("m", 2), ("other", 0), ("other", 1)]
    for tag in (1, 3, 4):
        desk.confirm(tag)
    desk.connect()
    assert desk.take_sent() == [("m", 0), ("m", 1), ("m", 2), ("other", 1)]


def test_what_was_confirmed_in_order_is_not_sent_again(desk):
    job = Job([*message("m", 2), *message("other", 2), *message("m", 2, "elsewhere")])
    desk.publisher.submit(job)
    desk.take_sent()
    desk.confirm(3, multiple=True)
    desk.connect()
    assert desk.take_sent() == [("other", 1), ("m", 0), ("m", 1)]
