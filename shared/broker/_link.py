"""One connection to RabbitMQ: the thread that owns it, and how it is made again when it is lost.

All that uses the connection runs on the link's thread, which is never left waiting for anything but the
loop. Other threads hand calls in with `run`. What lives on a connection (a publisher, a reader) is a
*resident*: it is told when there is a connection, when it is gone, and when waiting for one is over.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from shared.broker._amqp import Connection, Loop
from shared.errors import BrokerUnreachable, RefusedError, WarrenError
from shared.retry import Pauses, retrying

log = logging.getLogger(__name__)

#: How often the user's stop is looked at while there is no connection.
TICK_S = 0.1
#: A connection that lasts no longer was taken back at once: the next one is made after a pause that grows.
FLAP_S = 0.2
FLAP_PAUSE_S = 1.0
#: How long the broker may take to answer a close.
CLOSE_S = 3.0

#: Begins a connection on a loop; then calls the second argument with it or an error, and, if it was
#: opened, the third with the reason when it ends.
Open = Callable[[Loop, Callable[[Connection | WarrenError], None], Callable[[str], None]], Connection]


@dataclass(frozen=True)
class Door:
    """One of the addresses that a broker, or a cluster of them, can be reached at."""

    where: str
    open: Open


class Resident(Protocol):
    """What lives on a link; called on its thread only."""

    def up(self, connection: Connection) -> None:
        """There is a connection, none of whose channels is open yet."""

    def down(self) -> None:
        """It is gone, with all its channels."""

    def give_up(self, error: WarrenError) -> None:
        """Whoever waits for a connection waits no longer. Another may come all the same."""


class Link:
    """A connection that is made again when it is lost, until `close` or the user's `stop`.

    Its doors are tried in turn: at first from any one on, then from the one behind the last that opened.
    `patience_s`: how long those who need a connection wait for one; None: as long as it takes. `ready` is
    done when there was a first connection, or the first wait for one is over.
    """

    def __init__(
        self, loop: Loop, doors: Sequence[Door], patience_s: float | None, stop: threading.Event
    ) -> None:
        self.where = doors[0].where
        self.ready: Future[None] = Future()
        self._loop = loop
        self._doors = doors
        self._next_door = random.randrange(len(doors))
        self._patience_s = patience_s
        self._stop = stop
        self._over = threading.Event()
        self._since = time.monotonic()
        self._residents: list[Resident] = []
        self._connection: Connection | None = None
        self._lost: str | None = None
        self._flaps = Pauses()
        self._ended = False
        self._ending = threading.Lock()
        self._thread = threading.Thread(target=self._live, name=f"broker {self.where}", daemon=True)

    def start(self) -> None:
        """Begins to connect."""
        self._thread.start()

    def run(self, call: Callable[[], None]) -> None:
        """Calls on the link's thread: at once when this is it, else soon.

        Raises:
            BrokerUnreachable: the link has ended, and nothing will be called.
        """
        if self.is_mine():
            call()
            return
        with self._ending:
            if self._ended:
                raise self._closed()
            self._loop.add_callback_threadsafe(call)

    def is_mine(self) -> bool:
        """Whether this is the link's own thread."""
        return threading.current_thread() is self._thread

    def later(self, delay_s: float, call: Callable[[], None]) -> Callable[[], None]:
        """Calls after a while, on the link's thread; returns how to prevent it. Of that thread only."""
        handle = self._loop.call_later(delay_s, call)
        return lambda: self._loop.remove_timeout(handle)

    def add(self, resident: Resident) -> None:
        """Of the link's thread only."""
        self._residents.append(resident)
        if self._connection is not None:
            resident.up(self._connection)

    def wait_out(self) -> None:
        """From now on those who need a connection wait for one as long as it takes."""
        self._patience_s = None

    @property
    def waits_outages_out(self) -> bool:
        """Whether those who need a connection wait as long as it takes."""
        return self._patience_s is None

    def remove(self, resident: Resident) -> None:
        """Of the link's thread only."""
        if resident in self._residents:
            self._residents.remove(resident)

    def close(self) -> None:
        """Closes the connection; returns when its thread is through, unless that is this one."""
        self._over.set()
        try:
            self.run(self._hang_up)
        except BrokerUnreachable:
            return
        if not self.is_mine():
            self._thread.join()

    def _live(self) -> None:
        try:
            while not self._over.is_set():
                policy = retrying(BrokerUnreachable, RefusedError, stop=self._over, sleep=self._idle)
                self._serve(policy(self._attempt))
        except WarrenError as error:
            log.debug("no more connections to %s: %s", self.where, error)
        finally:
            self._end()

    def _attempt(self) -> Connection:
        try:
            return self._dial_any()
        except WarrenError as error:
            if isinstance(error, RefusedError) or self._patience() <= 0:
                self._give_up(error)
            raise

    def _dial_any(self) -> Connection:
        """A new connection, through the first door that opens.

        Raises:
            BrokerUnreachable: nobody answers, or the link is to end.
            RefusedError: the broker doesn't let us in.
        """
        errors: dict[str, WarrenError] = {}
        for _ in self._doors:
            door = self._doors[self._next_door]
            self._next_door = (self._next_door + 1) % len(self._doors)
            try:
                return self._dial(door)
            except (BrokerUnreachable, RefusedError) as error:
                errors[door.where] = error
            if self._over.is_set():
                break
        raise _summary([errors[door.where] for door in self._doors if door.where in errors])

    def _dial(self, door: Door) -> Connection:
        """A new connection through one door.

        Raises:
            BrokerUnreachable: nobody answers, or the link is to end.
            RefusedError: the broker doesn't let us in.
        """
        outcome: list[Connection | WarrenError] = []

        def settle(result: Connection | WarrenError) -> None:
            outcome.append(result)
            self._loop.stop()

        self._lost = None
        self.where = door.where
        connection = door.open(self._loop, settle, self._lose)
        self._run_until(lambda: bool(outcome) or self._over.is_set())
        if not outcome:
            connection.abort("no longer wanted")
            raise self._closed()
        if isinstance(outcome[0], WarrenError):
            raise outcome[0]
        return outcome[0]

    def _serve(self, connection: Connection) -> None:
        """Lets the residents use a connection until it ends."""
        if self.ready.done():
            log.info("connected to the broker at %s again", self.where)
        else:
            self.ready.set_result(None)
        began = time.monotonic()
        if self._lost is None:
            self._connection = connection
            for resident in tuple(self._residents):
                resident.up(connection)
        while self._lost is None:
            self._loop.start()
        if not self._over.is_set():
            log.warning(
                "lost the connection to the broker at %s (%s): connecting again", self.where, self._lost
            )
            if self._since - began < FLAP_S:
                self._idle(min(self._flaps.next(), FLAP_PAUSE_S))
            else:
                self._flaps.reset()

    def _lose(self, reason: str) -> None:
        """Tells the residents before anything else can run on a connection that is gone."""
        self._lost = reason
        self._connection = None
        self._since = time.monotonic()
        for resident in tuple(self._residents):
            resident.down()
        self._loop.stop()

    def _idle(self, seconds: float) -> None:
        """Runs the loop for a while without a connection, or until patience ends."""
        until = time.monotonic() + min(seconds, max(self._patience(), TICK_S))
        self._run_until(lambda: self._over.is_set() or time.monotonic() >= until)

    def _run_until(self, done: Callable[[], bool]) -> None:
        while not done():
            tick = self._loop.call_later(TICK_S, self._loop.stop)
            self._loop.start()
            self._loop.remove_timeout(tick)
            if self._stop.is_set():
                self._over.set()

    def _patience(self) -> float:
        """Seconds for which those who wait for a connection still wait."""
        if self._patience_s is None:
            return float("inf")
        return self._since + self._patience_s - time.monotonic()

    def _hang_up(self) -> None:
        self._loop.stop()
        connection = self._connection
        if connection is not None and connection.is_open:
            connection.close()
            self.later(CLOSE_S, lambda: connection.abort("the broker didn't answer the close"))

    def _end(self) -> None:
        with self._ending:
            self._ended = True
        self._loop.process_timeouts()  # what was handed in before
        self._give_up(self._closed())
        self._loop.close()

    def _give_up(self, error: WarrenError) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)
        for resident in tuple(self._residents):
            resident.give_up(error)

    def _closed(self) -> BrokerUnreachable:
        return BrokerUnreachable(f"the connection to the broker at {self.where} was closed: connect again")


def _summary(errors: Sequence[WarrenError]) -> WarrenError:
    """The error for doors that all stay shut; of the first refusal, if there is any. The same each time,
    wherever the round through the doors began."""
    worst = next((error for error in errors if isinstance(error, RefusedError)), errors[0])
    if len(errors) == 1:
        return worst
    return type(worst)(f"none of the broker's {len(errors)} hosts lets us in; of one of them: {worst}")
