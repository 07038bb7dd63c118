"""A multilayer perceptron: dense layers with ReLU between them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from shared.weights import Array
from worker.trainers.sgd import Classifier, Score, judge


class MultilayerPerceptron(Classifier):
    """`hidden` holds the layers' widths; 784 features, 10 classes and (200, 200) is the papers' "2NN"."""

    def __init__(self, features: int, classes: int = 2, hidden: Sequence[int] = (200, 200)) -> None:
        super().__init__(features, classes)
        if isinstance(hidden, str) or not all(type(width) is int and width > 0 for width in hidden):
            raise ValueError(f"hidden is {hidden!r}: it must be a list of widths, such as [200, 200]")
        self._widths = (features, *hidden, self.outputs)
        self._layers = len(self._widths) - 1

    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, (before, after) in enumerate(itertools.pairwise(self._widths)):
            shapes |= {f"weight{layer}": (before, after), f"bias{layer}": (after,)}
        return shapes

    def initial_weights(self, seed: int) -> dict[str, Array]:
        """He's uniform weights, which keep the variance through ReLU, and no biases."""
        rng = np.random.default_rng(seed)
        return {
            name: rng.uniform(-1, 1, shape).astype(np.float32) * np.float32(math.sqrt(6 / shape[0]))
            if name.startswith("weight")
            else np.zeros(shape, np.float32)
            for name, shape in self.shapes().items()
        }

    def logits(self, weights: Mapping[str, Array], x: Array) -> Array:
        return self._forward(weights, x)[-1]

    def gradients(self, weights: Mapping[str, Array], x: Array, y: Array, out: Mapping[str, Array]) -> Score:
        outputs = self._forward(weights, x)
        score, slope = judge(outputs[-1], y)
        for layer in reversed(range(self._layers)):
            np.matmul(outputs[layer].T, slope, out=out[f"weight{layer}"])
            slope.sum(axis=0, out=out[f"bias{layer}"])
            if layer:
                slope = slope @ weights[f"weight{layer}"].T
                slope *= outputs[layer] > 0
        return score

    def _forward(self, weights: Mapping[str, Array], x: Array) -> list[Array]:
        """What each layer puts out, beginning with the input itself."""
        outputs = [x]
        for layer in range(self._layers):
            out = outputs[-1] @ weights[f"weight{layer}"]
            out += weights[f"bias{layer}"]
            if layer < self._layers - 1:
                np.maximum(out, 0, out=out)
            outputs.append(out)
        return outputs
