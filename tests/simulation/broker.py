"""The simulated broker as a process sees it: `shared.broker.port.Broker` over a line that lags and breaks.

Parts travel for a while, and so do their confirms. When a line breaks, what was sent may be there or not,
what was not confirmed is sent once more, and what was handed out of a box goes back to it. With `atomic`
(the embedded broker) a publish is one transaction, and there is no line to break.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from shared.broker.port import Delivery, Lost, Publication, Sink
from shared.errors import BrokerError
from shared.topology import Exchange, Queue
from tests.simulation.process import Process
from tests.simulation.scheduler import Scheduler, Strand
from tests.simulation.server import Server
from tests.simulation.subscriptions import Consuming, Following

#: What a line takes to be made again, at most.
RECONNECT_S = 1.0
#: Parts arrive in order, so far apart at the least.
SPACING_S = 1e-6
#: How long a part of a large message takes, at most.
LARGE_S = 2.0


class Lags:
    """How long things take on their way, in seconds: mostly little, at times long, until all is calm."""

    def __init__(
        self, scheduler: Scheduler, slow: float, slowest_s: float, calm_at: float, large: float
    ) -> None:
        """`slow`: the part of messages that take up to `slowest_s`, until `calm_at`; `large`: that of
        publishes whose every part takes up to LARGE_S."""
        self.large = large
        self._scheduler = scheduler
        self._random = scheduler.rng.random
        self._slow = slow
        self._slowest_s = slowest_s
        self._calm_at = calm_at

    def __call__(self) -> float:
        if self._slow and self._scheduler.now < self._calm_at and self._random() < self._slow:
            return self._slowest_s * self._random()
        return 0.02 * self._random() ** 3


class Flight:
    """Parts of one publish on their way: those that `wanted` names, by index."""

    def __init__(self, wanted: Sequence[int]) -> None:
        self.unconfirmed = list(wanted)
        self.underway = list(wanted)
        self.error: BrokerError | None = None
        self.over = False
        self.waiter: tuple[Strand, int] | None = None

    def wake_up(self, strand: Strand, wait: int) -> None:
        """Whom to wake at its end."""
        self.waiter = strand, wait

    def end(self) -> None:
        """It is over for its publisher, who goes on."""
        if not self.over:
            self.over = True
            if self.waiter is not None:
                self.waiter[0].wake_soon(self.waiter[1])


class SimBroker:
    """A login at the simulated broker, of one process. Its line dies with the process."""

    def __init__(
        self, server: Server, process: Process, login: str, rng: Random, lags: Lags, *, atomic: bool
    ) -> None:
        self.server = server
        self.process = process
        self.rng = rng
        self.lags = lags
        self.atomic = atomic
        self.generation = 0
        self._login = login
        self._up_at = 0.0
        self._flights: list[Flight] = []
        self._subscriptions: list[Following | Consuming] = []
        process.at_death.append(self._die)

    # --- the port

    def publish(
        self, publications: Sequence[Publication], *, then_ack: Delivery | None = None, locate: bool = False
    ) -> int:
        what = publications[0].part.kind if publications else "nothing"
        self.process.step(f"publish {what}")
        offsets: list[int] = []
        unsent = list(range(len(publications)))
        while unsent:
            self._wait_for_line()
            flight = Flight(unsent)
            send = self._send_at_once if self.atomic else self._send
            send(flight, publications, offsets, then_ack)
            self.process.wait(None, flight.wake_up)
            if flight.error is not None:
                raise flight.error
            unsent = flight.unconfirmed
        if then_ack is not None and not (self.atomic and publications):
            then_ack.ack()
        self.process.step(f"published {what}")
        return min(offsets) if locate else -1

    def follow(
        self, log: str, start: int, sink: Sink, *, prefetch: int = 8, lost: Lost | None = None
    ) -> Following:
        self.process.step(f"follow {log}")
        self._round_trip()
        following = Following(self, log, start, sink, prefetch, lost)
        self._subscriptions.append(following)
        return following

    def consume(self, queue: str, sink: Sink, *, prefetch: int = 1) -> Consuming:
        self.process.step(f"consume {queue}")
        self._round_trip()
        consuming = Consuming(self, queue, sink, prefetch)
        self._subscriptions.append(consuming)
        return consuming

    def declare(self, exchanges: Iterable[Exchange], queues: Iterable[Queue]) -> None:
        self.process.step("declare")
        self._round_trip()
        self.server.declare(exchanges, queues)
        self._round_trip()
        self.process.step("declared")

    def delete(self, names: Iterable[str]) -> None:
        self._round_trip()
        self.server.delete(names)

    def close(self) -> None:
        for subscription in tuple(self._subscriptions):
            subscription.close()

    # --- the line

    @property
    def is_up(self) -> bool:
        return self.process.scheduler.now >= self._up_at

    @property
    def down_for(self) -> float:
        """How long until the line is up again, in seconds."""
        return max(self._up_at - self.process.scheduler.now, 0.0)

    def cut(self, seconds: float) -> None:
        """Breaks the line, which is made again after so long at the earliest."""
        if self.atomic or not self.process.alive:
            return
        now = self.process.scheduler.now
        self._up_at = max(self._up_at, now + seconds + self.rng.uniform(0.0, RECONNECT_S))
        self.generation += 1
        self.process.scheduler.note(
            self.process.name, f"line to the broker cut for {self._up_at - now:.2f} s"
        )
        self._break_flights()
        for subscription in self._subscriptions:
            subscription.broke()

    def forget(self, subscription: Following | Consuming) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def _die(self) -> None:
        self._break_flights()
        for subscription in tuple(self._subscriptions):
            subscription.died()

    def _break_flights(self) -> None:
        for flight in self._flights:
            # What the socket had taken already may still get there, also later: in order, up to some part.
            sent = self.rng.randint(0, len(flight.underway))
            del flight.underway[sent:]
            flight.end()
        self._flights.clear()

    def _wait_for_line(self) -> None:
        while self.down_for:
            self.process.wait(self.down_for)

    def _round_trip(self) -> None:
        self._wait_for_line()
        self.process.wait(self.lags())

    # --- a publish on its way

    def _send(
        self, flight: Flight, publications: Sequence[Publication], offsets: list[int], _ack: Delivery | None
    ) -> None:
        scheduler = self.process.scheduler
        self._flights.append(flight)
        arrives = self.lags()
        confirmed = 0.0
        spacing = self.rng.uniform(0.0, LARGE_S) if self.rng.random() < self.lags.large else SPACING_S
        for index in tuple(flight.underway):
            arrives += self.lags() / 4 + spacing
            confirmed = max(confirmed, arrives + self.lags() + SPACING_S)
            scheduler.after(arrives, lambda i=index: self._arrive(flight, i, publications[i], offsets))
            scheduler.after(confirmed, lambda i=index: self._confirm(flight, i))

    def _arrive(self, flight: Flight, index: int, publication: Publication, offsets: list[int]) -> None:
        if index not in flight.underway:
            return
        flight.underway.remove(index)
        if flight.error is not None:
            return
        try:
            offsets.append(self.server.take(publication, self._login))
        except BrokerError as error:
            flight.error = error
            self.process.scheduler.after(self.lags(), lambda: self._over(flight))

    def _confirm(self, flight: Flight, index: int) -> None:
        if flight.over or flight.error is not None:
            return
        flight.unconfirmed.remove(index)
        if not flight.unconfirmed:
            self._over(flight)

    def _over(self, flight: Flight) -> None:
        if flight in self._flights:
            self._flights.remove(flight)
        flight.end()

    def _send_at_once(
        self, flight: Flight, publications: Sequence[Publication], offsets: list[int], ack: Delivery | None
    ) -> None:
        def commit() -> None:
            if not self.process.alive:
                return
            try:
                for index in flight.unconfirmed:
                    offsets.append(self.server.take(publications[index], self._login))
                flight.unconfirmed.clear()
                if ack is not None:
                    ack.ack()
            except BrokerError as error:
                flight.error = error
            self.process.scheduler.after(self.lags(), flight.end)

        self.process.scheduler.after(self.lags(), commit)
