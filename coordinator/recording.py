"""What a ledger's versions were made of, read again from the logs: weights, optimiser states, updates.

Each log is read forward once, as far as it takes: ask for versions in ascending order. What is read lies on
disk, at most what stands in the logs between a round's first update and its closing, and two versions; what
is handed out are maps of it. Everything is checked against what the ledger and its own header say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from tempfile import gettempdir
from types import TracebackType

from coordinator.facts import Closed
from coordinator.ledger import Evaluation, Ledger, Round
from coordinator.models import CHECKPOINT
from coordinator.optimizers import OptimizerState
from coordinator.optimizers import make as make_optimizer
from coordinator.shelf import Broken, Key, Message
from coordinator.tapes import Damaged, NotRecorded, Snapshots, Tape, Trimmed
from shared.broker.port import FIRST, Broker, Part
from shared.errors import MessageError
from shared.messages import PROTOCOL, RoundTask, Update, order_id
from shared.weights import Buffer, Layout, Weights


@dataclass(frozen=True)
class Recorded:
    """An accepted update as the results log has it; `layout` is that of an initialise answer."""

    row: Closed
    update: Update
    layout: Layout | None
    payload: Buffer


class Recording:
    """A federation's versions from `since` on, and what they were made of. A context; not for many threads.

    Of the version before `since`, weights and optimiser state can be had too. What is handed out is valid
    until a version two further on, or another round's updates, are asked for.
    """

    def __init__(self, broker: Broker, ledger: Ledger, folder: Path, since: int = 0) -> None:
        """`folder` is where large payloads lie meanwhile; the system's own place if it isn't there."""
        folder = folder if folder.is_dir() else Path(gettempdir())
        self.ledger = ledger
        rounds = [round_ for version, round_ in ledger.versions.items() if version >= since]
        tasks_at, states_at = _starts(ledger, since)
        rows = [row for round_ in rounds for row in (*round_.rows, *round_.scores)]
        if ledger.evaluation is not None:
            rows += ledger.evaluation.scores
        results_at = min((row.offset for row in rows), default=FIRST)
        topology = ledger.topology

        def tape(exchange: str, start: int) -> Tape:
            return Tape(broker, exchange, topology.federation, start, folder)

        self._tasks = Snapshots(
            tape(topology.rounds, tasks_at), ledger, "round task", RoundTask.KIND,
            place=attrgetter("task_from"), has_last=ledger.outcome is not None,
        )  # fmt: skip
        self._states = Snapshots(
            tape(topology.checkpoints, states_at), ledger, "optimiser state", CHECKPOINT,
            place=attrgetter("checkpoint_from"), has_last=True,
        )  # fmt: skip
        self._results = tape(topology.results, results_at)
        self._wanted = {_key(row): row for row in rows}
        self._messages: dict[Key, Message] = {}
        self._broken: dict[Key, Broken] = {}
        self._within: Round | Evaluation | None = None
        self._weights: dict[int, Weights] = {}

    # --- versions

    def weights(self, version: int) -> Weights:
        """A version's weights, from its round task; their digest is the ledger's.

        Raises:
            NotRecorded: the log doesn't hold the task (yet).
            Trimmed: it doesn't any more.
            Damaged: it holds one that is not what was published, or has lost it.
        """
        message = self._tasks.of(version)
        self._weights = {known: kept for known, kept in self._weights.items() if known >= version - 1}
        if version not in self._weights:
            self._weights[version] = self._weights_of(message, version)
        return self._weights[version]

    def optimizer_state(self, version: int) -> OptimizerState:
        """The server optimiser's state after it made a version; empty if it has none.

        Raises:
            NotRecorded, Trimmed, Damaged: as `weights`.
        """
        if not make_optimizer(self.ledger.config.server).slots:
            return {}
        message = self._states.of(version)
        what = f"the optimiser state of version {version} at offset {message.offset}"
        own = {"protocol": PROTOCOL, "kind": CHECKPOINT, "federation": self.ledger.topology.federation}
        if {**message.header, **own} != message.header:
            raise Damaged(f"{what} is not one of this federation's")
        try:
            layout = Layout.from_wire(message.header.get("layout"))
            return layout.views(self._states.payload(message))
        except MessageError as error:
            raise Damaged(f"{what} can't be read: {error}") from error

    def _weights_of(self, message: Message, version: int) -> Weights:
        digest = self.ledger.versions[version].digest
        what = f"the round task of version {version} at offset {message.offset}"
        try:
            task = RoundTask.from_header(message.header)
            weights = Weights(Layout.from_wire(task.layout), self._tasks.payload(message))
            weights.layout.views(weights.payload)
        except MessageError as error:
            raise Damaged(f"{what} can't be read: {error}") from error
        if weights.digest != digest:
            raise Damaged(f"{what} holds weights of digest {weights.digest[:12]}, not {digest[:12]}")
        own = (self.ledger.topology.federation, self.ledger.run)
        if (task.federation, task.run) != own or task.version not in self.ledger.known_as[digest]:
            raise Damaged(
                f"{what} says that it is version {task.version} of {task.federation}'s run {task.run}"
            )
        return weights

    # --- updates

    def updates(self, round_: Round) -> Iterator[Recorded]:
        """The updates that a round counts, by client.

        Raises:
            Trimmed, Damaged: as `update`, of the first that isn't there.
        """
        for row in round_.rows:
            yield self.update(round_, row)

    def initial_weights(self, round_: Round) -> Weights:
        """The weights that were answered to the request for version 0.

        Raises:
            NotRecorded: they came from a file.
            Trimmed, Damaged: as `update`.
        """
        if not round_.rows:
            raise NotRecorded(f"version 0 came from the file {self.ledger.config.model.initial}")
        answer = self.update(round_, round_.rows[0])
        if answer.layout is None or len(answer.payload) != answer.layout.nbytes:
            raise Damaged(f"what {answer.row.client} answered at offset {answer.row.offset} is no model")
        return Weights(answer.layout, answer.payload)

    def update(self, within: Round | Evaluation, row: Closed) -> Recorded:
        """One of the updates that a round counts, or of the answers that scored a version.

        Raises:
            Trimmed: retention has dropped it.
            Damaged: the log does not hold it as it was accepted.
        """
        self._turn_to(within)
        key = _key(row)
        what = f"the update of {row.client} at offset {row.offset}"
        self._read_to(within, key)
        if key in self._broken:
            raise Damaged(f"{what} can't be read: {self._broken[key].reason}")
        message = self._messages.get(key)
        if message is None:
            if self._results.first is None or row.offset < self._results.first:
                raise Trimmed(f"{what} is not in the log any more")
            raise Damaged(f"{what} is missing from the log")
        try:
            update = Update.from_header(message.header)
            layout = Layout.from_wire(update.layout) if update.work == "initialise" else None
        except MessageError as error:
            raise Damaged(f"{what} can't be read: {error}") from error
        wrong = self._contradiction(row, update, message)
        if wrong:
            raise Damaged(f"{what} {wrong}")
        return Recorded(row, update, layout, self._results.shelf.payload(message))

    def _contradiction(self, row: Closed, update: Update, message: Message) -> str:
        """What an update says otherwise than its payload or the ledger do, "" if nothing."""
        # Rounds that were closed by an earlier Warren don't have it.
        if row.head and row.head != message.head:
            return "has another header than the one that was accepted"
        if update.sha256 != message.sha256:
            return "has a payload without the SHA-256 that it claims"
        if (update.federation, update.run) != (self.ledger.topology.federation, self.ledger.run):
            return "says that it belongs to another run"
        for name in ("client", "id", "version", "examples"):
            said, counted = getattr(update, name), getattr(row, name)
            if said != counted:
                return f"says that its {name} is {said!r}, and was accepted with {counted!r}"
        if order_id(update.work, update.client, update.round, update.digest, update.turn) != update.id:
            return "has an assignment id that is not that of what it answers"
        return ""

    def _turn_to(self, within: Round | Evaluation) -> None:
        """Gives back what another round's updates hold."""
        before = self._within
        if before is not None and before is not within:
            for row in (*before.rows, *before.scores):
                message = self._messages.pop(_key(row), None)
                if message is not None:
                    self._results.shelf.discard(message)
        self._within = within

    def _read_to(self, within: Round | Evaluation, key: Key) -> None:
        """Reads on until the update is there, or can't come any more."""
        while key in self._wanted and (within.decided < 0 or self._results.position < within.decided):
            part = self._results.next()
            if part is None:
                return
            row = self._wanted.get((part.user_id, part.message_id))
            if row is not None:
                self._take(row, part)

    def _take(self, row: Closed, part: Part) -> None:
        """Takes a part of an accepted update; its login may have sent others under the same id before it."""
        shelf = self._results.shelf
        if part.offset == row.offset:
            shelf.give_up((part.user_id, part.message_id))
        taken = shelf.take(part)
        if taken is None:
            return
        if taken.offset != row.offset and not (isinstance(taken, Message) and taken.head == row.head):
            if isinstance(taken, Message):
                shelf.discard(taken)
            return
        del self._wanted[taken.key]
        if isinstance(taken, Broken):
            self._broken[taken.key] = taken
        else:
            self._messages[taken.key] = taken

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._weights.clear()
        self._tasks.close()
        self._states.close()
        self._results.close()


def _key(row: Closed) -> Key:
    return (row.sender, row.message_id)


def _starts(ledger: Ledger, since: int) -> tuple[int, int]:
    """Offsets of the rounds and of the checkpoints log at or before what version `since` has there."""
    if since not in ledger.versions:
        return FIRST, FIRST
    first = ledger.versions[ledger.unchanged_since(since)]
    return first.task_from, first.checkpoint_from
