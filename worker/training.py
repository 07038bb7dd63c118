"""What a trainer is, how the site's own is loaded, and work off the caller's thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from shared.errors import ConfigError
from shared.runtime import THREADS, Runtime
from shared.weights import Array
from worker.loading import find

Result = TypeVar("Result")

METHODS = ("initial_weights", "fit", "evaluate")


class Trainer(Protocol):
    """A site's training code: a plain class, with nothing of Warren to import.

    It is made once, with the site's own settings, and used by one thread at a time. The weights that it is
    given are read-only; `data` is a dict of arrays, or whatever the site's own loader returned. The same
    weights, data, config and seed must give the same result.
    """

    def initial_weights(self, seed: int) -> dict[str, Array]:
        """The model before any training."""

    def fit(
        self, weights: Mapping[str, Array], data: Any, config: Mapping[str, Any], seed: int
    ) -> tuple[dict[str, Array], int, dict[str, float]]:
        """Trains from `weights`; `config` is the federation's `[training]` table.

        Returns: new weights (the same names, shapes and dtypes), the number of examples, and metrics.
        """

    def evaluate(self, weights: Mapping[str, Array], data: Any) -> tuple[int, dict[str, float]]:
        """Scores `weights` on the data; returns the number of examples, and metrics."""


def load(spec: str, params: Mapping[str, Any]) -> Trainer:
    """Makes the trainer that "module:Class" or "path/to/file.py:Class" names.

    Raises:
        ConfigError: it can't be found, doesn't take these parameters, or lacks a trainer's methods.
    """
    factory = find(spec, "trainer")
    if not callable(factory):
        raise ConfigError(f"trainer {spec!r} is a {type(factory).__name__}: name a class")
    try:
        trainer: Trainer = factory(**params)
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ConfigError(
            f"trainer {spec!r} cannot be made with the parameters {dict(params)}: {reason}"
        ) from error
    missing = [name for name in METHODS if not callable(getattr(trainer, name, None))]
    if missing:
        raise ConfigError(f"trainer {spec!r} has no method {missing[0]!r}: it needs {', '.join(METHODS)}")
    return trainer


class Training(Generic[Result]):
    """One call on a thread of its own, begun at once. The thread doesn't keep the process alive."""

    def __init__(self, call: Callable[[], Result], runtime: Runtime = THREADS) -> None:
        self._call = call
        self._ended = runtime.flag()
        self._results: list[Result] = []
        self._error: BaseException | None = None
        runtime.start(self._run, "training")

    def wait(self, timeout: float | None = None) -> bool:
        """Waits at most `timeout` seconds for the end; returns whether it has ended."""
        return self._ended.wait(timeout)

    def result(self) -> Result:
        """What the call returned, or raised; waits for it."""
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._call())
        except BaseException as error:  # noqa: BLE001 - whatever it is, `result` raises it where it is awaited
            self._error = error
        finally:
            self._ended.set()
