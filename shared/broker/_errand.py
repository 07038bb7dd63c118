"""Things to ask of RabbitMQ in one go, such as declares; asked again after a lost connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future

from shared.broker._amqp import Channel, Connection, is_down, refusal_of, text_of
from shared.broker._link import Link
from shared.errors import UnconfirmedError, WarrenError
from shared.retry import Complaint, Pauses
from shared.topology import Exchange, Queue

#: How often it is asked, and how long an answer may take (a quorum queue takes its time to begin).
TRIES = 5
TIMEOUT_S = 60.0

Steps = Callable[[Channel], None]


class Errand:
    """Steps without answers on a channel of their own, and one answer after the last. A `Resident`."""

    def __init__(self, link: Link, steps: Steps) -> None:
        self.done: Future[None] = Future()
        self._link = link
        self._steps = steps
        self._pauses = Pauses()
        self._complaint = Complaint()
        self._tries = 0
        self._connection: Connection | None = None

    def up(self, connection: Connection) -> None:
        self._connection = connection
        self._open()

    def down(self) -> None:
        self._connection = None

    def give_up(self, error: WarrenError) -> None:
        self._link.remove(self)
        self.done.set_exception(error)

    def _open(self) -> None:
        connection = self._connection
        if connection is None or not connection.is_open or self.done.done():
            return
        connection.channel(on_open_callback=self._on_open)
        tries = self._tries
        self._link.later(TIMEOUT_S, lambda: self._look(connection, tries))

    def _on_open(self, channel: Channel) -> None:
        channel.add_on_close_callback(self._on_close)
        self._steps(channel)
        channel.basic_qos(prefetch_count=1, callback=lambda _: self._on_answer(channel))

    def _on_answer(self, channel: Channel) -> None:
        self._link.remove(self)
        channel.close()
        if not self.done.done():
            self.done.set_result(None)

    def _on_close(self, _channel: Channel, reason: Exception) -> None:
        if self.done.done() or self._connection is None or not self._connection.is_open:
            return  # our own doing, or there will be another connection
        refusal = refusal_of(reason)
        self._tries += 1
        waits = is_down(reason) and self._link.waits_outages_out
        # A queue that is there, and not ready after a restart, is a 404 too.
        if refusal is not None and not is_down(reason) and "no queue" not in text_of(reason):
            self.give_up(refusal)
        elif self._tries >= TRIES and not waits:
            self.give_up(UnconfirmedError(f"the broker does not do it: {refusal or text_of(reason)}"))
        else:
            if waits:
                self._complaint.say(str(refusal))
            self._link.later(self._pauses.next(), self._open)

    def _look(self, connection: Connection, tries: int) -> None:
        if not self.done.done() and connection is self._connection and tries == self._tries:
            connection.abort("the broker didn't answer")


def run(link: Link, steps: Steps) -> None:
    """Takes the steps, and waits until they are taken; not on the link's own thread.

    Raises:
        BrokerError: the broker refuses, or doesn't do it in any of the tries.
        BrokerUnreachable: there is no connection.
    """
    errand = Errand(link, steps)
    link.run(lambda: link.add(errand))
    errand.done.result()


def declaring(exchanges: Iterable[Exchange], queues: Iterable[Queue]) -> Steps:
    """Makes exchanges and queues, and binds each queue."""
    made, filled = tuple(exchanges), tuple(queues)

    def steps(channel: Channel) -> None:
        for exchange in made:
            channel.exchange_declare(exchange.name, exchange.kind, durable=True)
        for queue in filled:
            arguments = {"x-queue-type": queue.kind, **queue.arguments}
            channel.queue_declare(queue.name, durable=True, arguments=arguments)
            channel.queue_bind(queue.name, queue.exchange, queue.key)

    return steps


def finding(queue: str) -> Steps:
    """Fails if there is no such queue."""
    return lambda channel: channel.queue_declare(queue, passive=True)


def remaking(queues: Iterable[Queue]) -> Steps:
    """Removes queues with all that they hold, and makes them anew."""
    made = tuple(queues)
    make = declaring((), made)

    def steps(channel: Channel) -> None:
        for queue in made:
            channel.queue_delete(queue.name)
        make(channel)

    return steps


def deleting(names: Iterable[str]) -> Steps:
    """Removes what has one of the names, exchange or queue."""
    doomed = tuple(names)

    def steps(channel: Channel) -> None:
        for name in doomed:
            channel.queue_delete(name)
            channel.exchange_delete(name)

    return steps
