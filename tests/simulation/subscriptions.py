"""Follows and consumes at the simulated broker: what is out at whom, and what comes next."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from shared.broker.port import FIRST, NEXT, Delivery, Lost, Part, Sink
from tests.simulation.server import Box, Log, Message

if TYPE_CHECKING:
    from tests.simulation.broker import SimBroker

#: How long the broker takes to see that a process is gone, at most: seconds, on a line and in a folder.
DETECTION_S = 30.0
FOLDER_DETECTION_S = 0.25
#: A log that gives nothing for so long behind a broken line has lost what was read of it.
SILENCE_S = 15.0


class Following:
    """A follower of a log. Nothing is handed out twice, whatever breaks, but when the log loses its end."""

    def __init__(
        self, broker: SimBroker, log: str, start: int, sink: Sink, prefetch: int, lost: Lost | None
    ) -> None:
        self._broker = broker
        self._scheduler = broker.process.scheduler
        self._sink = sink
        self._prefetch = prefetch
        self._lost = lost
        self._out = 0
        self._seen: Part | None = None
        self._doubtful = False
        self._pumping = False
        self._closed = False
        self._log: Log | None = None
        self._next = 0 if start == FIRST else start
        if start == NEXT:
            known = broker.server.logs.get(log)
            self._next = known.parts[-1].offset + 1 if known is not None and known.parts else 0
        broker.server.when_declared(log, lambda: self._attach(broker.server.logs[log]))

    def close(self) -> None:
        self._closed = True
        self._broker.forget(self)
        if self._log is not None and self.pump_soon in self._log.followers:
            self._log.followers.remove(self.pump_soon)

    died = close

    def broke(self) -> None:
        """It goes on when the line is there again, and looks whether the log is what it was."""
        self._doubtful = True
        self.pump_soon()

    def _attach(self, log: Log) -> None:
        if not self._closed:
            self._log = log
            log.followers.append(self.pump_soon)
            self.pump_soon()

    def pump_soon(self) -> None:
        if not self._pumping and not self._closed:
            self._pumping = True
            self._scheduler.after(self._broker.down_for + self._broker.lags(), self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if self._closed or self._log is None:
            return
        if not self._broker.is_up:
            self.pump_soon()
            return
        parts = self._log.parts
        if self._doubtful and not self._is_whole(parts):
            return
        at = bisect_left(parts, self._next, key=lambda part: part.offset)
        room = min(self._prefetch - self._out, len(parts) - at)
        for part in parts[at : at + self._broker.rng.randint(1, room)] if room > 0 else ():
            self._seen = part
            self._next = part.offset + 1
            self._out += 1
            self._sink(Delivery(part, self._acked))
        if self._out < self._prefetch and self._next <= self._last(parts):
            self.pump_soon()

    def _is_whole(self, parts: list[Part]) -> bool:
        """Whether what was handed out last is still there; if not it begins again, or says so."""
        self._doubtful = False
        seen = self._seen
        at = 0 if seen is None else bisect_left(parts, seen.offset, key=lambda part: part.offset)
        if seen is None or (at < len(parts) and parts[at].message_id == seen.message_id):
            return True
        self._seen, self._next = None, 0
        if self._lost is None:
            return True
        self.close()
        # A log that gives nothing at all may be just quiet, for a while.
        lost, patience = self._lost, 0.0 if at < len(parts) else SILENCE_S
        self._scheduler.after(patience, lambda: lost("a log has lost its end"))
        return False

    def _last(self, parts: list[Part]) -> int:
        return parts[-1].offset if parts else -1

    def _acked(self) -> None:
        self._out -= 1
        if self._log is not None and self._next <= self._last(self._log.parts):
            self.pump_soon()


class Consuming:
    """A consumer of a box."""

    def __init__(self, broker: SimBroker, queue: str, sink: Sink, prefetch: int) -> None:
        self._broker = broker
        self._scheduler = broker.process.scheduler
        self._sink = sink
        self._prefetch = prefetch
        self._held: list[Message] = []
        self._settling: list[tuple[Message, Callable[[Message], None]]] = []
        self._closed = False
        self._box: Box | None = None
        broker.server.when_declared(queue, lambda: self._attach(broker.server.boxes[queue]))

    def has_room(self) -> bool:
        return not self._closed and self._broker.is_up and len(self._held) < self._prefetch

    def hand(self, message: Message) -> None:
        self._held.append(message)
        generation = self._broker.generation
        self._scheduler.after(self._broker.lags(), lambda: self._deliver(message, generation))

    def close(self) -> None:
        self._leave(0.0)
        self._broker.forget(self)

    def died(self) -> None:
        self._leave(FOLDER_DETECTION_S if self._broker.atomic else DETECTION_S)

    def broke(self) -> None:
        """What it held goes to others; when the line is there again, more may come."""
        self._give_up(self._broker.rng.uniform(0.0, DETECTION_S))
        self._scheduler.after(self._broker.down_for, self._come_back)

    def _attach(self, box: Box) -> None:
        if not self._closed:
            self._box = box
            box.takers.append(self)
            self._broker.server.serve(box)

    def _come_back(self) -> None:
        if self._box is None or self._closed:
            return
        if self._broker.is_up:
            self._broker.server.serve(self._box)
        else:
            self._scheduler.after(self._broker.down_for, self._come_back)

    def _deliver(self, message: Message, generation: int) -> None:
        if self._closed or generation != self._broker.generation:
            return

        def settle(how: Callable[[Message], None]) -> None:
            # Only on the line that it came on.
            if generation != self._broker.generation or message not in self._held:
                return
            if self._broker.atomic:
                how(message)
            else:
                self._settling.append((message, how))
                self._scheduler.after(self._broker.lags(), lambda: self._settle(message))

        done, back = partial(settle, self._done), partial(settle, self._returned)
        self._sink(Delivery(message.part, done, back, message.returns))

    def _settle(self, message: Message) -> None:
        """What was said of a message has reached the broker."""
        for said in [said for said in self._settling if said[0] is message]:
            self._settling.remove(said)
            said[1](message)

    def _done(self, message: Message) -> None:
        if self._box is not None and message in self._held:
            self._held.remove(message)
            self._box.held -= 1
            self._broker.server.serve(self._box)

    def _returned(self, message: Message) -> None:
        if self._box is not None and message in self._held:
            self._held.remove(message)
            self._broker.server.take_back(self._box, message)

    def _leave(self, delay: float) -> None:
        self._closed = True
        if self._box is not None and self in self._box.takers:
            self._box.takers.remove(self)
        self._give_up(self._broker.rng.uniform(0.0, delay))

    def _give_up(self, delay: float) -> None:
        # What was on its way may have got there, or not: in order, up to some point.
        for message, how in self._settling[: self._broker.rng.randint(0, len(self._settling))]:
            how(message)
        self._settling.clear()
        held, self._held = self._held, []
        if held and self._box is not None:
            box, server = self._box, self._broker.server
            self._scheduler.after(delay, lambda: [server.take_back(box, each) for each in reversed(held)])
