"""Whether the logs' limits leave what recovery needs: the rounds that updates may be of, and more."""

from __future__ import annotations

import logging

from coordinator.config import Config
from coordinator.facts import Entry, Phase, State
from coordinator.optimizers import make as make_optimizer
from coordinator.units import enough
from shared.broker.port import Part
from shared.errors import ConfigError
from shared.messages import Update
from shared.topology import SEGMENT_BYTES, SEGMENTS
from shared.weights import DTYPES, Layout

log = logging.getLogger(__name__)

#: Rounds that a log holds beyond `staleness.max`: the open one, the one before it, and the next on its way.
ROUNDS = 3


class Room:
    """Holds a federation's `log.max_bytes` against its model and its cohorts."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._slots = len(make_optimizer(config.server).slots)
        self._largest = 0
        buffered = config.buffered
        is_buffered = config.federation.mode == "buffered"
        self._in_flight = max(buffered.concurrency, buffered.buffer) if is_buffered else None

    def offered(self, state: State, part: Part) -> None:
        """A part of the results log came: a model that could not even be read whole is told from its first.

        Raises:
            ConfigError: a client that was asked for initial weights offers more than the log holds.
        """
        if state.phase is not Phase.INITIALISING or part.part or part.kind != Update.KIND:
            return
        asked = {state.clients[order.client] for order in state.waiting.values()}
        if part.user_id in asked or not state.rules.attest:
            self._refuse(self._shortage(part.nbytes, self._first_cohort(state), 0))

    def opening(self, opened: Entry, layout: Layout) -> None:
        """A round is about to be opened. A federation that outgrew its limits goes on, with a warning.

        Raises:
            ConfigError: it is the first, and its like would not fit.
        """
        clients = len(opened.rows) if self._in_flight is None else self._in_flight
        shortage = self._shortage(layout.nbytes, clients, self._slots * _slot_bytes(layout))
        if opened.data["round"] <= 1:
            self._refuse(shortage)
        elif shortage and clients > self._largest:
            log.warning("a crash may now cost a round's updates: %s", shortage)
        self._largest = max(clients, self._largest)

    def _first_cohort(self, state: State) -> int:
        """How many clients the first round has at the least."""
        if self._in_flight is not None:
            return self._in_flight
        rules = state.rules
        return rules.selection.asked(max(rules.min_clients, len(state.trainable)), rules.minimum)

    def _refuse(self, shortage: str) -> None:
        if shortage:
            raise ConfigError(shortage)

    def _shortage(self, nbytes: int, clients: int, checkpoint: int) -> str:
        """What is wrong for rounds of that many clients; "" if nothing."""
        rounds = ROUNDS + self._config.staleness.max
        kept = max(rounds * (clients + 1) * nbytes, ROUNDS * checkpoint)
        # What is dropped is always a whole segment.
        least = kept + min(SEGMENT_BYTES, -(-kept // (SEGMENTS - 1)))
        if self._config.log.max_bytes >= least:
            return ""
        return (
            f"log.max_bytes is {self._config.log.max_bytes}, which can't hold {rounds} rounds of {clients} "
            f'clients with a model of {enough(nbytes)}: set it to at least "{enough(least)}", and start anew '
            f"with --fresh"
        )


def _slot_bytes(layout: Layout) -> int:
    """What one of an optimiser's slots takes."""
    floats = [tensor for tensor in layout.tensors if DTYPES[tensor.dtype].kind == "f"]
    width = max((DTYPES[tensor.dtype].itemsize for tensor in floats), default=0)
    return max(width, 4) * sum(tensor.size for tensor in floats)
