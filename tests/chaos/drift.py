"""A trainer whose updates are told apart by their bits, and that takes its time. Workers load this file."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np


class Drift:
    """`size` float32 that move by what the seed gives, and two counters: of versions, and one that drifts.

    A training takes up to twice `pause_s`, and leaves a file in `notes` when it is done. From version `last`
    on it waits for the file `gate`.
    """

    def __init__(self, size: int, notes: str, pause_s: float, last: int, gate: str):
        self.size = size
        self.notes = Path(notes)
        self.pause_s = pause_s
        self.last = last
        self.gate = Path(gate)

    def initial_weights(self, seed):
        weight = np.random.default_rng(seed).standard_normal(self.size, np.float32)
        return {"weight": weight, "counters": np.zeros(2, np.int64)}

    def fit(self, weights, data, config, seed):
        rng = np.random.default_rng(seed)
        time.sleep(2 * self.pause_s * rng.random())
        moved = weights["weight"] * np.float32(0.9) + rng.standard_normal(self.size, np.float32)
        while weights["counters"][0] >= self.last and not self.gate.exists():
            time.sleep(0.01)
        (self.notes / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        counters = weights["counters"] + np.array([1, rng.integers(0, 9)])
        return {"weight": moved, "counters": counters}, len(data["x"]), {"mean": float(moved.mean())}

    def evaluate(self, weights, data):
        return len(data["x"]), {"accuracy": float(np.tanh(weights["weight"][: len(data["x"])]).mean())}
