"""What a federation's logs still hold: how far back one can go, and what it takes at the broker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coordinator.output import megabytes
from coordinator.reading import read_log
from coordinator.target import Target
from shared import codec
from shared.broker.port import FIRST, Broker, Measured
from shared.errors import MessageError, WarrenError
from shared.messages import RoundTask, Update, check_protocol
from shared.topology import Topology

#: How long a person who asks waits for a broker that says nothing.
PATIENCE_S = 3.0


def oldest_weights(broker: Broker, topology: Topology) -> int | None:
    """The oldest version whose weights are in the log; None if none is."""
    return _oldest(broker, topology, topology.rounds, RoundTask.KIND)


def kept(target: Target, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By log: the oldest version that it goes back to, and its bytes, where they are known.

    `estimated`: the bytes are what the history says was sent and received since that version. With a broker
    that can't be asked, all there is is `unknown`: why.
    """
    try:
        broker = target.broker(PATIENCE_S)
        topology = target.topology
        weights = oldest_weights(broker, topology)
        updates = _oldest(broker, topology, topology.results, Update.KIND)
    except WarrenError as error:
        return {"unknown": str(error)}
    found: dict[str, Any] = {"rounds": {"oldest": weights}, "results": {"oldest": updates}}
    if isinstance(broker, Measured):
        found |= {"checkpoints": {}, "events": {}}
        for name, about in found.items():
            about["bytes"] = broker.held(getattr(topology, f"{name}_log"))
    else:
        found["rounds"]["bytes"] = _sent(history, weights)
        found["results"]["bytes"] = _since(history, updates, "bytes_in")
    return {**found, "estimated": not isinstance(broker, Measured)}


def kept_text(kept: Mapping[str, Any]) -> str:
    """The same for people, in a line."""
    if "unknown" in kept:
        return f"Kept: not known ({kept['unknown']})"
    about = "about " if kept["estimated"] else ""
    said = [
        f"{what} from version {kept[name]['oldest']} on ({about}{megabytes(kept[name]['bytes'])})"
        if kept[name]["oldest"] is not None
        else f"no {what} yet"
        for name, what in (("rounds", "weights"), ("results", "updates"))
    ]
    said += [
        f"{what} {megabytes(kept[name]['bytes'])}"
        for name, what in (("checkpoints", "optimiser states"), ("events", "journal"))
        if name in kept
    ]
    return f"Kept: {', '.join(said)}"


def _oldest(broker: Broker, topology: Topology, exchange: str, kind: str) -> int | None:
    """The version that the first whole message of a kind in a log is about."""
    for part in read_log(broker, exchange, topology.federation, FIRST, silence_s=PATIENCE_S):
        # What stands before a message's part 0 is the rest of one whose beginning was dropped.
        version = _version(part.body) if part.part == 0 and part.kind == kind else None
        if version is not None:
            return version
    return None


def _version(body: bytes | memoryview) -> int | None:
    """Initial weights are of no version yet, and become version 0."""
    try:
        header = codec.decode(body)[0]
        check_protocol(header)
    except MessageError:
        return None
    version = header.get("version")
    return max(version, 0) if isinstance(version, int) else None


def _since(history: Sequence[Mapping[str, Any]], version: int | None, key: str) -> int:
    return sum(line[key] for line in history if version is not None and line["version"] > version)


def _sent(history: Sequence[Mapping[str, Any]], version: int | None) -> int:
    """The last version's task is in no line yet; it is about as large as the one before."""
    last = history[-1]["bytes_out"] if history and version is not None else 0
    return _since(history, version, "bytes_out") + int(last)
