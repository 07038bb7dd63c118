"""Every name at the broker, and the arguments it is declared with.

A redeclare with other arguments is refused by RabbitMQ, so arguments are constants (to change one, change the
name's suffix), but for the limits of logs and the number of copies, which are part of the federation's
configuration. Exchanges and
queues never share a name: with one name for both, a site that may read a stream and write an exchange could
bind one to the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from shared.errors import ConfigError

SLUG = re.compile(r"[a-z0-9-]{1,40}")
#: Presence older than this says nothing any more; milliseconds, as RabbitMQ takes it.
PRESENCE_TTL_MS = 30_000
PRESENCE_MAX_MESSAGES = 10_000
#: How often an assignment may be handed out before it counts as poison.
DELIVERY_LIMIT = 10
#: The largest segment of a log; retention drops whole segments, and never the newest.
SEGMENT_BYTES = 100_000_000
#: A log with a limit has at least so many segments when it is full.
SEGMENTS = 8
#: How RabbitMQ is told on how many nodes of a cluster a queue has copies.
COPIES = {"stream": "x-initial-cluster-size", "quorum": "x-quorum-initial-group-size"}


@dataclass(frozen=True)
class Exchange:
    """An exchange's name and AMQP type."""

    name: str
    kind: Literal["topic", "direct", "fanout"]


@dataclass(frozen=True)
class Queue:
    """A queue, what it is bound to, and its AMQP arguments. A `stream` is a log."""

    name: str
    kind: Literal["stream", "quorum", "classic"]
    exchange: str
    key: str
    arguments: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """What a log keeps: bytes, and seconds since the publish. It may hold a segment more than that."""

    max_bytes: int
    max_age_s: int

    @property
    def segment_bytes(self) -> int:
        return min(SEGMENT_BYTES, self.max_bytes // SEGMENTS)

    def arguments(self) -> dict[str, str | int]:
        """As RabbitMQ takes them."""
        return {"x-max-length-bytes": self.max_bytes, "x-max-age": f"{self.max_age_s}s"}


@dataclass(frozen=True)
class Topology:
    """The names of one federation at the broker.

    `copies`: how many nodes of a cluster hold each log and queue, so that the federation outlives the death
    of fewer than half of them. 1 leaves it to the broker, and the boxes to one node.

    Raises:
        ConfigError: the federation's name is no slug.
    """

    federation: str
    copies: int = 1

    def __post_init__(self) -> None:
        check_slug("federation", self.federation)

    @property
    def rounds(self) -> str:
        return self._name("rounds")

    @property
    def assignments(self) -> str:
        return self._name("assignments")

    @property
    def results(self) -> str:
        return self._name("results")

    @property
    def events(self) -> str:
        return self._name("events")

    @property
    def checkpoints(self) -> str:
        return self._name("checkpoints")

    @property
    def presence(self) -> str:
        return self._name("presence")

    @property
    def dead(self) -> str:
        return self._name("dead")

    @property
    def rounds_log(self) -> str:
        return self._name("rounds.log")

    @property
    def results_log(self) -> str:
        return self._name("results.log")

    @property
    def events_log(self) -> str:
        return self._name("events.log")

    @property
    def checkpoints_log(self) -> str:
        return self._name("checkpoints.log")

    @property
    def presence_box(self) -> str:
        return self._name("presence.box")

    @property
    def dead_box(self) -> str:
        return self._name("dead.box")

    def assignments_of(self, site: str) -> str:
        """The queue that a site's workers take their assignments from."""
        check_slug("site", site)
        return self._name(f"assignments.{site}")

    def exchanges(self) -> tuple[Exchange, ...]:
        return (
            Exchange(self.rounds, "topic"),
            Exchange(self.assignments, "direct"),
            Exchange(self.results, "topic"),
            Exchange(self.events, "topic"),
            Exchange(self.checkpoints, "topic"),
            Exchange(self.presence, "topic"),
            Exchange(self.dead, "fanout"),
        )

    def journal(self) -> tuple[Exchange, Queue]:
        """What the journal takes, which is declared alike whatever the configuration says.

        It has no limits: a state is folded from its first entry on. Copies it has.
        """
        return Exchange(self.events, "topic"), self._log(self.events_log, self.events)

    def queues(self, limits: Limits | None = None) -> tuple[Queue, ...]:
        """The queues that every federation has; sites' own come with `site_queue`. No limits: all is kept."""
        presence: Mapping[str, str | int] = {
            "x-message-ttl": PRESENCE_TTL_MS,
            "x-max-length": PRESENCE_MAX_MESSAGES,
            "x-overflow": "drop-head",
        }
        return (
            self._log(self.rounds_log, self.rounds, limits),
            self._log(self.results_log, self.results, limits),
            self.journal()[1],
            self._log(self.checkpoints_log, self.checkpoints, limits),
            self._copied(Queue(self.presence_box, "classic", self.presence, "#", presence)),
            self._copied(Queue(self.dead_box, "classic", self.dead, "")),
        )

    def site_queue(self, site: str) -> Queue:
        arguments: Mapping[str, str | int] = {
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": self.dead,
        }
        return self._copied(Queue(self.assignments_of(site), "quorum", self.assignments, site, arguments))

    def _name(self, suffix: str) -> str:
        return f"warren.{self.federation}.{suffix}"

    def _log(self, name: str, exchange: str, limits: Limits | None = None) -> Queue:
        segment = limits.segment_bytes if limits else SEGMENT_BYTES
        arguments = {"x-stream-max-segment-size-bytes": segment, **(limits.arguments() if limits else {})}
        return self._copied(Queue(name, "stream", exchange, "#", arguments))

    def _copied(self, queue: Queue) -> Queue:
        """The queue with its copies; a classic one has none, and becomes a quorum queue."""
        if self.copies == 1:
            return queue
        kind: Literal["stream", "quorum"] = "stream" if queue.kind == "stream" else "quorum"
        copied: dict[str, str | int] = {COPIES[kind]: self.copies, "x-queue-leader-locator": "balanced"}
        return replace(queue, kind=kind, arguments={**queue.arguments, **copied})


def check_slug(what: str, name: str) -> str:
    """Returns the name if it is a slug.

    Raises:
        ConfigError: it is not.
    """
    if not SLUG.fullmatch(name):
        raise ConfigError(f"{what} {name!r} is no usable name: take 1 to 40 of a-z, 0-9 and '-'")
    return name
