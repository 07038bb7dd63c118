"""How far two models of one layout are apart. Block by block, so that they may be maps of any size."""

from __future__ import annotations

from math import sqrt

import numpy as np

from coordinator.blocks import BLOCK
from shared.weights import Weights


def apart(one: Weights, other: Weights) -> tuple[float | None, float | None]:
    """‖one − other‖ / ‖other‖, and the cosine of the angle between them, over all tensors.

    None where a model's norm is 0. Figures to look at: their last bits depend on the machine.
    """
    if one.digest == other.digest:
        return 0.0, 1.0
    apart = ones = others = product = 0.0
    for name, array in one.arrays.items():
        first, second = array.reshape(-1), other.arrays[name].reshape(-1)
        for start in range(0, first.size, BLOCK):
            x = first[start : start + BLOCK].astype(np.float64)
            y = second[start : start + BLOCK].astype(np.float64)
            ones, others, product = ones + float(x @ x), others + float(y @ y), product + float(x @ y)
            x -= y
            apart += float(x @ x)
    distance = sqrt(apart / others) if others else None
    return distance, product / sqrt(ones * others) if ones and others else None
