"""Followers of RabbitMQ's streams: each part once and in order, through lost connections."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.broker._amqp import Channel, headers_of, number, part_of
from shared.broker._link import Link
from shared.broker._readers import Reader
from shared.broker.port import FIRST, NEXT, Delivery, Lost, Part, Sink
from shared.errors import BrokerUnreachable

log = logging.getLogger(__name__)

#: How far our clock may be ahead of the broker's. A follower from NEXT that has to wait for its log, or loses
#: its connection before it saw anything, goes on so long before its attach.
CLOCK_SKEW = timedelta(seconds=60)
#: What is settled is acked together, when half of the prefetch is; or after so long, in seconds, since the
#: broker takes a delivery that stays unacked for a lost one.
ACK_S = 1.0
#: A stream that was attached to again where it was read to gives its last part once more; one that gives
#: nothing for so long, in seconds, no longer has it.
SILENCE_S = 15.0


class _Handed:
    """A delivery that was handed out: on which channel, as which, and whether it is settled."""

    __slots__ = ("channel", "settled", "tag")

    def __init__(self, channel: Channel, tag: int) -> None:
        self.channel = channel
        self.tag = tag
        self.settled = False


class Follower(Reader):
    """Reads a stream, on a link that it has for itself: streams answer what a client does to unacked
    deliveries at its end by breaking the connection.

    An offset that the log hasn't reached is waited for: nothing is handed out until it gets there.
    Attached once more, it looks whether the part that was handed out last is still there: a broker that lost
    the end of a log would hand out nothing behind it, even when the log has grown past there again.
    """

    def __init__(
        self, link: Link, log_name: str, start: int, sink: Sink, prefetch: int, lost: Lost | None = None
    ) -> None:
        super().__init__(link, log_name, sink, prefetch)
        self._lost = lost
        self._last = ""
        self._checking: Channel | None = None
        self._floor = max(start, 0)
        self._seen = False
        # The broker sends what was published in one go in one go, whatever the prefetch.
        self._behind: deque[tuple[Channel, int, Part]] = deque()
        self._handed: deque[_Handed] = deque()
        self._settled: deque[_Handed] = deque()
        self._waiting_to_ack = False
        self._pumping = False
        self._start_at: object = {FIRST: "first", NEXT: "next"}.get(start, start)

    def close(self) -> None:
        super().close()
        self._link.close()

    def _arguments(self) -> dict[str, object]:
        # Not the floor itself: behind the tail of a log there is nothing to attach to.
        return {"x-stream-offset": self._floor - 1 if self._seen else self._start_at}

    def _start(self) -> None:
        if self._start_at == "next":
            # From now on all counts, also in a log that isn't there yet.
            self._start_at = datetime.now(UTC) - CLOCK_SKEW
        super()._start()

    def _on_consuming(self) -> None:
        super()._on_consuming()
        channel = self._channel
        if self._seen and channel is not None:
            self._checking = channel
            self._link.later(SILENCE_S, lambda: self._on_silence(channel))

    def _on_silence(self, channel: Channel) -> None:
        if self._checking is channel is self._channel:
            self._on_lost()

    def _is_still_there(self, offset: int, message_id: str) -> bool:
        """Whether what the log gives at first agrees with what was handed out last, as far as it shows."""
        self._checking = None
        return offset != self._floor - 1 or message_id == self._last

    def _on_lost(self) -> None:
        """The broker lost what was handed out."""
        text = f"{self._queue} lost its end, which was read to offset {self._floor - 1}"
        self._checking = None
        self._behind.clear()
        if self._lost is None:
            log.warning("%s: reading it from its beginning", text)
            self._on_deleted()
            if self._connection is not None:
                self._connection.abort("its log lost its end")
        else:
            self._link.remove(self)
            self._channel, tell = None, self._lost
            tell(text)

    def _take(self, channel: Channel, method: Any, properties: Any, body: bytes | memoryview) -> None:
        offset = number(headers_of(properties), "x-stream-offset", -1)
        if self._checking is channel and not self._is_still_there(offset, properties.message_id):
            self._on_lost()
            return
        self._behind.append((channel, method.delivery_tag, part_of(properties, body, offset)))
        self._pump()

    def _pump(self) -> None:
        if self._pumping:
            return  # a sink acked at once
        self._pumping = True
        while self._behind and self._has_room() and self._gone is None:
            self._pass_on(*self._behind.popleft())
        self._pumping = False

    def _pass_on(self, channel: Channel, tag: int, part: Part) -> None:
        if not channel.is_open:
            return  # it comes again
        if part.offset < 0:  # its headers are unreadable; it isn't before this
            part = replace(part, offset=self._floor)
        if part.offset < self._floor:
            channel.basic_ack(tag)
            return
        self._floor, self._seen, self._last = part.offset + 1, True, part.message_id
        handed = _Handed(channel, tag)
        self._handed.append(handed)
        if not self._waiting_to_ack:
            self._waiting_to_ack = True
            self._link.later(ACK_S, self._ack_in_time)
        self._hand_out(Delivery(part, lambda: self._settle(handed)))

    def _settle(self, handed: _Handed) -> None:
        """Of any thread: another one is woken only if there is something to do now."""
        if handed.settled:
            return
        handed.settled = True
        self._settled.append(handed)
        if self._behind or len(self._settled) >= self._prefetch // 2:
            try:
                self._link.run(self._make_room)
            except BrokerUnreachable:
                log.debug("a delivery of a connection that is gone was settled")

    def _make_room(self) -> None:
        self._ack()
        self._pump()

    def _has_room(self) -> bool:
        if len(self._handed) >= self._prefetch:
            self._ack()
        return len(self._handed) < self._prefetch

    def _ack(self) -> None:
        """Acks what is settled: at one go what nothing unsettled comes before."""
        self._settled.clear()
        last = None
        while self._handed and self._handed[0].settled:
            last = self._handed.popleft()
        if last is not None and last.channel.is_open:
            last.channel.basic_ack(last.tag, multiple=True)
        for handed in [each for each in self._handed if each.settled]:
            self._handed.remove(handed)
            if handed.channel.is_open:
                handed.channel.basic_ack(handed.tag)

    def _ack_in_time(self) -> None:
        self._waiting_to_ack = False
        self._make_room()
        if self._handed and not self._waiting_to_ack:
            self._waiting_to_ack = True
            self._link.later(ACK_S, self._ack_in_time)

    def _end(self, channel: Channel) -> None:
        if self._gone is not None:
            self._gone.set_result(None)  # the connection ends next

    def _on_deleted(self) -> None:
        self._floor, self._seen, self._start_at = 0, False, "first"
