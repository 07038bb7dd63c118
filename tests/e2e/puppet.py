"""A site's worker whose every step the test takes itself: when it answers, with what, in which parts."""

from __future__ import annotations

import hashlib
import queue
from collections.abc import Sequence

import numpy as np

from shared import codec
from shared.broker.connect import connect
from shared.broker.port import Delivery, Part, Publication
from shared.errors import NotDeclaredError, UnroutableError
from shared.messages import Assignment, Presence, Update
from shared.topology import Topology
from shared.weights import Weights
from tests.services import wait_for

#: A model of 120 kB, and an update of it in four parts.
WEIGHTS = Weights.from_arrays({"w": np.linspace(0, 1, 30_000, dtype=np.float32)})
PART_BYTES = 40_000
TIMEOUT_S = 60.0


class Puppet:
    """One client, the site's partition 0. Close it at the end."""

    def __init__(self, url: str, federation: str, site: str) -> None:
        self._url = url
        self._site = site
        self._topology = Topology(federation)
        self._broker = connect(url, site, patience_s=TIMEOUT_S)
        self._orders: queue.SimpleQueue[Delivery] = queue.SimpleQueue()

    def appear(self) -> None:
        """Says that it is there, as soon as somebody listens, and takes orders from then on."""
        presence = Presence(self._topology.federation, self._site, "puppet", ["0"], "waiting", 0)
        part = Part.single(Presence.KIND, codec.encode(presence.to_header()))

        def said() -> bool:
            try:
                self._broker.publish([Publication(self._topology.presence, self._site, part)])
            except (NotDeclaredError, UnroutableError):
                return False
            return True

        wait_for(said, TIMEOUT_S, "the federation")
        self._broker.consume(self._topology.assignments_of(self._site), self._orders.put)

    def order(self, work: str, round_: int) -> Assignment:
        """The round's next order to do that; others, which may be earlier ones' repeats, are passed over."""
        while True:
            delivery = self._orders.get(timeout=TIMEOUT_S)
            delivery.ack()
            order = Assignment.from_header(codec.decode(delivery.part.body)[0])
            if (order.work, order.round) == (work, round_):
                return order

    def parts(self, order: Assignment, **changes: object) -> list[Part]:
        """The answer to an order, in parts. Its values are always the same."""
        initial = order.work == "initialise"
        fields = {
            "federation": order.federation, "run": order.run, "id": order.id, "work": order.work,
            "client": order.client, "worker": "puppet", "round": order.round, "version": order.version,
            "digest": order.digest, "turn": order.turn, "layout": WEIGHTS.layout.to_wire() if initial else [],
            "layout_digest": WEIGHTS.layout.digest, "sha256": hashlib.sha256(WEIGHTS.payload).hexdigest(),
            "examples": 10, "metrics": {}, "evaluated": 0, "evaluation": {}, "seconds": 0.1, "error": "",
        }  # fmt: skip
        header = Update(**{**fields, **changes}).to_header()  # type: ignore[arg-type]
        return codec.split(Update.KIND, header, WEIGHTS.payload, PART_BYTES)

    def publish(self, parts: Sequence[Part]) -> None:
        self._broker.publish([Publication(self._topology.results, self._site, part) for part in parts])

    def answer(self, order: Assignment, **changes: object) -> None:
        """Answers at once and whole."""
        self.publish(self.parts(order, **changes))

    def close(self) -> None:
        self._broker.close()
