"""Queues that RabbitMQ has lost, made anew.

RabbitMQ 3.10 that is killed within a second of making a quorum queue may never bring it back: the queue is
there, and whatever is asked of it gets no answer, nor does anything behind it on the same channel.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from shared.broker._amqp import Channel, Connection
from shared.broker._errand import Errand, remaking
from shared.broker._link import Link
from shared.broker.port import Publication
from shared.errors import WarrenError
from shared.topology import COPIES, Queue

log = logging.getLogger(__name__)

#: How long a queue may take to let a consumer begin before it counts as lost, in seconds.
PROBE_S = 10.0


class Mender:
    """Knows the queues that were declared by this broker object. `mend` is of its link's thread only.

    Quorum queues hold nothing that isn't published again when it is lost; logs are never mended, and what
    has copies on other nodes is left to them.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._queues: dict[tuple[str, str], Queue] = {}

    def remember(self, queues: Iterable[Queue]) -> None:
        """These were declared."""
        for queue in queues:
            if queue.kind == "quorum" and COPIES["quorum"] not in queue.arguments:
                self._queues[queue.exchange, queue.key] = queue

    def mend(self, stuck: Sequence[Publication], then: Callable[[], None]) -> bool:
        """Looks at the queues that these publications go to, on the link's next connection, and makes those
        anew that give no answer. Returns whether there are any to look at; if so, `then` follows."""
        goals = dict.fromkeys((each.exchange, each.key) for each in stuck)
        queues = [self._queues[goal] for goal in goals if goal in self._queues]
        if queues:
            self._link.add(_Probe(self._link, queues, partial(self._remake, then)))
        return bool(queues)

    def _remake(self, then: Callable[[], None], lost: Sequence[Queue]) -> None:
        if not lost:
            then()
            return
        names = ", ".join(queue.name for queue in lost)
        log.warning("the broker gives no answer for %s, which it has lost: making it anew", names)
        errand = Errand(self._link, remaking(lost))
        errand.done.add_done_callback(lambda _: then())
        self._link.add(errand)


class _Probe:
    """Begins a consumer on each queue, on its own channel. A `Resident`; `judge` gets the silent ones."""

    def __init__(self, link: Link, queues: Sequence[Queue], judge: Callable[[Sequence[Queue]], None]) -> None:
        self._link = link
        self._queues = queues
        self._judge = judge
        self._silent = {queue.name: queue for queue in queues}
        self._connection: Connection | None = None

    def up(self, connection: Connection) -> None:
        self._connection = connection
        self._silent = {queue.name: queue for queue in self._queues}
        for queue in self._queues:
            connection.channel(on_open_callback=partial(self._ask, queue.name))
        self._link.later(PROBE_S, partial(self._look, connection))

    def down(self) -> None:
        self._connection = None

    def give_up(self, error: WarrenError) -> None:
        """Nobody waits for it."""

    def _ask(self, queue: str, channel: Channel) -> None:
        channel.add_on_close_callback(lambda *_: self._on_answer(queue))
        channel.basic_qos(prefetch_count=1)
        # What it takes it gives back: its channel is closed at once, or the connection when it is silent.
        channel.basic_consume(queue, lambda *_: None, callback=lambda _: channel.close())

    def _on_answer(self, queue: str) -> None:
        if self._connection is None or not self._connection.is_open:
            return
        self._silent.pop(queue, None)
        if not self._silent:
            self._end()

    def _look(self, connection: Connection) -> None:
        if connection is self._connection:
            self._connection = None
            connection.abort("a queue gave no answer")
            self._end()

    def _end(self) -> None:
        self._connection = None
        self._link.remove(self)
        self._judge(tuple(self._silent.values()))
