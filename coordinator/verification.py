"""Every version of a ledger made again from the log, and compared with what was recorded.

A version is made again of its parent's recorded weights and optimiser state, and of the updates that its
round counts, as the recorded configuration says. Its digest must be the journal's, and that of the weights in
its round task; its optimiser state must be the recorded one. So each version is judged by itself, and what
retention has dropped of one leaves the others as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from coordinator import intake
from coordinator.closing import mean_metrics
from coordinator.ledger import Evaluation, Ledger, Round
from coordinator.optimizers import OptimizerState
from coordinator.optimizers import make as make_optimizer
from coordinator.recipe import Recipe
from coordinator.recording import Recorded, Recording
from coordinator.soundness import Books
from coordinator.tapes import Damaged, NotRecorded, Trimmed
from shared.broker.port import Broker
from shared.errors import FederationFailed, MessageError
from shared.weights import Weights

Thing = TypeVar("Thing")
#: Made again and the same; its weights are as recorded, but it can't be made again; neither; it differs.
Result = Literal["verified", "recorded", "unverifiable", "differs"]


@dataclass(frozen=True)
class Finding:
    """What became of a version: `differences` are what differs, `lacks` what the log doesn't hold for it.

    `updates` are those that its round counts; `origin` is whose initial weights it is, if it is version 0.
    """

    version: int
    digest: str
    result: Result
    updates: int
    origin: str = ""
    differences: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


class Verifier:
    """Verifies the versions of a ledger. `folder` is where updates lie meanwhile; `threads` fold."""

    def __init__(self, broker: Broker, ledger: Ledger, folder: Path, threads: int) -> None:
        self._broker = broker
        self._ledger = ledger
        self._folder = folder
        self._recipe = Recipe(ledger.config, make_optimizer(ledger.config.server), threads)
        self._books = Books(ledger.config.federation.mode == "buffered")

    def findings(self) -> Iterator[Finding]:
        """A finding for each version, in order; one more for a skipped round that contradicts the others."""
        with Recording(self._broker, self._ledger, self._folder) as recording:
            for round_ in self._ledger.rounds:
                faults = self._books.faults(round_)
                if not round_.skipped:
                    yield _Trial(recording, self._recipe, round_, faults).finding()
                elif faults:
                    yield Finding(round_.version, round_.digest, "differs", 0, differences=tuple(faults))


class _Trial:
    """One version under examination."""

    def __init__(self, recording: Recording, recipe: Recipe, round_: Round, differences: list[str]) -> None:
        self._recording = recording
        self._recipe = recipe
        self._round = round_
        self._version = round_.version
        self._forked_from = recording.ledger.config.federation.forked_from
        self._differences = differences
        self._lacks: list[str] = []

    def finding(self) -> Finding:
        """The verdict; for once."""
        origin = self._origin() if self._version == 0 else ""
        updates = self._updates()
        made = self._made(updates) if updates is not None else None
        recorded = self._own("weights", partial(self._recording.weights, self._version))
        if self._version == 0 and not self._round.rows and recorded is not None:
            # From a file: of that, only the digest is known.
            made = recorded, self._recipe.optimizer.initial_state(recorded.layout)
        if made is not None:
            self._compare(*made)
        self._compare_evaluation()
        return Finding(
            self._version,
            self._round.digest,
            self._result(made is not None, recorded is not None),
            len(self._round.rows),
            origin,
            tuple(self._differences),
            tuple(self._lacks),
        )

    def _result(self, made: bool, recorded: bool) -> Result:
        if self._differences:
            return "differs"
        if made:
            return "verified"
        return "recorded" if recorded else "unverifiable"

    def _origin(self) -> str:
        """Whose initial weights version 0 is; a fork's must be the version that it says."""
        if self._round.rows:
            return self._round.rows[0].client
        place, _, digest = (self._forked_from or "").rpartition(":")
        if place and digest != self._round.digest:
            self._differences.append(f"it is not the version that the federation was forked from, {place}")
        return place or "a file"

    # --- what it was made of

    def _updates(self) -> list[Recorded] | None:
        """The updates that the round counts; None unless all are there, as they were accepted."""
        each = [
            self._own("updates", partial(self._recording.update, self._round, row))
            for row in self._round.rows
        ]
        found = [update for update in each if update is not None]
        if len(found) < len(each):
            return None
        self._compare_metrics(self._round, found, self._version - 1)
        return found

    def _made(self, updates: list[Recorded]) -> tuple[Weights, OptimizerState] | None:
        """The version made again; None if it can't be."""
        before = self._version - 1
        if self._version == 0:
            return self._initial()
        base = self._others("parent's weights", partial(self._recording.weights, before))
        state = self._others("parent's optimiser state", partial(self._recording.optimizer_state, before))
        if base is None or state is None:
            return None
        deltas = ((update.row, update.payload) for update in updates)
        try:
            return self._recipe.follow(base, state, before, deltas)
        except (FederationFailed, MessageError) as error:
            self._differences.append(f"it can't be made again: {error}")
            return None

    def _initial(self) -> tuple[Weights, OptimizerState] | None:
        if not self._round.rows:
            return None
        weights = self._own("updates", partial(self._recording.initial_weights, self._round))
        return None if weights is None else (weights, self._recipe.optimizer.initial_state(weights.layout))

    # --- what it is compared with

    def _compare(self, weights: Weights, state: OptimizerState) -> None:
        made, said = weights.digest[:12], self._round.digest[:12]
        if weights.digest != self._round.digest:
            self._differences.append(f"made again it has digest {made}, and the journal says {said}")
            return
        recorded = self._own("optimiser state", partial(self._recording.optimizer_state, self._version))
        if recorded is not None and _fingerprint(recorded) != _fingerprint(state):
            self._differences.append("made again it has another optimiser state than the recorded one")

    def _compare_evaluation(self) -> None:
        """The last version may have been scored by everybody."""
        last = self._recording.ledger.evaluation
        if last is None or last.version != self._version:
            return
        if last.digest != self._round.digest:
            self._differences.append("the journal's evaluation of it is one of another digest")
        self._compare_metrics(last, [], self._version)

    def _compare_metrics(self, within: Round | Evaluation, updates: list[Recorded], version: int) -> None:
        """The means in the journal follow from what the updates and those who only scored say."""
        scores = [
            self._own("evaluations", partial(self._recording.update, within, row)) for row in within.scores
        ]
        read = [*updates, *(score for score in scores if score is not None)]
        if len(read) < len(updates) + len(scores):
            return
        rows = [(each.update, each.row.offset, each.row.sender, each.row.message_id) for each in read]
        if mean_metrics([intake.claimed(*row) for row in rows], version) != within.metrics:
            self._differences.append("the metrics in the journal are not the means of what its updates say")

    # --- what the log gives

    def _own(self, what: str, read: Callable[[], Thing]) -> Thing | None:
        """What belongs to this version; if it is damaged, this version differs."""
        try:
            return read()
        except Damaged as error:
            self._differences.append(str(error))
        except NotRecorded as error:
            self._lack(what, error)
        return None

    def _others(self, what: str, read: Callable[[], Thing]) -> Thing | None:
        """What belongs to the version before, which differs if it is damaged."""
        try:
            return read()
        except NotRecorded as error:
            self._lack(what, error)
        return None

    def _lack(self, what: str, error: NotRecorded) -> None:
        how = {Damaged: "damaged", Trimmed: "trimmed"}.get(type(error), "not in the log")
        if f"{what} {how}" not in self._lacks:
            self._lacks.append(f"{what} {how}")


def _fingerprint(state: OptimizerState) -> list[tuple[str, str, str]]:
    return [
        (name, slot.dtype.name, hashlib.sha256(slot.data).hexdigest()) for name, slot in sorted(state.items())
    ]
