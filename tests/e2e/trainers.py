"""Trainers that misbehave, for the end-to-end tests. Loaded by workers from this file."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from worker.trainers.softmax import SoftmaxRegression


class Honest(SoftmaxRegression):
    """Softmax regression that notes each training: a file named by process and seed in `notes`."""

    def __init__(self, notes: str = "", **params):
        super().__init__(**params)
        self.notes = Path(notes) if notes else None

    def fit(self, weights, data, config, seed):
        if self.notes is not None:
            (self.notes / f"{os.getpid()}-{seed}").touch()
        return super().fit(weights, data, config, seed)


class Gated(Honest):
    """Trains only while the file `gate` exists; says that it waits by its note. Takes `pause_s` at least."""

    def __init__(self, gate: str, pause_s: float = 0.0, **params):
        super().__init__(**params)
        self.gate = Path(gate)
        self.pause_s = pause_s

    def fit(self, weights, data, config, seed):
        result = super().fit(weights, data, config, seed)
        time.sleep(self.pause_s)
        while not self.gate.exists():
            time.sleep(0.01)
        return result


class Slow(Honest):
    """Takes its time."""

    def __init__(self, pause_s: float, **params):
        super().__init__(**params)
        self.pause_s = pause_s

    def fit(self, weights, data, config, seed):
        time.sleep(self.pause_s)
        return super().fit(weights, data, config, seed)


class NotFinite(Honest):
    def fit(self, weights, data, config, seed):
        made, examples, metrics = super().fit(weights, data, config, seed)
        return {name: array * np.float32("nan") for name, array in made.items()}, examples, metrics


class OtherShape(Honest):
    def fit(self, weights, data, config, seed):
        made, examples, metrics = super().fit(weights, data, config, seed)
        return {name: array[:1] for name, array in made.items()}, examples, metrics


class Raising(Honest):
    def fit(self, weights, data, config, seed):
        raise RuntimeError("the scanner's driver is missing")


class Negative(Honest):
    def fit(self, weights, data, config, seed):
        made, _, metrics = super().fit(weights, data, config, seed)
        return made, -5, metrics


class Huge(Honest):
    """Trains well, and gives numbers that no training makes."""

    def fit(self, weights, data, config, seed):
        made, examples, metrics = super().fit(weights, data, config, seed)
        return {name: np.full_like(array, 1e25) for name, array in made.items()}, examples, metrics
