"""Recorded versions made again under other settings, and compared with what they were.

Each version is made of the one before it and of the updates that its round counts. The updates are the
recorded ones, whatever the settings: the clients trained on the recorded versions. So one round ahead is what
would have been; further on, the recorded updates are applied to models that no client trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from coordinator.distance import apart
from coordinator.ledger import Ledger
from coordinator.optimizers import OptimizerState
from coordinator.optimizers import make as make_optimizer
from coordinator.plan import Counted, Plan, Wish
from coordinator.recipe import Recipe
from coordinator.recording import Recording
from coordinator.tapes import NotRecorded
from shared.broker.port import Broker
from shared.errors import FederationFailed
from shared.weights import Weights

APPROXIMATION = (
    "from the second round on this is an approximation: the clients trained on the recorded models, and what "
    "they sent is applied to the replayed ones; --one-round-ahead makes each round of its recorded parent"
)
ANEW = "the server optimiser's settings differ: its state begins anew at version {}"


@dataclass(frozen=True)
class Line:
    """A round as it was, and as it is replayed: digests of the model behind it, and who counts in it.

    `metrics` are the recorded version's, {} if nobody scored it. `distance` is ‖replayed − recorded‖ relative
    to ‖recorded‖, `cosine` that of the angle between the two; None where the recorded weights aren't at hand.
    `seconds` are what the round took; `replayed_seconds` what it would have, where that was decided anew.
    """

    round: int
    version: int
    digest: str
    clients: tuple[str, ...]
    seconds: float
    metrics: dict[str, float]
    replayed: str
    replayed_clients: tuple[str, ...]
    replayed_seconds: float | None
    distance: float | None
    cosine: float | None
    notes: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether the replay gave the recorded bits."""
        return self.digest == self.replayed


@dataclass
class Replay:
    """One replay. `folder` is where payloads lie meanwhile; the bits don't depend on `threads`."""

    broker: Broker
    ledger: Ledger
    plan: Plan
    wish: Wish
    folder: Path
    threads: int = 1
    _recipe: Recipe = field(init=False)

    def __post_init__(self) -> None:
        config = self.wish.settings.config
        self._recipe = Recipe(config, make_optimizer(config.server), self.threads)

    def notes(self, lines: Sequence[Line]) -> list[str]:
        """What a person must know to read the lines."""
        notes = list(self.plan.notes)
        if self.wish.settings.optimizes:
            notes.append(ANEW.format(self.plan.since))
        if not self.wish.ahead and not all(line.same for line in lines[:-1]):
            notes.append(APPROXIMATION)
        return notes

    def lines(self) -> Iterator[tuple[Line, Weights]]:
        """Makes the rounds' models, one by one.

        Raises:
            NotRecorded: the logs lack what it takes.
            FederationFailed: a round's updates make no model under these settings.
        """
        rounds = {counted.round.number: counted for counted in self.plan.rounds}
        ledger = replace(
            self.ledger,
            rounds=tuple(
                replace(round_, rows=rounds[round_.number].rows, decided=-1)
                if round_.number in rounds
                else round_
                for round_ in self.ledger.rounds
            ),
        )
        with Recording(self.broker, ledger, self.folder, self.plan.since) as recording:
            weights, state = self._recorded(recording, self.plan.since)
            for counted in self.plan.rounds:
                if self.wish.ahead:
                    weights, recorded_state = self._recorded(recording, counted.base)
                    state = state if self.wish.settings.optimizes else recorded_state
                weights, state = self._made(recording, counted, weights, state)
                yield self._line(recording, counted, weights), weights

    def _recorded(self, recording: Recording, version: int) -> tuple[Weights, OptimizerState]:
        """A recorded version to begin with; its own copy, since what a recording hands out doesn't last."""
        weights = recording.weights(version)
        if self.wish.settings.optimizes:
            state = self._recipe.optimizer.initial_state(weights.layout)
        else:
            state = {name: slot.copy() for name, slot in recording.optimizer_state(version).items()}
        return Weights(weights.layout, bytes(weights.payload)), state

    def _made(
        self, recording: Recording, counted: Counted, weights: Weights, state: OptimizerState
    ) -> tuple[Weights, OptimizerState]:
        if not counted.rows:
            return weights, state
        round_ = replace(counted.round, rows=counted.rows, decided=-1)
        updates = (
            (one.row._replace(version=counted.base - stale), one.payload)
            for one, stale in zip(recording.updates(round_), counted.behind, strict=True)
        )
        try:
            return self._recipe.follow(weights, state, counted.base, updates)
        except FederationFailed as error:
            raise FederationFailed(f"round {counted.round.number} can't be replayed so: {error}") from error

    def _line(self, recording: Recording, counted: Counted, weights: Weights) -> Line:
        round_ = counted.round
        notes = self._remarks(counted)
        distance, cosine = None, None
        if weights.digest == round_.digest:
            distance, cosine = 0.0, 1.0
        else:
            try:
                distance, cosine = apart(weights, recording.weights(round_.version))
            except NotRecorded as error:
                notes.append(str(error))
        return Line(
            round_.number,
            round_.version,
            round_.digest,
            tuple(row.client for row in round_.rows),
            round_.line["seconds"],
            dict(self.plan.metrics.get(round_.version, {})),
            weights.digest,
            tuple(row.client for row in counted.rows),
            counted.seconds,
            distance,
            cosine,
            tuple(notes),
        )

    def _remarks(self, counted: Counted) -> list[str]:
        """What is odd about a round of the replay."""
        if not counted.rows:
            return ["it counts nothing: the model stays as it is"]
        minimum = self.wish.settings.config.cohort.minimum
        remarks = [f"{len(counted.rows)} updates are fewer than cohort.minimum"] * (
            len(counted.rows) < minimum
        )
        warning = self._recipe.rule.warning(len(counted.rows))
        return remarks + [warning] * bool(warning)
