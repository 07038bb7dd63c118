"""Trainers for tests in the field: models of any size, and notes of what was trained how often."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np


class Wide:
    """One tensor of `size` float32, moved a little by the data and the seed: cheap, and never twice the same.

    Each training adds a line to the note named by process and seed, and takes at least `pause_s`.
    """

    def __init__(self, size: int, notes: str, pause_s: float = 0.0):
        self.size = size
        self.notes = Path(notes)
        self.pause_s = pause_s

    def initial_weights(self, seed):
        return {"weight": np.linspace(0, 1, self.size, dtype=np.float32)}

    def fit(self, weights, data, config, seed):
        with (self.notes / f"{os.getpid()}-{seed}").open("a") as note:
            note.write("trained\n")
        time.sleep(self.pause_s)
        local = weights["weight"] * np.float32(0.5)
        local += np.float32(data["x"].mean() + seed % 97 / 97)
        return {"weight": local}, len(data["x"]), {"seed": seed % 97}

    def evaluate(self, weights, data):
        return len(data["x"]), {"first": float(weights["weight"][0])}
