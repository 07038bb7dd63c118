"""Server optimisers: what a closed round's mean delta does to the global model.

Each is an elementwise function over float64 blocks, so that a model may be stepped in any pieces, on any
number of threads, with the same bits. Blocks are worked on in place: they are the caller's copies, and making
new ones costs several times the arithmetic. What an optimiser remembers is kept in *slots*: one flat array
each, with an element for every float element of the model, in layout order. Slots are float32, or float64
if the model has a float64 tensor; the rounded values are what the next step starts from, so a state that
was stored and read back goes on with the same bits.

Integer tensors are no concern of an optimiser: they are averaged, and that is all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from shared.errors import ConfigError, FederationFailed
from shared.weights import DTYPES, Layout

Block = npt.NDArray[np.float64]
Blocks = Mapping[str, Block]
OptimizerState = Mapping[str, npt.NDArray[Any]]


class Settings(Protocol):
    """The configuration's `[server]` table; None stands for the optimiser's own default."""

    @property
    def optimizer(self) -> str: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def momentum(self) -> float | None: ...
    @property
    def beta1(self) -> float | None: ...
    @property
    def beta2(self) -> float | None: ...
    @property
    def tau(self) -> float | None: ...


@dataclass(frozen=True, kw_only=True)
class ServerOptimizer(ABC):
    """Base of all. The fields of an optimiser are the parameters that it takes, with their defaults."""

    learning_rate: float = 1.0

    @property
    def slots(self) -> Mapping[str, float]:
        """The names of what it remembers, and the value that each starts from."""
        return {}

    @abstractmethod
    def step(self, x: Block, delta: Block, slots: Blocks, room: Block) -> None:
        """Moves a block of the model, and of the slots, by the mean delta; uses up `delta` and `room`."""

    def initial_state(self, layout: Layout) -> OptimizerState:
        """The state before the first step; empty for an optimiser that remembers nothing."""
        size, dtype = _slot_of(layout)
        return {name: np.full(size, start, dtype) for name, start in self.slots.items()}

    def check_state(self, layout: Layout, state: OptimizerState) -> None:
        """Checks that a state is one of this optimiser's, for models of this layout.

        Raises:
            FederationFailed: it is not.
        """
        size, dtype = _slot_of(layout)
        if state.keys() != self.slots.keys() or any(
            slot.shape != (size,) or slot.dtype != dtype for slot in state.values()
        ):
            raise FederationFailed("the server optimiser's state belongs to another model or optimiser")


@dataclass(frozen=True, kw_only=True)
class FedAvg(ServerOptimizer):
    """x ← x + η Δ."""

    def step(self, x: Block, delta: Block, slots: Blocks, room: Block) -> None:
        delta *= self.learning_rate
        x += delta


@dataclass(frozen=True, kw_only=True)
class FedAvgM(ServerOptimizer):
    """Server momentum: m ← β m + Δ, x ← x + η m."""

    momentum: float = 0.9

    @property
    def slots(self) -> Mapping[str, float]:
        return {"m": 0.0}

    def step(self, x: Block, delta: Block, slots: Blocks, room: Block) -> None:
        m = slots["m"]
        m *= self.momentum
        m += delta
        np.multiply(m, self.learning_rate, out=room)
        x += room


@dataclass(frozen=True, kw_only=True)
class _Adaptive(ServerOptimizer):
    """m ← β₁ m + (1 − β₁) Δ, v as the optimiser has it, x ← x + η m / (√v + τ).

    v starts at τ², and there is no bias correction. With β₁ = 0, m is Δ and no slot is kept for it.
    """

    beta1: float = 0.9
    tau: float = 1e-3

    @property
    def slots(self) -> Mapping[str, float]:
        first = {"m": 0.0} if self.beta1 else {}
        return {**first, "v": self.tau**2}

    def step(self, x: Block, delta: Block, slots: Blocks, room: Block) -> None:
        m, v = slots.get("m", room), slots["v"]
        np.multiply(delta, 1 - self.beta1, out=room)
        if m is not room:
            m *= self.beta1
            m += room
        delta *= delta
        self._second_moment(v, delta)
        np.sqrt(v, out=delta)
        delta += self.tau
        np.divide(m, delta, out=delta)
        delta *= self.learning_rate
        x += delta

    @abstractmethod
    def _second_moment(self, v: Block, square: Block) -> None:
        """Moves v by Δ², which it uses up."""


@dataclass(frozen=True, kw_only=True)
class FedAdagrad(_Adaptive):
    """v ← v + Δ²."""

    beta1: float = 0.0

    def _second_moment(self, v: Block, square: Block) -> None:
        v += square


@dataclass(frozen=True, kw_only=True)
class FedAdam(_Adaptive):
    """v ← β₂ v + (1 − β₂) Δ²."""

    beta2: float = 0.99

    def _second_moment(self, v: Block, square: Block) -> None:
        v *= self.beta2
        square *= 1 - self.beta2
        v += square


@dataclass(frozen=True, kw_only=True)
class FedYogi(_Adaptive):
    """v ← v − (1 − β₂) Δ² sign(v − Δ²)."""

    beta2: float = 0.99

    def _second_moment(self, v: Block, square: Block) -> None:
        towards = np.sign(v - square)
        square *= 1 - self.beta2
        square *= towards
        v -= square


OPTIMIZERS: Mapping[str, type[ServerOptimizer]] = {
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
}


def create(name: str, **params: float) -> ServerOptimizer:
    """The optimiser of that name.

    Raises:
        ConfigError: there is none of that name, or it does not take a parameter.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f"server optimizer {name!r} is not known; known are {', '.join(OPTIMIZERS)}")
    taken = [field.name for field in fields(OPTIMIZERS[name])]
    for param in params:
        if param not in taken:
            raise ConfigError(f"server optimizer {name!r} takes no {param!r}, but {', '.join(taken)}")
    return OPTIMIZERS[name](**params)


def make(settings: Settings) -> ServerOptimizer:
    """The optimiser that a federation's `[server]` table asks for.

    Raises:
        ConfigError: the table sets a parameter that its optimiser does not take.
    """
    params = {
        "learning_rate": settings.learning_rate,
        "momentum": settings.momentum,
        "beta1": settings.beta1,
        "beta2": settings.beta2,
        "tau": settings.tau,
    }
    return create(settings.optimizer, **{name: value for name, value in params.items() if value is not None})


def _slot_of(layout: Layout) -> tuple[int, np.dtype[Any]]:
    """Elements and dtype of a slot."""
    floats = [tensor for tensor in layout.tensors if DTYPES[tensor.dtype].kind == "f"]
    dtype = "float64" if any(tensor.dtype == "float64" for tensor in floats) else "float32"
    return sum(tensor.size for tensor in floats), DTYPES[dtype]
