"""How far two models are apart, against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator import distance
from coordinator.distance import apart
from shared.weights import Weights

RNG = np.random.default_rng(3)


def model(scale=1.0, **more):
    named = {"w": RNG.standard_normal((30, 7)).astype(np.float32) * scale, "u": np.array([250, 3], np.uint8)}
    return Weights.from_arrays({**named, **more})


def flat(weights):
    return np.concatenate([array.ravel().astype(np.float64) for array in weights.arrays.values()])


@pytest.mark.parametrize("block", [1, 13, 1 << 17])
def test_against_plain_numpy(monkeypatch, block):
    monkeypatch.setattr(distance, "BLOCK", block)
    one, other = model(), model(50.0)
    x, y = flat(one), flat(other)
    far, cosine = apart(one, other)
    assert far == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(y))
    assert cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def test_the_same_model_and_models_without_a_length():
    one = model()
    assert apart(one, Weights(one.layout, bytes(one.payload))) == (0.0, 1.0)
    zero = Weights(one.layout, bytes(one.layout.nbytes))
    assert apart(one, zero) == (None, None)
    assert apart(zero, one) == (1.0, None)
