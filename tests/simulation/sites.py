"""What the simulated sites do: training that depends on weights and seed alone, and takes its time.

A site may also be slow, fail, or lie; which of its answers are bad depends on the assignment's seed, so that
it would answer the same assignment alike each time.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any, Literal

import numpy as np

from shared.weights import Array
from tests.simulation.process import Process

Mood = Literal["honest", "slow", "failing", "lying"]


def initial_weights(seed: int, size: int) -> dict[str, Array]:
    """Version 0."""
    return {
        "w": (_noise(seed, size) * 8).astype(np.float32),
        "n": np.arange(seed % 5, seed % 5 + 2, dtype=np.int64),
    }


def trained(weights: Mapping[str, Array], seed: int) -> tuple[dict[str, Array], int]:
    """What training makes of the weights, and of how many examples it claims to be."""
    w = weights["w"]
    new = (w * np.float32(0.75) + _noise(seed, w.size).astype(np.float32)).astype(np.float32)
    return {"w": new, "n": weights["n"] + np.int64(seed % 7)}, 1 + seed % 9


class SimTrainer:
    """A site's trainer, in one worker's process."""

    def __init__(self, process: Process, rng: Random, size: int, mood: Mood, slowest_s: float) -> None:
        self._process = process
        self._rng = rng
        self._size = size
        self._mood = mood
        self._slowest_s = slowest_s

    def initial_weights(self, seed: int) -> dict[str, Array]:
        self._take_time()
        return initial_weights(seed, self._size)

    def fit(
        self, weights: Mapping[str, Array], data: Any, config: Mapping[str, Any], seed: int
    ) -> tuple[dict[str, Array], int, dict[str, float]]:
        self._take_time()
        if self._mood == "failing" and seed % 3 == 0:
            raise MemoryError("no room for the batch")
        new, examples = trained(weights, seed)
        if self._mood == "lying":
            new, examples = _lie(new, examples, seed)
        return new, examples, {"loss": float(seed % 100) / 100}

    def evaluate(self, weights: Mapping[str, Array], data: Any) -> tuple[int, dict[str, float]]:
        return 5, {"accuracy": float(abs(weights["w"][0])) % 1.0}

    def _take_time(self) -> None:
        slow = self._mood == "slow" and self._rng.random() < 0.5
        self._process.wait(self._rng.uniform(0.0, self._slowest_s) if slow else self._rng.expovariate(1.0))


def _lie(new: dict[str, Array], examples: int, seed: int) -> tuple[dict[str, Array], int]:
    match seed % 5:
        case 0:
            new["w"] = np.full_like(new["w"], np.nan)
        case 1:
            new["w"] = np.full_like(new["w"], np.float32(3e38))
        case 2:
            examples = 0
        case 3:
            examples = 1 << 50
    return new, examples


def _noise(seed: int, size: int) -> Array:
    """Numbers in [-0.5, 0.5) without a generator: exact on every machine."""
    mixed = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(seed)
    return ((mixed * np.uint64(0xBF58476D1CE4E5B9)) >> np.uint64(40)).astype(np.float64) / (1 << 24) - 0.5
