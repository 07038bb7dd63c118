"""Stochastic gradient descent, and what the ready-made classifiers share.

The parameters live in one flat buffer while they are trained, with a view for each tensor: a step is then a
few operations on one array, however many tensors the model has.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from shared.weights import Array

#: Rows that are scored at one time in `evaluate`.
SCORED_ROWS = 4096


@dataclass(frozen=True)
class Settings:
    """How to train: the federation's `[training]` table.

    `steps` batches, or so many `epochs` over the data; `batch_size` 0 is the whole data in one batch. `l2`
    is the weight of decay, on all parameters; `mu` that of FedProx's pull towards the received weights.
    """

    epochs: int = 1
    steps: int | None = None
    batch_size: int = 32
    learning_rate: float = 0.1
    momentum: float = 0.0
    l2: float = 0.0
    mu: float = 0.0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Settings:
        """Reads and checks the table.

        Raises:
            ValueError: a key isn't known, or its value can't be used; the sentence names it.
        """
        known = [field.name for field in fields(cls)]
        unknown = [key for key in config if key not in known]
        if unknown:
            raise ValueError(f"[training] has a key {unknown[0]!r}; this trainer knows {', '.join(known)}")
        if "epochs" in config and "steps" in config:
            raise ValueError("[training] has both epochs and steps: give one of them")
        values = dict(config)
        if values.get("batch_size") == "all":
            values["batch_size"] = 0
        for key in ("epochs", "steps", "batch_size"):
            if key in values:
                _check_count(key, values[key], least=0 if key == "batch_size" else 1)
        for key in ("learning_rate", "momentum", "l2", "mu"):
            if key in values:
                _check_number(key, values[key])
        return cls(**values)

    def steps_over(self, rows: int) -> int:
        """The number of batches that a training on so many rows takes."""
        return self.steps or self.epochs * math.ceil(rows / (self.batch_size or rows))


class Score(NamedTuple):
    """How a model did on some rows: the sum of its losses, and how many rows it got right."""

    rows: int = 0
    loss: float = 0.0
    correct: int = 0

    def plus(self, other: Score) -> Score:
        return Score(self.rows + other.rows, self.loss + other.loss, self.correct + other.correct)

    def metrics(self) -> dict[str, float]:
        """Means; of no rows there are none."""
        return {"loss": self.loss / self.rows, "accuracy": self.correct / self.rows} if self.rows else {}


class Classifier(ABC):
    """A trainer of classes 0 … `classes` − 1. Two classes are one logit, with a sigmoid."""

    def __init__(self, features: int, classes: int) -> None:
        _check_count("features", features, least=1)
        _check_count("classes", classes, least=2)
        self.features = features
        self.classes = classes
        self.outputs = 1 if classes == 2 else classes

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor, by name."""

    @abstractmethod
    def initial_weights(self, seed: int) -> dict[str, Array]:
        """The model before any training."""

    @abstractmethod
    def logits(self, weights: Mapping[str, Array], x: Array) -> Array:
        """The model's outputs for some rows."""

    @abstractmethod
    def gradients(self, weights: Mapping[str, Array], x: Array, y: Array, out: Mapping[str, Array]) -> Score:
        """Writes the gradient of the mean loss over some rows into `out`."""

    def fit(
        self, weights: Mapping[str, Array], data: Mapping[str, Array], config: Mapping[str, Any], seed: int
    ) -> tuple[dict[str, Array], int, dict[str, float]]:
        """Trains by SGD; the metrics are means over the training's batches, as they were met.

        Raises:
            ValueError: the config, the weights or the data don't fit this trainer.
            ArithmeticError: the training left the finite numbers.
        """
        settings = Settings.of(config)
        self._check_weights(weights)
        x, y = self._examples(data, "x", "y")
        if not len(x):
            raise ValueError("the data has no rows to train on")
        flat, local = _flattened(weights)
        with np.errstate(over="ignore", invalid="ignore"):
            score = self._descend(flat, local, x, y, settings, np.random.default_rng(seed))
        if not np.isfinite(flat).all():
            raise ArithmeticError(_why_not_finite(x))
        return local, len(x), score.metrics()

    def evaluate(
        self, weights: Mapping[str, Array], data: Mapping[str, Array]
    ) -> tuple[int, dict[str, float]]:
        """Scores the model on the test rows, or where the data has none, on all rows.

        Raises:
            ValueError: the weights or the data don't fit this trainer.
        """
        self._check_weights(weights)
        names = ("x_test", "y_test") if "x_test" in data else ("x", "y")
        x, y = self._examples(data, *names)
        dtype = next(iter(weights.values())).dtype
        score = Score()
        for start in range(0, len(x), SCORED_ROWS):
            rows = slice(start, start + SCORED_ROWS)
            logits = self.logits(weights, x[rows].astype(dtype, copy=False))
            score = score.plus(judge(logits, y[rows])[0])
        return score.rows, score.metrics()

    def _descend(
        self,
        flat: Array,
        local: Mapping[str, Array],
        x: Array,
        y: Array,
        settings: Settings,
        rng: np.random.Generator,
    ) -> Score:
        received = flat.copy()
        gradient, slots = _flattened({name: np.zeros_like(view) for name, view in local.items()})
        velocity = np.zeros_like(flat)
        score = Score()
        steps = settings.steps_over(len(x))
        for rows in itertools.islice(batches(len(x), settings.batch_size, rng), steps):
            score = score.plus(self.gradients(local, x[rows].astype(flat.dtype, copy=False), y[rows], slots))
            if settings.l2:
                gradient += settings.l2 * flat
            if settings.mu:
                gradient += settings.mu * (flat - received)
            if settings.momentum:
                velocity *= settings.momentum
                velocity += gradient
                flat -= settings.learning_rate * velocity
            else:
                flat -= settings.learning_rate * gradient
        return score

    def _check_weights(self, weights: Mapping[str, Array]) -> None:
        shapes = self.shapes()
        given = {name: tuple(value.shape) for name, value in weights.items()}
        if given != shapes:
            raise ValueError(f"the model has the tensors {given}, this trainer has {shapes}")
        dtypes = {value.dtype for value in weights.values()}
        if len(dtypes) != 1 or next(iter(dtypes)).kind != "f":
            raise ValueError("the model's tensors must all be of one float dtype")

    def _examples(self, data: Mapping[str, Array], x_name: str, y_name: str) -> tuple[Array, Array]:
        """Rows of features (images become rows) and their classes as whole numbers."""
        for name in (x_name, y_name):
            if name not in data:
                raise ValueError(f"the data has no array {name!r}")
        x = np.asarray(data[x_name])
        x = x.reshape(len(x), math.prod(x.shape[1:]))
        y = np.asarray(data[y_name]).reshape(-1)
        if x.shape[1] != self.features:
            raise ValueError(
                f"array {x_name!r} has {x.shape[1]} features, the trainer was made for {self.features}"
            )
        if len(y) != len(x):
            raise ValueError(f"array {y_name!r} has {len(y)} labels for {len(x)} rows")
        fits = y.dtype.kind in "biuf" and np.all((np.mod(y, 1) == 0) & (y >= 0) & (y < self.classes))
        if not fits:
            raise ValueError(
                f"array {y_name!r} holds something else than the classes 0 to {self.classes - 1}"
            )
        return x, y.astype(np.int64, copy=False)


def judge(logits: Array, y: Array) -> tuple[Score, Array]:
    """Cross-entropy: the score, and the gradient of the mean loss by the logits."""
    if logits.shape[1] == 1:
        return _judge_logit(logits, y)
    places = np.arange(len(y))
    correct = int((logits.argmax(axis=1) == y).sum())
    slope = logits - logits.max(axis=1, keepdims=True)
    losses = -slope[places, y]
    np.exp(slope, out=slope)
    total = slope.sum(axis=1, keepdims=True)
    losses += np.log(total[:, 0])
    slope /= total
    slope[places, y] -= 1
    slope /= len(y)
    return Score(len(y), float(losses.sum()), correct), slope


def _judge_logit(logits: Array, y: Array) -> tuple[Score, Array]:
    logit = logits[:, 0]
    correct = int(((logit > 0) == (y == 1)).sum())
    losses = np.logaddexp(0, logit) - np.where(y == 1, logit, 0)
    # This form of the sigmoid overflows nowhere.
    slope = (1 + np.tanh(logits / 2)) / 2
    slope[:, 0] -= y
    slope /= len(y)
    return Score(len(y), float(losses.sum()), correct), slope


def batches(rows: int, size: int, rng: np.random.Generator) -> Iterator[Array | slice]:
    """Batches without end, shuffled anew for each pass; one that covers all rows needs no shuffle."""
    while True:
        if size == 0 or size >= rows:
            yield slice(None)
            continue
        order = rng.permutation(rows)
        yield from (order[start : start + size] for start in range(0, rows, size))


def _flattened(weights: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
    """A copy of all tensors in one flat array, and a view of it for each."""
    flat = np.concatenate([value.reshape(-1) for value in weights.values()])
    ends = np.cumsum([value.size for value in weights.values()])
    pieces = np.split(flat, ends[:-1])
    shaped = zip(weights.items(), pieces, strict=True)
    return flat, {name: piece.reshape(value.shape) for (name, value), piece in shaped}


def _why_not_finite(x: Array) -> str:
    if not np.isfinite(x).all():
        return "array 'x' holds values that are not finite: fill them or drop their rows"
    return "the training diverged: take a smaller learning_rate"


def _check_count(name: str, value: object, least: int) -> None:
    if type(value) is not int or value < least:
        raise ValueError(f"{name} is {value!r}: it must be a whole number from {least} on")


def _check_number(name: str, value: object) -> None:
    """A learning rate is above 0, a momentum below 1, and nothing is negative."""
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name} is {value!r}: it must be a number from 0 on")
    if name == "learning_rate" and number == 0:
        raise ValueError("learning_rate is 0: nothing would be learnt")
    if name == "momentum" and number >= 1:
        raise ValueError(f"momentum is {value!r}: it must be below 1")
