"""One update of the results log, looked into for an operator: what it says, and what is in it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import Any

from coordinator import intake
from coordinator.lookup import message_at, model_layout
from coordinator.measures import measures
from coordinator.quarantine import Quarantine
from coordinator.spool import Arrival, Spool
from shared import codec
from shared.broker.port import FIRST, Broker, Part
from shared.errors import ConfigError, MessageError
from shared.messages import Update
from shared.topology import Topology
from shared.weights import Layout

#: What of an update's header is shown.
SHOWN = (
    "client", "worker", "id", "work", "round", "version", "digest", "turn", "examples", "metrics",
    "evaluated", "evaluation", "seconds", "error", "sha256", "layout_digest",
)  # fmt: skip


def examine(
    broker: Broker, topology: Topology, offset: int, known: Quarantine, folder: Path
) -> dict[str, Any]:
    """What there is to say of the update at an offset, as plain values; `folder` has room for its payload.

    `broken` says why it can't be read whole, "" if it can. Without a model there are no tensors.

    Raises:
        ConfigError: nothing lies at that offset.
    """
    assert known.state is not None
    layout = model_layout(broker, topology, known.state.hints.get("task", FIRST))
    spool = Spool(folder)
    spool.limit = layout.nbytes if layout else None
    with closing(message_at(broker, topology, offset)) as parts:
        first = next(parts, None)
        if first is None:
            raise ConfigError(f"no update lies at offset {offset} of the results log (any more)")
        taken = (spool.take(part) for part in chain((first,), parts))
        arrived = next((each for each in taken if each is not None), None)
    about = _outside(first)
    try:
        if isinstance(arrived, Arrival):
            return about | _inside(arrived, spool, layout, topology, known)
        broken = arrived.reason if arrived else "it is not whole"
        return about | {"update": _claims(first), "broken": broken, "out": broken, "tensors": []}
    finally:
        spool.close()


def _outside(first: Part) -> dict[str, Any]:
    """What the broker knows."""
    return {
        "offset": first.offset,
        "login": first.user_id,
        "message_id": first.message_id,
        "part": first.part,
        "parts": first.parts,
        "bytes": first.nbytes,
    }


def _claims(first: Part) -> dict[str, Any]:
    """What the header of a message says that is not whole; nothing, if that can't be read either."""
    try:
        return _shown(Update.from_header(codec.decode(first.body)[0]))
    except MessageError:
        return {}


def _inside(
    arrival: Arrival, spool: Spool, layout: Layout | None, topology: Topology, known: Quarantine
) -> dict[str, Any]:
    """What a whole update says and holds."""
    assert known.state is not None
    payload = spool.payload(arrival.key)
    assert payload is not None
    update, state = arrival.update, known.state
    answer, own = intake.answer_of(arrival, payload, topology.federation, state.run, layout, lenient=True)
    held = own or layout
    fits = held is not None and len(payload) == held.nbytes
    return {
        "update": _shown(update),
        "broken": "",
        "run": update.run == state.run,
        "sha256": update.sha256 == arrival.sha256,
        "layout": held is not None and (own is not None or update.layout_digest == held.digest),
        "out": known.keeps_out(answer, ""),
        "tensors": [_plain(asdict(each)) for each in measures(held, payload)] if held and fits else [],
    }


def _shown(update: Update) -> dict[str, Any]:
    return {name: _plain(getattr(update, name)) for name in SHOWN}


def _plain(value: Any) -> Any:
    """The same as JSON can hold it: what is no number becomes a text."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return str(value) if isinstance(value, float) and not isfinite(value) else value
