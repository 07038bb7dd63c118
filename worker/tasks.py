"""Round tasks at a worker: found in the rounds log by digest, and the newest ones kept."""

from __future__ import annotations

import logging
import queue
from collections import OrderedDict

from shared import codec
from shared.broker.port import FIRST, Broker, Delivery, Part, Subscription
from shared.errors import MessageError, WarrenError
from shared.messages import Assignment, RoundTask
from shared.runtime import THREADS, Inbox, Runtime
from shared.topology import Topology
from shared.weights import Layout, Weights

log = logging.getLogger(__name__)

#: A task of so many parts (header and one piece) is followed live; a larger one is read when it is needed.
LIVE_PARTS = 2
#: Small tasks kept, for answers on older versions.
KEPT = 4
#: How long the log may give nothing of a task where it should lie, before all of the log is looked through;
#: and how long then, before the assignment is reported as failed. Seconds.
HINT_S = 20.0
PATIENCE_S = 300.0
#: Room for a task's header beside its payload.
HEADER_BYTES = 2 << 20


class TaskNotFound(WarrenError):
    """Raised when the rounds log does not give the round task that an assignment names."""


class Tasks:
    """The models that this worker holds. Not for several threads."""

    def __init__(
        self,
        broker: Broker,
        topology: Topology,
        patience_s: float = PATIENCE_S,
        runtime: Runtime = THREADS,
    ) -> None:
        self._broker = broker
        self._topology = topology
        self._patience_s = patience_s
        self._runtime = runtime
        self._held: OrderedDict[str, Weights] = OrderedDict()
        self._inbox: Inbox[Delivery] = runtime.inbox()
        self._follow: Subscription | None = None
        self._offset = -1
        self._version = -1

    def weights(self, assignment: Assignment) -> Weights:
        """The weights that an assignment is about.

        Raises:
            TaskNotFound: the log doesn't give them in time.
        """
        if assignment.digest not in self._held:
            if self._follow is not None and self._passed(assignment):
                self.close()
            self._read(assignment)
        self._held.move_to_end(assignment.digest)
        return self._held[assignment.digest]

    def close(self) -> None:
        """Stops following; what is held stays."""
        if self._follow is not None:
            self._follow.close()
            self._follow = None

    def _passed(self, assignment: Assignment) -> bool:
        """Whether the live follower is past the task, or so far before it that a jump is shorter."""
        return assignment.version <= self._version or assignment.task_offset > self._offset + 1

    def _read(self, assignment: Assignment) -> None:
        if assignment.task_parts > LIVE_PARTS:
            self._held.clear()
        if not self._arrives(assignment, assignment.task_offset, min(HINT_S, self._patience_s)):
            # The log may have lost its end, and the task been published again before that offset.
            self.close()
            if not self._arrives(assignment, FIRST, self._patience_s):
                self.close()
                raise TaskNotFound(f"the round task of version {assignment.version} is not in the log")
        if assignment.task_parts > LIVE_PARTS:
            self.close()

    def _arrives(self, assignment: Assignment, start: int, patience_s: float) -> bool:
        """Reads the log, from `start` on if it isn't followed yet, until it has given the task.

        Returns: whether it did; it may take `patience_s` to the task's first part, and to each that follows.
        """
        if self._follow is None:
            self._inbox = self._runtime.inbox()
            self._follow = self._broker.follow(self._topology.rounds_log, start, self._inbox.put)
        assembler = codec.Assembler(assignment.task_bytes + HEADER_BYTES)
        wanted = {assignment.task_message}
        deadline = self._runtime.monotonic() + patience_s
        while assignment.digest not in self._held:
            try:
                delivery = self._inbox.get(timeout=max(deadline - self._runtime.monotonic(), 0))
            except queue.Empty:
                return False
            part = delivery.part
            self._offset = part.offset
            if _begins(part, assignment.digest):
                wanted.add(part.message_id)
            if part.message_id in wanted:
                deadline = self._runtime.monotonic() + patience_s
            if part.kind == RoundTask.KIND and (part.message_id in wanted or part.parts <= LIVE_PARTS):
                self._take(part, assembler)
            delivery.ack()
        return True

    def _take(self, part: Part, assembler: codec.Assembler) -> None:
        try:
            whole = assembler.feed(part)
            if whole is None:
                return
            task = RoundTask.from_header(whole[0])
            weights = Weights(Layout.from_wire(task.layout), memoryview(whole[1]).toreadonly())
        except MessageError as error:
            log.warning("passed over a malformed round task at offset %d: %s", part.offset, error)
            return
        if weights.digest == task.digest:
            self._version = task.version
            self._held[task.digest] = weights
            while len(self._held) > KEPT:
                self._held.popitem(last=False)


def _begins(part: Part, digest: str) -> bool:
    """Whether a large task of that digest begins with the part: it may have been published once more."""
    if part.kind != RoundTask.KIND or part.part or part.parts <= LIVE_PARTS:
        return False
    try:
        return bool(codec.decode(part.body)[0].get("digest") == digest)
    except MessageError:
        return False
