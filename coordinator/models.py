"""The global model between the logs and memory: published as round tasks, folded, found again.

Holds one version at a time, with the server optimiser's state. A version is published once, as a round
task; the optimiser's state, where there is any, goes to the checkpoints log under the same digest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coordinator.config import Config
from coordinator.facts import Closed, State
from coordinator.optimizers import OptimizerState, ServerOptimizer
from coordinator.reading import read_log
from coordinator.recipe import Recipe
from coordinator.weight_files import initial_weights
from shared import codec
from shared.broker.port import FIRST, Broker, Publication
from shared.errors import FederationFailed, JournalError, MessageError
from shared.messages import RoundTask, check_protocol
from shared.runtime import THREADS, Runtime
from shared.topology import Topology
from shared.weights import Buffer, Layout, Weights

log = logging.getLogger(__name__)

#: Workers may read so many bytes of older tasks to find theirs; beyond it the coordinator looks it up.
LOCATE_BYTES = 32 << 20
MAX_MODEL_BYTES = 1 << 38
#: The kind of the messages that hold an optimiser's state.
CHECKPOINT = "checkpoint"

#: Gives the layout and payload of an accepted update.
Payloads = Callable[[Sequence[Closed]], Iterator[tuple[Closed, Layout | None, Buffer]]]


@dataclass(frozen=True)
class TaskRef:
    """Where a version's round task lies: `offset` is at or before its first part."""

    digest: str
    message_id: str
    parts: int
    nbytes: int
    offset: int


class GlobalModel:
    """The version that the federation stands at. Driven by the coordinator's thread alone."""

    def __init__(
        self,
        config: Config,
        broker: Broker,
        topology: Topology,
        optimizer: ServerOptimizer,
        threads: int,
        runtime: Runtime = THREADS,
    ) -> None:
        self._config = config
        self._broker = broker
        self._topology = topology
        self._recipe = Recipe(config, optimizer, threads)
        self._runtime = runtime
        self._slots: OptimizerState = {}
        self._task: TaskRef | None = None
        self._hint = FIRST
        self._unlocated = 0
        self._checkpoint = self._parent_checkpoint = FIRST
        self.weights: Weights | None = None

    @property
    def layout(self) -> Layout | None:
        return self.weights.layout if self.weights else None

    # --- publishing

    def publish(self, state: State, epoch: int) -> tuple[TaskRef, list[Publication], int]:
        """Where the current version's task is, what is to be published for it, and bytes published here.

        A small task comes back as publications, for the flight that carries the assignments; a large one is
        published here, since assignments must say where it begins. One that is in the log already is neither.
        """
        if self._task is not None and self._task.digest == state.digest:
            return self._task, [], 0
        weights = self.weights
        assert weights is not None
        header = RoundTask(
            self._topology.federation, state.run, epoch, state.version, state.digest, weights.layout.to_wire()
        ).to_header()
        parts = codec.split(RoundTask.KIND, header, weights.payload)
        publications = [Publication(self._topology.rounds, RoundTask.KIND, part) for part in parts]
        nbytes = parts[0].nbytes
        if self._unlocated + nbytes > LOCATE_BYTES or len(parts) > 2:
            self._hint = self._broker.publish(publications, locate=True)
            self._unlocated, publications = 0, []
        else:
            self._unlocated += nbytes
        self._task = TaskRef(state.digest, parts[0].message_id, len(parts), nbytes, self._hint)
        return self._task, publications, 0 if publications else nbytes

    def look_for_task(self) -> None:
        """Has the version's task published again if the log doesn't hold it: the broker may have lost it."""
        task = self._task
        if task is None or find_task(self._broker, self._topology, task.offset, task.digest, self._runtime):
            return
        log.warning("the rounds log has lost version %s of the model: publishing it again", task.digest[:12])
        self._lost_task()

    def publish_again(self, state: State, epoch: int) -> None:
        """Publishes the version and its optimiser state once more: the broker may have lost them."""
        if self.weights is not None and self.weights.digest == state.digest:
            self._lost_task()
            _, publications, _ = self.publish(state, epoch)
            self._broker.publish(publications)
            self._keep_checkpoint(state.version, state.digest)

    def _lost_task(self) -> None:
        self._task = None
        # Published again it may lie before the hint, which is of a log that had not lost its end.
        self._unlocated = LOCATE_BYTES

    def hints(self) -> dict[str, int]:
        """For `round-closed`: offsets at or before the parent's task and checkpoint."""
        return {"task": self._hint, "checkpoint": self._parent_checkpoint}

    # --- folding

    def check_initial(self) -> None:
        """Raises ConfigError if the initial weights are to come from a file, and that isn't them."""
        if self._config.model.initial != "site":
            initial_weights(self._config)

    def fold(self, state: State, payloads: Payloads) -> str:
        """Makes the next version of the closing round, and returns its digest."""
        if state.skipping:
            return state.digest
        if state.version < 0:
            self.weights = self._initial(state.closing, payloads)
            self._slots = self._recipe.optimizer.initial_state(self.weights.layout)
        else:
            assert self.weights is not None
            if weak := self._recipe.rule.warning(len(state.closing)):
                log.warning("round %d: %s", state.round, weak)
            updates = ((row, delta) for row, _, delta in payloads(state.closing))
            self.weights, self._slots = self._recipe.follow(self.weights, self._slots, state.version, updates)
        self._keep_checkpoint(state.version + 1, self.weights.digest)
        return self.weights.digest

    def bears(self, version: int, row: Closed, delta: Buffer) -> str:
        """Why nothing finite would come of an update, were it the only one; "" if something would."""
        assert self.weights is not None
        try:
            _, slots = self._recipe.follow(self.weights, self._slots, version, [(row, delta)])
        except FederationFailed as error:
            return f"the model can't be moved by it: {error}"
        large = next((name for name, slot in slots.items() if not np.isfinite(slot).all()), None)
        return f"it would make the server optimiser's {large!r} infinite" if large else ""

    def _initial(self, rows: Sequence[Closed], payloads: Payloads) -> Weights:
        if self._config.model.initial != "site":
            return initial_weights(self._config)
        _, layout, payload = next(payloads(rows))
        assert layout is not None
        return Weights(layout, bytes(payload))

    def _keep_checkpoint(self, version: int, digest: str) -> None:
        if not self._slots:
            return
        slots = Weights.from_arrays(self._slots)
        header = {
            "protocol": 1,
            "kind": CHECKPOINT,
            "federation": self._topology.federation,
            "version": version,
            "digest": digest,
            "layout": slots.layout.to_wire(),
        }
        parts = codec.split(CHECKPOINT, header, slots.payload)
        publications = [Publication(self._topology.checkpoints, CHECKPOINT, part) for part in parts]
        self._parent_checkpoint = self._checkpoint
        self._checkpoint = self._broker.publish(publications, locate=True)

    # --- finding again

    def recover(self, state: State, payloads: Payloads) -> None:
        """Finds the state's version in the logs, or makes it again from its parent.

        Raises:
            JournalError: the logs no longer hold what it takes.
        """
        if state.version < 0:
            self._look_from(state.hints)
            return
        # What was published again, since its log had lost its end, may lie before the hints.
        for hints in (state.hints, {}):
            self._look_from(hints)
            if self._find(state):
                return
            parent = state.parent
            if parent is not None and (parent.version < 0 or self._find(parent)):
                self._make_again(state, parent, payloads)
                return
        raise JournalError(
            f"the log no longer holds version {state.version} of the model, nor what it was made of: "
            f"restore the broker's data, or start anew with --fresh"
        )

    def _look_from(self, hints: Mapping[str, int]) -> None:
        self._hint = hints.get("task", FIRST)
        self._checkpoint = self._parent_checkpoint = hints.get("checkpoint", FIRST)

    def _make_again(self, state: State, parent: State, payloads: Payloads) -> None:
        log.info("version %d is not in the log: making it again from its updates", state.version)
        made = self.fold(parent, payloads)
        if made != state.digest:
            raise JournalError(
                f"version {state.version} made again has digest {made[:12]}, the journal says "
                f"{state.digest[:12]}: the log was changed; restore the broker's data"
            )

    def _find(self, state: State) -> bool:
        """Loads the state's version, and its optimiser state, if the logs hold them."""
        found = find_task(self._broker, self._topology, self._hint, state.digest, self._runtime)
        if found is None:
            return False
        self._task, self.weights = found
        self._hint = self._task.offset
        self._slots = self._recipe.optimizer.initial_state(self.weights.layout)
        if not self._slots:
            return True
        slots = self._find_checkpoint(state)
        if slots is None:
            self._task = None
            return False
        self._slots = slots
        return True

    def _find_checkpoint(self, state: State) -> OptimizerState | None:
        # Updates of nothing leave the digest as it was, but the optimiser moves on.
        wanted = {"version": state.version, "digest": state.digest}
        topology = self._topology
        assembler = codec.Assembler(MAX_MODEL_BYTES)
        start, runtime = self._checkpoint, self._runtime
        for part in read_log(self._broker, topology.checkpoints, topology.federation, start, runtime):
            whole = assembler.feed(part)
            if whole is not None and {**whole[0], **wanted} == whole[0]:
                slots = Weights(Layout.from_wire(whole[0]["layout"]), whole[1])
                return {name: array.copy() for name, array in slots.arrays.items()}
        return None


def find_task(
    broker: Broker, topology: Topology, start: int, digest: str, runtime: Runtime = THREADS
) -> tuple[TaskRef, Weights] | None:
    """The round task with that digest, read from `start` on; None if the log holds none."""
    for ref, task, payload in tasks(broker, topology, start, runtime):
        if task.digest == digest:
            weights = Weights(Layout.from_wire(task.layout), payload)
            if weights.digest == digest:
                return ref, weights
    return None


def tasks(
    broker: Broker, topology: Topology, start: int, runtime: Runtime = THREADS
) -> Iterator[tuple[TaskRef, RoundTask, Buffer]]:
    """The round tasks in the log, from `start` to its end; what is malformed is passed over."""
    assembler = codec.Assembler(MAX_MODEL_BYTES)
    offset = start
    for part in read_log(broker, topology.rounds, topology.federation, start, runtime):
        if part.part == 0:
            offset = part.offset
        try:
            whole = assembler.feed(part)
            if whole is None or whole[0].get("kind") != RoundTask.KIND:
                continue
            check_protocol(whole[0])
            task = RoundTask.from_header(whole[0])
        except MessageError as error:
            log.warning("rounds log: passed over a malformed message at offset %d: %s", part.offset, error)
            continue
        yield TaskRef(task.digest, part.message_id, part.parts, part.nbytes, offset), task, whole[1]
