"""From a round's accepted updates to the next model: one delta by the federation's rule, then the optimiser.

The result is a pure function of base, updates and optimiser state, to the last bit. Updates are taken in
canonical order; every element is folded in float64 by elementwise operations (`coordinator.rules`), divided
once, stepped by the optimiser in float64, and rounded half to even to the tensor's dtype. There is no BLAS
and no reduction along the elements, so neither the order of arrival nor blocks nor threads can change a bit.

The model is folded in blocks: beside the new payload and the new optimiser state it takes a few blocks of
memory a thread, so deltas may be memory maps of any size. Neighbouring tensors of one dtype are one run.

Deltas of integer tensors are in two's complement. They are averaged in float64, rounded half to even, and
added with wrap; the optimiser doesn't touch them. (Exact while their weighted sums stay below 2**53.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from coordinator.blocks import BLOCK, Block, Run, blocks_of, folded_as, items, tensor_at
from coordinator.optimizers import OptimizerState, ServerOptimizer
from coordinator.rules import Mean, Rule
from shared.errors import FederationFailed, MessageError
from shared.weights import Array, Buffer, Layout, Weights, zeros

#: The extreme float64s that are int64s.
_MIN_INT64, _MAX_INT64 = -(2.0**63), 2.0**63 - 1024
_MEAN = Mean()


@dataclass(frozen=True, slots=True)
class Contribution:
    """An accepted update: the payload of its delta in the model's layout, and how much it counts.

    `weight` is examples × discount, or the discount alone. `id` is that of the assignment it answers.
    """

    client: str
    base_version: int
    weight: float
    delta: Buffer
    id: str = ""

    @property
    def key(self) -> tuple[str, int, str]:
        """By this, contributions are ordered; no two in a round have the same."""
        return self.client, self.base_version, self.id


def canonical(contributions: Iterable[Contribution]) -> tuple[Contribution, ...]:
    """The contributions in the order in which they are folded: by client, base version, id.

    Raises:
        FederationFailed: one of them stands there twice.
    """
    ordered = tuple(sorted(contributions, key=lambda contribution: contribution.key))
    for one, other in pairwise(ordered):
        if one.key == other.key:
            raise FederationFailed(f"update {one.key} would be counted twice: please report this bug")
    return ordered


def check_model(layout: Layout) -> None:
    """Checks that models of this layout can be averaged.

    Raises:
        MessageError: a tensor is of truth values or complex numbers, or there is no tensor.
    """
    if not layout.tensors:
        raise MessageError("the model has no tensors: nothing could be trained")
    for tensor in layout.tensors:
        folded_as(tensor)


def finite(layout: Layout, payload: Buffer) -> str | None:
    """The name of the first float tensor that holds a NaN or an infinity, None if all is finite.

    Raises:
        MessageError: the payload's length is not the layout's, or the layout's models can't be averaged.
    """
    return _first_beyond(layout, payload, lambda dtype: np.finfo(dtype).max)


def moderate(layout: Layout, payload: Buffer) -> str | None:
    """The name of the first float tensor that holds anything but finite, moderate values; None if all are.

    Moderate is up to the root of the dtype's largest: no training changes a weight by more, and no number of
    such deltas makes a mean that overflows.

    Raises:
        MessageError: as `finite`.
    """
    return _first_beyond(layout, payload, lambda dtype: np.sqrt(np.finfo(dtype).max))


def _first_beyond(layout: Layout, payload: Buffer, limit_of: Callable[[np.dtype[Any]], Any]) -> str | None:
    """The tensor of the first float value that is none, or larger than its dtype's limit; block by block."""
    _check_length(layout, payload, "the payload")
    for block in blocks_of(layout):
        if block.dtype.kind != "f":
            continue
        values = items(payload, block.dtype)[block.start : block.stop]
        limit = limit_of(block.dtype)
        # Both are NaN if any value is, and that is within no limits.
        if not (-limit <= values.min() and values.max() <= limit):
            first = int((np.abs(values) <= limit).argmin())
            return tensor_at(layout, (block.start + first) * block.dtype.itemsize)
    return None


def aggregate(
    base: Weights,
    contributions: Iterable[Contribution],
    *,
    normalise: Literal["weights", "count"],
    rule: Rule = _MEAN,
    optimizer: ServerOptimizer,
    state: OptimizerState,
    threads: int = 1,
    block: int = BLOCK,
) -> tuple[Weights, OptimizerState]:
    """The next model and optimiser state; base, deltas and state are left as they are.

    A weighted rule's divisor is the sum of the weights, or the number of contributions.

    Raises:
        FederationFailed: nothing to fold, no weight in it, the new model would not be finite, or the state
            is not this optimiser's for this model.
        MessageError: a delta is not in the model's layout, or the model can't be averaged.
    """
    layout, ordered = base.layout, canonical(contributions)
    _check_lengths(base, ordered)
    optimizer.check_state(layout, state)
    payload = zeros(layout.nbytes)
    fold = _Fold(
        rule,
        [contribution.weight for contribution in ordered],
        _divisor(ordered, normalise),
        optimizer,
        [contribution.delta for contribution in ordered],
        base.payload,
        payload,
        state,
        {name: np.empty_like(slot) for name, slot in state.items()},
    )
    fold.run(blocks_of(layout, block), threads)
    if bad := finite(layout, payload):
        raise FederationFailed(
            f"the updates would make tensor {bad!r} infinite: leave out the site they are of"
        )
    return Weights(layout, payload), fold.new_state


@dataclass(frozen=True)
class _Fold:
    """One aggregation on its way: what every thread reads, and the outputs that each writes its blocks of."""

    rule: Rule
    weights: Sequence[float]
    divisor: float
    optimizer: ServerOptimizer
    deltas: Sequence[Buffer]
    base: Buffer
    payload: Buffer
    state: OptimizerState
    new_state: OptimizerState

    def run(self, blocks: Sequence[Run], threads: int) -> None:
        count = min(threads, len(blocks))
        if count <= 1:
            self._stripe(blocks)
            return
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(self._stripe, [blocks[i::count] for i in range(count)]))

    def _stripe(self, blocks: Sequence[Run]) -> None:
        size = max((block.stop - block.start for block in blocks), default=0)
        scratch = np.empty((3 + len(self.state), size))
        views: dict[np.dtype[Any], tuple[Array, Array, list[Array]]] = {}
        # What overflows is found in the result, and named there.
        with np.errstate(all="ignore"):
            for block in blocks:
                if block.dtype not in views:
                    views[block.dtype] = self._views(block.dtype)
                self._fold(block, scratch[:, : block.stop - block.start], *views[block.dtype])

    def _views(self, dtype: np.dtype[Any]) -> tuple[Array, Array, list[Array]]:
        deltas = [items(delta, dtype) for delta in self.deltas]
        return items(self.base, dtype), items(self.payload, dtype), deltas

    def _fold(self, block: Run, scratch: Block, base: Array, out: Array, deltas: Sequence[Array]) -> None:
        place = slice(block.start, block.stop)
        mean, room, x, *slots = scratch
        self.rule.fold([delta[place] for delta in deltas], self.weights, self.divisor, mean, room)
        if block.dtype.kind == "f":
            x[...] = base[place]
            self._step(slice(block.slot, block.slot + mean.size), x, mean, slots, room)
            out[place] = x
        else:
            np.clip(np.rint(mean, out=mean), _MIN_INT64, _MAX_INT64, out=mean)
            np.add(base[place], mean.astype(np.int64).astype(block.dtype), out=out[place])

    def _step(self, place: slice, x: Block, mean: Block, slots: Sequence[Block], room: Block) -> None:
        named = dict(zip(self.state, slots, strict=True))
        for name, slot in named.items():
            slot[...] = self.state[name][place]
        self.optimizer.step(x, mean, named, room)
        for name, slot in named.items():
            self.new_state[name][place] = slot


def _divisor(contributions: Sequence[Contribution], normalise: Literal["weights", "count"]) -> float:
    if not contributions:
        raise FederationFailed("there is no update to make the next model of")
    # One by one: what sum() makes of floats depends on Python's version.
    total = 0.0
    for contribution in contributions:
        if not 0 <= contribution.weight < float("inf"):
            raise FederationFailed(f"the update of {contribution.client} has weight {contribution.weight}")
        total += contribution.weight
    if normalise == "count":
        return float(len(contributions))
    if not 0 < total < float("inf"):
        raise FederationFailed("the round's updates weigh nothing: choose a milder staleness discount")
    return total


def _check_lengths(base: Weights, contributions: Iterable[Contribution]) -> None:
    _check_length(base.layout, base.payload, "the model")
    for contribution in contributions:
        _check_length(base.layout, contribution.delta, f"the update of {contribution.client}")


def _check_length(layout: Layout, payload: Buffer, what: str) -> None:
    nbytes = memoryview(payload).nbytes
    if nbytes != layout.nbytes:
        raise MessageError(f"{what} has {nbytes} bytes, its layout {layout.nbytes}")
