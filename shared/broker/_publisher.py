"""Publishing to RabbitMQ with confirms in flight together, and again after whatever breaks."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from shared.broker._amqp import Channel, Connection, headers_of, number, refusal_of, text_of
from shared.broker._jobs import Job, Line
from shared.broker._link import Link
from shared.broker._mending import Mender
from shared.broker.port import Publication
from shared.errors import UnconfirmedError, UnroutableError, WarrenError
from shared.retry import Pauses

log = logging.getLogger(__name__)

#: How often the broker may leave parts unconfirmed on a connection that stands, before the publish fails;
#: where outages are waited out it never does.
TRIES = 5
#: The patience with confirms doubles with each try, but not more often than this.
DOUBLINGS = 4
#: The slowest line that parts still get through, in bytes a second.
SLOWEST_LINE = 64 * 1024
#: For so long after a lost connection a broker that was started again may not route to its streams yet; and
#: how often it is tried then. Seconds.
RECOVERY_S = 10.0
RECOVERY_PAUSE_S = 0.25

Send = Callable[[Channel, Publication], None]


class Publisher:
    """Publishes one job after another on a channel of its own. A `Resident`; of its link's thread only.

    One job at a time: what the broker answers by closing the channel is then always about that job.
    """

    def __init__(self, link: Link, send: Send, confirm_timeout_s: float, mender: Mender) -> None:
        self._link = link
        self._mender = mender
        self._mending = False
        self._send = send
        self._timeout_s = confirm_timeout_s
        self._jobs: deque[Job] = deque()
        self._pauses = Pauses()
        self._connection: Connection | None = None
        self._line: Line | None = None
        self._blocked = False
        self._was_up = False
        self._recovered_at = 0.0
        self._moved = 0.0
        self._watching = False

    def submit(self, job: Job) -> None:
        """Publishes after the jobs before; its `done` tells how it ended."""
        self._jobs.append(job)
        if len(self._jobs) == 1:
            self._go_on()

    def up(self, connection: Connection) -> None:
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        self._connection = connection
        if self._was_up:
            self._recovered_at = time.monotonic() + RECOVERY_S
        self._was_up = True
        self._open()
        self._go_on()

    def down(self) -> None:
        """A connection that broke is no try: how long to go on without one is for the link to say."""
        self._connection = None
        self._blocked = False
        self._take_up()

    def give_up(self, error: WarrenError) -> None:
        while self._jobs:
            self._fail(error)

    def _open(self) -> None:
        if self._connection is not None and self._connection.is_open and not self._mending:
            self._connection.channel(on_open_callback=self._on_open)

    def _on_open(self, channel: Channel) -> None:
        line = Line(channel)
        channel.add_on_close_callback(partial(self._on_close, line))
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(partial(self._on_confirm, line), callback=lambda _: self._use(line))

    def _use(self, line: Line) -> None:
        if self._line is not None:
            line.channel.close()
            return
        self._line = line
        self._go_on()

    def _go_on(self) -> None:
        """Something moved: the patience with the broker begins anew, and more may be sent."""
        self._moved = time.monotonic()
        self._watch(self._timeout_s)
        if self._connection is not None:
            with self._connection.together():
                self._send_what_fits()

    def _send_what_fits(self) -> None:
        job = self._jobs[0] if self._jobs else None
        while self._line and self._line.channel.is_open and job and job.unsent:
            publication = job.publications[job.unsent[0]]
            nbytes = len(publication.part.body)
            if not self._line.has_room(nbytes):
                return
            self._send(self._line.channel, publication)
            self._line.sent(job.unsent.popleft(), nbytes)

    def _on_confirm(self, line: Line, frame: Any) -> None:
        if line is not self._line:
            return
        if frame.method.NAME == "Basic.Nack":
            self._begin_again("the broker could not store it")
            return
        line.settle(frame.method.delivery_tag, frame.method.multiple)
        self._pauses.reset()
        self._jobs[0].tries = 0
        if self._jobs[0].unsent or line.unconfirmed:
            self._go_on()
        else:
            self._finish()

    def _finish(self) -> None:
        job = self._jobs[0]
        if job.returned:
            self._take_back(job)
            return
        if job.then is not None:
            job.then()
        self._jobs.popleft()
        job.done.set_result(None)
        self._go_on()

    def _on_return(self, _channel: Channel, method: Any, properties: Any, _body: bytes | memoryview) -> None:
        where = method.exchange, method.routing_key
        part = properties.message_id, number(headers_of(properties), "part", 0)
        for index, each in enumerate(self._jobs[0].publications if self._jobs else ()):
            if (each.exchange, each.key) == where and (each.part.message_id, each.part.part) == part:
                self._jobs[0].returned.add(index)

    def _take_back(self, job: Job) -> None:
        """No queue took some of it."""
        if time.monotonic() < self._recovered_at:
            job.send_again(job.returned)
            job.returned.clear()
            self._link.later(RECOVERY_PAUSE_S, self._go_on)
            return
        first = job.publications[min(job.returned)]
        what = f"messages for {first.key!r} at {first.exchange}"
        self._fail(UnroutableError(f"no queue takes {what}: declare it, or check the name"))

    def _on_close(self, line: Line, _channel: Channel, reason: Exception) -> None:
        if line is not self._line or self._connection is None or not self._connection.is_open:
            return  # our own doing, or `down` is next
        refusal = refusal_of(reason)
        if refusal is not None and self._jobs:
            self._line = None
            self._fail(refusal)
            self._open()
        else:
            self._begin_again(text_of(reason))

    def _begin_again(self, why: str) -> None:
        """On another channel, in a while."""
        line = self._line
        self._retry(why)
        if line is not None and line.channel.is_open:
            line.channel.close()
        self._link.later(self._pauses.next(), self._open)

    def _take_up(self) -> None:
        """What was not confirmed on a channel that is gone is to be sent again."""
        line, self._line = self._line, None
        if line is not None and self._jobs:
            self._jobs[0].send_again(index for index, _ in line.unconfirmed.values())

    def _retry(self, why: str) -> None:
        """Is to send again what the broker did not confirm; too often: it failed."""
        self._take_up()
        if not self._jobs:
            return
        self._jobs[0].tries += 1
        tries = self._jobs[0].tries
        if tries >= TRIES and not self._link.waits_outages_out:
            self._fail(UnconfirmedError(f"{why}, in {TRIES} tries: look at the broker's log, then try again"))
        elif tries & (tries - 1) == 0:
            log.warning("%s (%s): sending it again", why, self._names())

    def _fail(self, error: WarrenError) -> None:
        self._jobs.popleft().done.set_exception(error)
        self._go_on()

    def _on_blocked(self, _connection: Connection, frame: Any) -> None:
        self._blocked = True
        log.warning("the broker takes no messages for now (%s): waiting", frame.method.reason)

    def _on_unblocked(self, _connection: Connection, _frame: Any) -> None:
        self._blocked = False
        log.info("the broker takes messages again")
        self._go_on()

    def _watch(self, delay_s: float) -> None:
        if not self._watching and self._jobs and self._connection is not None:
            self._watching = True
            self._link.later(delay_s, self._look)

    def _look(self) -> None:
        """Breaks a connection on which nothing has moved for too long."""
        self._watching = False
        patience_s = self._patience()
        left = self._moved + patience_s - time.monotonic()
        connection = self._connection
        waits = self._blocked or self._mending
        if waits or left > 0 or not self._jobs:
            self._watch(max(left, self._timeout_s if waits else 0.0))
        elif connection is not None:
            self._retry(f"the broker has confirmed nothing for {patience_s:.3g} s")
            self._mend()
            connection.abort("no confirm came in time")

    def _mend(self) -> None:
        """It may be for a lost queue that no confirm comes: that is looked into before more is sent."""
        if self._jobs:
            job = self._jobs[0]
            stuck = [job.publications[index] for index in job.unsent]
            self._mending = self._mender.mend(stuck, self._mended)

    def _mended(self) -> None:
        self._mending = False
        self._moved = time.monotonic()
        self._open()

    def _patience(self) -> float:
        """How long nothing may move, in seconds."""
        doublings = min(self._jobs[0].tries, DOUBLINGS) if self._jobs and self._link.waits_outages_out else 0
        under_way = self._line.under_way if self._line else 0
        return float(self._timeout_s * 2**doublings + under_way / SLOWEST_LINE)

    def _names(self) -> str:
        """Where the job in hand goes, as far as it isn't confirmed."""
        job = self._jobs[0]
        unsent = [job.publications[index] for index in job.unsent]
        goals = dict.fromkeys((each.exchange, each.key) for each in unsent or job.publications)
        exchange, key = next(iter(goals))
        return f"for {key!r} at {exchange}" + (f", and {len(goals) - 1} more" if len(goals) > 1 else "")
