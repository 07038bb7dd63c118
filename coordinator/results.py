"""The results log at the coordinator: parts in, answers out, and the payloads of those that count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from coordinator import intake
from coordinator.facts import Answer, Closed
from coordinator.models import GlobalModel
from coordinator.reading import read_log
from coordinator.spool import Arrival, Key, Spool
from shared.broker.port import Broker, Part
from shared.errors import JournalError
from shared.runtime import THREADS, Runtime
from shared.topology import Topology
from shared.weights import Buffer, Layout


class Results:
    """Holds what arrived and may still count. `run` is the federation's run, once it is known."""

    def __init__(
        self,
        spool: Spool,
        broker: Broker,
        topology: Topology,
        model: GlobalModel,
        runtime: Runtime = THREADS,
    ) -> None:
        self._spool = spool
        self._let_in: dict[Key, Spool] = {}
        self._broker = broker
        self._topology = topology
        self._model = model
        self._runtime = runtime
        self._layouts: dict[str, Layout] = {}
        self.run = ""

    def take(self, part: Part) -> Answer | None:
        """Takes the log's next part; returns the answer that it completes, or that it spoils."""
        arrived = self._spool.take(part)
        if arrived is None:
            return None
        if not isinstance(arrived, Arrival):
            return intake.broken(arrived)
        if arrived.late:
            return intake.claimed(arrived.update, arrived.first, *arrived.key)
        return self._answer(arrived)

    def read_from(self, position: int) -> int:
        """The lowest offset that a recovering coordinator still needs, this one having read to `position`."""
        return self._spool.read_from(position)

    def again(self, parts: Iterable[Part]) -> Answer | None:
        """Takes a message's parts once more, apart from what arrives; values may be of any size.

        Its payload is held until it is forgotten, or the round is over. None: the parts don't make it whole.
        """
        spool = self._spool.another()
        arrived = next((taken for part in parts if (taken := spool.take(part)) is not None), None)
        if isinstance(arrived, Arrival):
            self._let_in[arrived.key] = spool
            return self._answer(arrived, lenient=True)
        spool.close()
        return None if arrived is None else intake.broken(arrived)

    def payload(self, answer: Answer) -> Buffer | None:
        """What is held of an answer's payload."""
        return self._held((answer.sender, answer.message_id))

    def forget(self, answer: Answer) -> None:
        """Gives back what an answer holds."""
        key = (answer.sender, answer.message_id)
        self._spool.discard(key)
        if key in self._let_in:
            self._let_in.pop(key).close()

    def give_up(self, login: str) -> None:
        """Drops what is unfinished of a login's, whose further parts are not taken any more."""
        self._spool.give_up(login)

    def turn_over(self, counted: Sequence[Closed], oldest: int, newest: int) -> None:
        """A version was made of `counted`: drops them, and what is unfinished on bases out of that range."""
        for row in counted:
            self._spool.discard(_key(row))
        for spool in self._let_in.values():
            spool.close()
        self._let_in.clear()
        self._layouts.clear()
        self._spool.forget_outside(oldest, newest)
        if self._model.layout is not None:
            self._spool.limit = self._model.layout.nbytes

    def payloads(self, rows: Sequence[Closed]) -> Iterator[tuple[Closed, Layout | None, Buffer]]:
        """The accepted updates' payloads: from the spool, or from the log what isn't there any more.

        Raises:
            JournalError: the log does not hold it either.
        """
        held = {_key(row): self._held(_key(row)) for row in rows}
        lost = [row for row in rows if held[_key(row)] is None]
        if lost:
            self._reread(lost)
            held |= {_key(row): self._held(_key(row)) for row in lost}
        for row in rows:
            payload = held[_key(row)]
            if payload is None:
                raise JournalError(
                    f"the results log no longer holds the update of {row.client} at offset {row.offset}: "
                    f"restore the broker's data, or start anew with --fresh"
                )
            yield row, self._layouts.get(row.message_id), payload

    def close(self) -> None:
        for spool in (self._spool, *self._let_in.values()):
            spool.close()

    def _held(self, key: Key) -> Buffer | None:
        return self._let_in.get(key, self._spool).payload(key)

    def _answer(self, arrival: Arrival, *, lenient: bool = False) -> Answer:
        payload = self._held(arrival.key)
        assert payload is not None
        federation, model = self._topology.federation, self._model.layout
        answer, layout = intake.answer_of(arrival, payload, federation, self.run, model, lenient=lenient)
        if layout is not None:
            self._layouts[answer.message_id] = layout
        return answer

    def _reread(self, rows: Sequence[Closed]) -> None:
        missing = {_key(row) for row in rows}
        start = min(row.offset for row in rows)
        topology = self._topology
        for part in read_log(self._broker, topology.results, topology.federation, start, self._runtime):
            key = (part.user_id, part.message_id)
            if key in missing and self.take(part) is not None:
                missing.discard(key)
                if not missing:
                    return


def _key(row: Closed) -> Key:
    return (row.sender, row.message_id)
