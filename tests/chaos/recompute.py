"""FedAvg once more, in plain numpy: the next model of a base and its updates, to the last bit.

In the order of client, version and assignment id: every element is summed as float64, weighted, divided once,
and rounded to the tensor's type; integers are rounded half to even and added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Update(NamedTuple):
    """A counted update; `staleness` in versions. The first three fields are the order of the sum."""

    client: str
    version: int
    id: str
    staleness: int
    examples: int
    delta: bytes


def next_model(layout: list[Any], base: bytes, updates: Sequence[Update], config: dict[str, Any]) -> bytes:
    """The payload of the version that these updates make of `base`."""
    ordered = sorted(updates)
    by_count = config["federation"]["mode"] == "buffered" and config["buffered"]["normalise"] == "count"
    weights = [_discount(config["staleness"], u.staleness) * (1 if by_count else u.examples) for u in ordered]
    divisor = float(len(ordered)) if by_count else _sum(weights)
    payload = bytearray(len(base))
    for _, name, shape, offset in layout:
        dtype = np.dtype(name).newbyteorder("<")
        size = int(np.prod(shape, dtype=np.int64))
        old = np.frombuffer(base, dtype, size, offset)
        signed = np.dtype(name.removeprefix("u")).newbyteorder("<")
        total = np.zeros(size)
        for update, weight in zip(ordered, weights, strict=True):
            total += np.frombuffer(update.delta, signed, size, offset).astype(np.float64) * weight
        new = _moved(old, total / divisor, config["server"]["learning_rate"])
        payload[offset : offset + new.nbytes] = new.tobytes()
    return bytes(payload)


def _moved(old: Any, mean: Any, learning_rate: float) -> Any:
    if old.dtype.kind == "f":
        return (old.astype(np.float64) + mean * learning_rate).astype(old.dtype)
    return old + np.rint(mean).astype(np.int64).astype(old.dtype)


def _discount(settings: dict[str, Any], staleness: int) -> float:
    match settings["discount"]:
        case "constant":
            return 1.0
        case "polynomial":
            return float((1 + staleness) ** -settings["exponent"])
        case "hinge":
            late = staleness - settings["b"]
            return 1.0 if late <= 0 else 1 / (settings["a"] * late + 1)
    raise ValueError(f"discount {settings['discount']!r} is not known")


def _sum(weights: Sequence[float]) -> float:
    total = 0.0
    for weight in weights:
        total += weight
    return total
