"""Softmax regression: one linear layer. With two classes it is logistic regression."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from shared.weights import Array
from worker.trainers.sgd import Classifier, Score, judge

INITS = ("zeros", "uniform")


class SoftmaxRegression(Classifier):
    """Begins at zeros, or `init="uniform"` within ±1/√features, weight and bias alike."""

    def __init__(self, features: int, classes: int = 2, init: str = "zeros") -> None:
        super().__init__(features, classes)
        if init not in INITS:
            raise ValueError(f"init is {init!r}: it must be one of {', '.join(INITS)}")
        self.init = init

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.features, self.outputs), "bias": (self.outputs,)}

    def initial_weights(self, seed: int) -> dict[str, Array]:
        bound = 1 / math.sqrt(self.features) if self.init == "uniform" else 0.0
        rng = np.random.default_rng(seed)
        return {
            name: rng.uniform(-bound, bound, shape).astype(np.float32)
            for name, shape in self.shapes().items()
        }

    def logits(self, weights: Mapping[str, Array], x: Array) -> Array:
        logits: Array = x @ weights["weight"] + weights["bias"]
        return logits

    def gradients(self, weights: Mapping[str, Array], x: Array, y: Array, out: Mapping[str, Array]) -> Score:
        score, slope = judge(self.logits(weights, x), y)
        np.matmul(x.T, slope, out=out["weight"])
        slope.sum(axis=0, out=out["bias"])
        return score
