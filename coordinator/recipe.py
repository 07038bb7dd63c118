"""How a federation makes the next version of one: its weights, rule and optimiser, as configured.

A coordinator folds by it, and so does everyone who makes a version again from the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from coordinator import rules
from coordinator.aggregation import Contribution, aggregate
from coordinator.config import Config
from coordinator.facts import Closed
from coordinator.optimizers import OptimizerState, ServerOptimizer
from coordinator.staleness import discount
from shared.weights import Buffer, Weights


class Recipe:
    """`threads` fold; the bits don't depend on it."""

    def __init__(self, config: Config, optimizer: ServerOptimizer, threads: int = 1) -> None:
        staleness = config.staleness
        self._discount = discount(
            staleness.discount, exponent=staleness.exponent, a=staleness.a, b=staleness.b
        )
        self._normalise = config.normalise()
        self._threads = threads
        self.rule = rules.make(config.aggregation)
        self.optimizer = optimizer

    def weight(self, base: int, row: Closed) -> float:
        """What an update weighs where version `base` is moved on: by its examples, if they count, and age."""
        factor = self._discount(base - row.version)
        return factor * row.examples if self._normalise == "weights" else factor

    def shares(self, base: int, rows: Sequence[Closed]) -> list[float]:
        """Each update's share in what moves version `base` on; rules that weigh nothing give equal ones."""
        if not isinstance(self.rule, rules.Mean):
            return [1 / len(rows)] * len(rows)
        weights = [self.weight(base, row) for row in rows]
        divisor = sum(weights) if self._normalise == "weights" else len(rows)
        return [weight / divisor if divisor else 0.0 for weight in weights]

    def follow(
        self, base: Weights, state: OptimizerState, version: int, updates: Iterable[tuple[Closed, Buffer]]
    ) -> tuple[Weights, OptimizerState]:
        """The version after `base`, which is number `version`, and its optimiser state.

        Raises:
            FederationFailed, MessageError: as `coordinator.aggregation.aggregate`.
        """
        contributions = [
            Contribution(row.client, row.version, self.weight(version, row), delta, row.id)
            for row, delta in updates
        ]
        return aggregate(
            base,
            contributions,
            normalise=self._normalise,
            rule=self.rule,
            optimizer=self.optimizer,
            state=state,
            threads=self._threads,
        )
