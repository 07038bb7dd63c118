"""An operator's request on its way to the coordinator, and the decision on its way back."""

from __future__ import annotations

import os
import pwd
import queue
import socket
import time
from dataclasses import dataclass

from coordinator.facts import Entry
from coordinator.journal import Reader
from shared import codec
from shared.broker.port import Broker, Delivery, Part, Publication
from shared.messages import Readmit
from shared.topology import Topology


@dataclass(frozen=True)
class Petition:
    """What an operator asks for: the update at an offset, which was seen to be that login's message."""

    run: str
    offset: int
    message_id: str
    sender: str
    reason: str


def send(
    broker: Broker, topology: Topology, petition: Petition, reader: Reader, wait_s: float
) -> Entry | None:
    """Publishes a request, and waits for the `readmitted` entry that decides it; None: none came in time.

    `reader` has read the journal. What nobody took within `wait_s` seconds is dropped, and decided by nobody.
    """
    request = Readmit(
        topology.federation, petition.run, petition.offset, petition.message_id, petition.sender,
        petition.reason, _who(),
    )  # fmt: skip
    part = Part.single(Readmit.KIND, codec.encode(request.to_header()))
    inbox: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
    subscription = broker.follow(topology.events_log, reader.position, inbox.put)
    try:
        broker.publish([Publication(topology.dead, Readmit.KIND, part, wait_s)])
        return _decision(inbox, reader, part.message_id, time.monotonic() + wait_s)
    finally:
        subscription.close()


def _decision(inbox: queue.SimpleQueue[Delivery], reader: Reader, request: str, until: float) -> Entry | None:
    while (left := until - time.monotonic()) > 0:
        try:
            delivery = inbox.get(timeout=left)
        except queue.Empty:
            return None
        for record in reader.feed(delivery.part):
            if record.entry.kind == "readmitted" and record.entry.data["request"] == request:
                return record.entry
        delivery.ack()
    return None


def _who() -> str:
    """The person at this machine, as far as it knows."""
    user = os.getuid()
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        name = f"user {user}"
    return f"{name} on {socket.gethostname()}"
