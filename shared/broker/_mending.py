"""Queues that RabbitMQ has lost, made anew.

RabbitMQ 3.10 that is killed within a second of making a quorum queue may never bring it back: the queue is
there, and neither takes nor gives a message. One with copies on other nodes is left to them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import Future

from shared.broker._errand import Errand, remaking
from shared.broker._link import Link
from shared.broker.port import Publication
from shared.topology import COPIES, Queue

log = logging.getLogger(__name__)


class Mender:
    """Knows the queues that were declared by this broker object. `mend` is of its link's thread only."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._queues: dict[tuple[str, str], Queue] = {}

    def remember(self, queues: Iterable[Queue]) -> None:
        """Quorum queues hold nothing that isn't published again when it is lost; logs are never mended."""
        for queue in queues:
            if queue.kind == "quorum" and COPIES["quorum"] not in queue.arguments:
                self._queues[queue.exchange, queue.key] = queue

    def mend(self, stuck: Sequence[Publication]) -> Future[None] | None:
        """Makes the queues anew that these publications go to; returns when that is done, or None if there is
        one among them that can't be."""
        goals = {(each.exchange, each.key) for each in stuck}
        if not goals or not goals <= self._queues.keys():
            return None
        lost = [self._queues[goal] for goal in sorted(goals)]
        log.warning(
            "the broker takes no messages for %s, which it may have lost: making it anew",
            ", ".join(queue.name for queue in lost),
        )
        errand = Errand(self._link, remaking(lost))
        self._link.add(errand)
        return errand.done
