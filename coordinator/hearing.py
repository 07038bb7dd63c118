"""The results log heard again: every answer in it, judged by its bytes as the coordinator did."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from coordinator import intake
from coordinator.arrivals import Heard
from coordinator.ledger import Ledger
from coordinator.reading import read_log
from coordinator.spool import Arrival, Spool
from shared.broker.port import Broker
from shared.messages import Mark
from shared.weights import Layout


def heard(broker: Broker, ledger: Ledger, start: int, model: Layout, folder: Path) -> Iterator[Heard]:
    """The answers from offset `start` of the results log on, in its order; large payloads pass by `folder`.

    What can't be read at all is no answer to anything, and left out.

    Raises:
        BrokerUnreachable: the log stays silent before its end.
    """
    federation, run = ledger.topology.federation, ledger.run
    spool = Spool(folder)
    spool.limit = model.nbytes
    try:
        for part in read_log(broker, ledger.topology.results, federation, start):
            arrived = spool.take(part) if part.kind != Mark.KIND else None
            if not isinstance(arrived, Arrival):
                continue
            payload = spool.payload(arrived.key)
            assert payload is not None
            answer, _ = intake.answer_of(arrived, payload, federation, run, model)
            spool.discard(arrived.key)
            yield Heard(answer, arrived.update.worker, arrived.update.seconds)
    finally:
        spool.close()
