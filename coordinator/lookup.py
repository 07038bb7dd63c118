"""One message of the results log, found again by an offset."""

from __future__ import annotations

from collections.abc import Generator

from coordinator.reading import publish_mark, read_until
from shared.broker.port import Broker, Part
from shared.messages import Mark
from shared.runtime import THREADS, Runtime
from shared.topology import Topology


def message_at(
    broker: Broker, topology: Topology, offset: int, runtime: Runtime = THREADS
) -> Generator[Part, None, None]:
    """The parts, from the one at `offset` on, of the message that it belongs to; none if there is none.

    Ends where the log ends: a message that is whole is for the caller to know. Close it when it is.

    Raises:
        BrokerUnreachable: the log stays silent before its end.
    """
    mark, end = publish_mark(broker, topology.results, topology.federation, locate=True)
    if offset > end:
        # Behind a log's end nothing is handed out, even when it grows past there.
        return
    key = None
    for part in read_until(broker, topology.results_log, offset, mark, runtime):
        if key is None and (part.offset != offset or part.kind == Mark.KIND):
            return
        key = key or (part.user_id, part.message_id)
        if (part.user_id, part.message_id) == key:
            yield part
