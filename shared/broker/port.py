"""What Warren asks of a broker; `rabbit.py` and `embedded.py` are the two that answer.

Semantics, the same for both and held by `tests/contract/`:

- A *log* (a stream queue) keeps every part in order, each at an offset. Offsets grow and are **not**
  contiguous. Any number of followers read it from any offset on; reading removes nothing.
- A log with limits loses its oldest parts, a segment at a time, so it may hold that much more for a while;
  it never loses the newest. Who reads from a dropped offset on gets the first kept part: it may be one from
  the middle of a message.
- A *queue* hands each message to one consumer, which acks it, or gives it back. What a consumer held when
  it died goes to another, at most DELIVERY_LIMIT times; then, and when its time is over, it is a dead letter.
- `publish` returns when every part is safe at the broker. If the connection breaks on the way it is made
  again and all unconfirmed parts are sent once more (a message whole, if the broker took a later part of
  it): a reader may see a part twice and before an earlier one, never none.
- Deliveries arrive on the adapter's own thread, through a sink that must not block (`SimpleQueue.put`).
  How many are out at one time is bounded by `prefetch`; `Delivery.ack` makes room for more, on a log too.
- Subscriptions outlive a lost connection: a log's goes on behind the last part it handed out; a queue's is
  given again what was not acked. An ack for a delivery of a connection that is gone does nothing.
"""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from shared.topology import Exchange, Queue

#: Where to begin with a log: an offset, or its first kept part, or whatever comes after the attach.
FIRST = -1
NEXT = -2


@dataclass(frozen=True, slots=True)
class Part:
    """One broker message: a whole message of ours, or one piece of it.

    `message_id` is unique for each publish of a message; its parts share it and are numbered `part` of
    `parts`. `nbytes` is the whole message's length, `crc32` that of this body. `user_id` is the login that
    published, as the broker checked it ("" when it did not); `offset` is the place in a log, -1 in a queue.
    """

    message_id: str
    kind: str
    part: int
    parts: int
    nbytes: int
    crc32: int
    body: bytes | memoryview
    user_id: str = ""
    offset: int = -1

    @classmethod
    def single(cls, kind: str, body: bytes) -> Part:
        """A message that is one part, with a fresh id."""
        return cls(new_id(), kind, 0, 1, len(body), zlib.crc32(body), body)


@dataclass(frozen=True, slots=True)
class Publication:
    """A part, the exchange and key it goes to, and after how long unread it is dead (None: never)."""

    exchange: str
    key: str
    part: Part
    expires_s: float | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A part that was handed out, with the channel-bound ways to settle it.

    `ack` and `give_back` may be called from any thread, once; they do nothing when the connection that
    delivered it is gone. `redelivered` counts earlier deliveries where the broker tells (0 on a log).
    """

    part: Part
    ack: Callable[[], None]
    give_back: Callable[[], None] = field(default=lambda: None)
    redelivered: int = 0


Sink = Callable[[Delivery], None]
#: Is told in one sentence that a log lost its end.
Lost = Callable[[str], None]


class Subscription(Protocol):
    """A running follow or consume."""

    def close(self) -> None:
        """Ends it; what was handed out and not acked goes back. Returns when no more reaches the sink."""


class Broker(Protocol):
    """A login at a broker. Usable from any thread; one process needs one."""

    def publish(
        self, publications: Sequence[Publication], *, then_ack: Delivery | None = None, locate: bool = False
    ) -> int:
        """Publishes in order, with confirms in flight together, and acks `then_ack` after the last confirm.

        Returns: with `locate`, an offset at or before the first publication's part in its log; else -1.

        Raises:
            NotDeclaredError: an exchange is missing.
            UnroutableError: no queue takes a part.
            RefusedError: permissions or limits forbid it.
            UnconfirmedError: no confirm came, in any of the retries.
            BrokerUnreachable: no connection within the adapter's patience.
        """

    def follow(
        self, log: str, start: int, sink: Sink, *, prefetch: int = 8, lost: Lost | None = None
    ) -> Subscription:
        """Hands out a log's parts from `start` (an offset, FIRST or NEXT) on, then live.

        With NEXT, everything published after this call returned is handed out. Waits for a log that is not
        declared yet. A log that no longer holds what was handed out of it, since the broker lost its end, is
        handed out from its first part again; or, with `lost`, that is called once, from the sink's thread,
        and nothing more is handed out.
        """

    def consume(self, queue: str, sink: Sink, *, prefetch: int = 1) -> Subscription:
        """Hands out a queue's messages. Waits, and says so, for a queue that is not declared yet."""

    def declare(self, exchanges: Iterable[Exchange], queues: Iterable[Queue]) -> None:
        """Makes what is missing; what is there already stays as it is.

        Raises:
            RefusedError: it is there with other arguments, or the login may not declare.
        """

    def delete(self, names: Iterable[str]) -> None:
        """Removes exchanges and queues, with all they hold; a name that is not there is no error."""

    def close(self) -> None:
        """Ends all subscriptions and the connections."""


@runtime_checkable
class Measured(Protocol):
    """A broker that can say how much its logs hold; RabbitMQ doesn't tell its clients."""

    def held(self, log: str) -> int:
        """The bytes in a log, as its limit counts them; 0 for one that isn't there."""


@runtime_checkable
class Checked(Protocol):
    """A broker that can check what it keeps its logs in, whatever they hold."""

    def damage(self) -> list[str]:
        """What is wrong with it, in words; empty if nothing is."""


def new_id() -> str:
    """A message id: 96 random bits, in hex."""
    return secrets.token_hex(12)
