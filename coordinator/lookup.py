"""Messages of the logs, found again by an offset."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator

from coordinator import intake
from coordinator.facts import Answer
from coordinator.reading import publish_mark, read_log, read_until
from coordinator.spool import Broken
from shared import codec
from shared.broker.port import Broker, Part
from shared.errors import MessageError
from shared.messages import Mark, RoundTask, Update
from shared.runtime import THREADS, Runtime
from shared.topology import Topology
from shared.weights import Layout


def message_at(
    broker: Broker, topology: Topology, offset: int, runtime: Runtime = THREADS
) -> Generator[Part, None, None]:
    """The parts, from the one at `offset` of the results log on, of its message; none if there is none.

    Ends where the log ends: when a message is whole is for the caller to know, who closes this then.

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


def heads(broker: Broker, topology: Topology, offsets: Iterable[int]) -> Iterator[Answer]:
    """What the headers at these offsets of the results log say; nothing of those that it does not hold.

    Raises:
        BrokerUnreachable: the log stays silent before its end.
    """
    mark, end = publish_mark(broker, topology.results, topology.federation, locate=True)
    for offset in offsets:
        if offset > end:
            continue
        first = next(read_until(broker, topology.results_log, offset, mark, prefetch=1), None)
        if first is not None and first.offset == offset:
            yield head(first)


def head(first: Part) -> Answer:
    """What a message's first part says of it; the refusal of what can't be read says why."""
    try:
        codec.check_part(first)
        if first.part:
            raise MessageError(f"it is part {first.part} of {first.parts} of a message, and not its first")
        update = Update.from_header(codec.decode(first.body)[0])
    except MessageError as error:
        return intake.broken(Broken((first.user_id, first.message_id), first.offset, str(error)))
    return intake.claimed(update, first.offset, first.user_id, first.message_id)


def model_layout(broker: Broker, topology: Topology, start: int) -> Layout | None:
    """The layout that the federation's models have, from a round task at or behind `start`; None: no task."""
    for part in read_log(broker, topology.rounds, topology.federation, start):
        if part.part == 0 and part.kind == RoundTask.KIND:
            task = RoundTask.from_header(codec.decode(part.body)[0])
            return Layout.from_wire(task.layout)
    return None
