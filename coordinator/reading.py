"""Reading a log up to its end, which only a mark of one's own can show."""

from __future__ import annotations

import logging
import queue
from collections.abc import Iterator
from math import inf

from shared import codec
from shared.broker.port import FIRST, Broker, Delivery, Part, Publication, new_id
from shared.errors import BrokerUnreachable
from shared.messages import Mark
from shared.runtime import THREADS, Inbox, Runtime

log = logging.getLogger(__name__)

#: A log that hands out nothing for so long, though our mark lies in it, has lost data behind our back.
SILENCE_S = 60.0


def read_log(
    broker: Broker,
    exchange: str,
    federation: str,
    start: int,
    runtime: Runtime = THREADS,
    *,
    silence_s: float = SILENCE_S,
) -> Iterator[Part]:
    """The parts of the exchange's log from `start` on, up to where it ended when this was called.

    Raises:
        BrokerUnreachable: the log stays silent before its end.
    """
    mark, end = publish_mark(broker, exchange, federation, locate=start > FIRST)
    if end < start:
        # Behind a log's end nothing is handed out, even when it grows past there.
        log.warning("%s.log ends at %d and was known to reach %d: reading all of it", exchange, end, start)
        start = FIRST
    yield from read_until(broker, f"{exchange}.log", start, mark, runtime, silence_s=silence_s)


def publish_mark(broker: Broker, exchange: str, federation: str, *, locate: bool = False) -> tuple[str, int]:
    """Appends a mark to the exchange's log; returns its message id and, with `locate`, its offset."""
    part = Part.single(Mark.KIND, codec.encode(Mark(federation, new_id()).to_header()))
    return part.message_id, broker.publish([Publication(exchange, Mark.KIND, part)], locate=locate)


def read_until(
    broker: Broker,
    name: str,
    start: int,
    message_id: str,
    runtime: Runtime = THREADS,
    *,
    silence_s: float = SILENCE_S,
    prefetch: int = 8,
) -> Iterator[Part]:
    """The parts of a log from `start` on, up to and without the message with that id.

    Raises:
        BrokerUnreachable: the log stays silent before it.
    """
    inbox: Inbox[Delivery] = runtime.inbox()
    subscription = broker.follow(name, start, inbox.put, prefetch=prefetch)
    try:
        while True:
            try:
                delivery = inbox.get(timeout=silence_s)
            except queue.Empty:
                raise BrokerUnreachable(
                    f"{name} gave nothing for {silence_s:g} s though its end was not reached: the broker may "
                    f"have lost data; check it, or start anew with --fresh"
                ) from None
            if delivery.part.message_id == message_id:
                return
            yield delivery.part
            delivery.ack()
    finally:
        subscription.close()


class Marks:
    """What a follower waits for to know that it has read an exchange's log to its end."""

    def __init__(self, broker: Broker, exchange: str, federation: str, runtime: Runtime) -> None:
        self._broker = broker
        self._exchange = exchange
        self._federation = federation
        self._runtime = runtime
        self._ids: set[str] = set()
        self._published_at = 0.0

    def publish(self) -> int:
        """Marks where the log ends now, and returns that offset."""
        mark, end = publish_mark(self._broker, self._exchange, self._federation, locate=True)
        self._ids.add(mark)
        self._published_at = self._runtime.monotonic()
        return end

    def renew(self) -> None:
        """Publishes one more if none came for long: the broker may have lost it, and nothing would go on."""
        if self._ids and self._runtime.monotonic() > self._published_at + SILENCE_S:
            self.publish()

    @property
    def patience_s(self) -> float:
        """How long it may take until `renew` has something to do."""
        return SILENCE_S if self._ids else inf

    def reached(self, part: Part) -> bool:
        """Whether the part is one of them; after the first none is waited for any more."""
        if part.message_id not in self._ids:
            return False
        self._ids.clear()
        return True
