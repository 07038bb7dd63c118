"""What a run leaves in its folder, and what is said while it runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from coordinator.facts import Answer, Entry, State
from coordinator.folder import Folder
from coordinator.history import History
from coordinator.sparing import Sparing
from coordinator.validation import Verdict
from shared.weights import Weights

log = logging.getLogger(__name__)

#: Entries with metrics of the version in hand: its successor is made only after the closing entry.
SCORED = ("round-closing", "evaluated")
#: What else happened to a round's updates, where it did.
TOLD = ("late", "rejected", "failed", "duplicate", "readmitted")
#: The verdicts that are said, and how loud.
TOLD_AT = {"refused": logging.WARNING, "failed": logging.WARNING, "late": logging.INFO}


class Observer(Protocol):
    """Someone who watches a federation, on the coordinator's own thread."""

    def changed(self, state: State) -> None:
        """The state is another one."""

    def ruled(self, answer: Answer, verdict: Verdict) -> None:
        """An answer got its verdict."""

    def closed(self, line: Mapping[str, Any]) -> None:
        """A round closed; `line` is that of the history."""


class Best:
    """Which version did best so far, by the metric that the federation names ("-loss" minimises)."""

    def __init__(self, metric: str) -> None:
        self._name = metric.removeprefix("-")
        self._sign = -1.0 if metric.startswith("-") else 1.0
        self._value: float | None = None

    def improves(self, metrics: Mapping[str, float]) -> bool:
        """Notes a version's metrics; returns whether they are better than all before."""
        value = metrics.get(self._name)
        if value is None or (self._value is not None and self._sign * (value - self._value) <= 0):
            return False
        self._value = value
        return True


class Output:
    """Keeps the folder, and tells the observers, as journal entries are written."""

    def __init__(self, folder: Folder, observers: Sequence[Observer], best: str, toml: str) -> None:
        """`toml`: the configuration, for the folder."""
        self._folder = folder
        self._toml = toml
        self._best = Best(best)
        self._history = History()
        self.observers = observers

    @property
    def history(self) -> Sequence[Mapping[str, Any]]:
        """The closed rounds' lines."""
        return self._history.lines

    def replayed(self, entry: Entry) -> None:
        """Takes in an entry of an earlier leader's, which wrote its files and told its observers."""
        self._history.feed(entry)
        if entry.kind in SCORED:
            self._best.improves(entry.data["metrics"])

    def resumed(self) -> None:
        """All earlier entries are in: writes again what the journal says of the rounds before."""
        self._folder.write_config(self._toml)
        self._folder.rewrite_history(self.history)
        if self._history.last is not None:
            self._folder.write_evaluation(self._history.last)

    def written(self, entry: Entry, weights: Weights | None) -> None:
        """Takes in an entry that was just appended, while the federation stands at `weights`."""
        line = self._history.feed(entry)
        if entry.kind == "readmitted":
            log.info(readmission_text(entry.data))
        if entry.kind in SCORED and self._best.improves(entry.data["metrics"]) and weights is not None:
            self._folder.write_model(weights, "best.npz")
        if entry.kind == "evaluated" and self._history.last is not None:
            self._folder.write_evaluation(self._history.last)
        if line is not None:
            self._folder.add_history(self.history)
            for observer in self.observers:
                observer.closed(line)

    def ended(self, weights: Weights | None) -> None:
        """Leaves the last model.

        Raises:
            DiskFull: the folder lacks something, since its disk is full.
        """
        if weights is not None:
            self._folder.write_model(weights)
        self._folder.check()


class LogLines:
    """Says in the log what a person would want to know, a line each."""

    def __init__(self) -> None:
        self._before: Mapping[str, float] = {}
        self._told = Sparing()

    def changed(self, state: State) -> None:
        """Nothing: the coordinator itself says what it waits for."""

    def ruled(self, answer: Answer, verdict: Verdict) -> None:
        """A login's first ones that don't count are said in a round, and then each doubling."""
        if verdict.ruling not in TOLD_AT:
            return
        ending = self._told.ending(answer.sender)
        if ending is not None:
            who = answer.client or f"login {answer.sender!r}"
            level = TOLD_AT[verdict.ruling]
            log.log(level, "%s: update %s: %s%s", who, verdict.ruling, verdict.reason, ending)

    def closed(self, line: Mapping[str, Any]) -> None:
        log.info(round_line(line, self._before))
        self._before = line["metrics"] or self._before
        self._told.clear()


def round_line(line: Mapping[str, Any], before: Mapping[str, float] | None = None) -> str:
    """A closed round in one sentence; `before`: the metrics to tell the change against."""
    if line["round"] == 0:
        return f"Version 0 is made: digest {line['digest'][:12]}"
    said = [f"{line['accepted']} of {line['assigned']} clients"]
    said += [f"{line[key]} {key}" for key in TOLD if line[key]]
    metrics = line["metrics"]
    said += [_metric(name, metrics[name], before or {}) for name in ("accuracy", "loss") if name in metrics]
    said.append(f"{line['seconds']:.2f} s")
    said.append(f"{megabytes(line['bytes_in'] + line['bytes_out'])}")
    verb = "skipped" if line["skipped"] else "closed"
    return f"Round {line['round']} {verb}: {', '.join(said)}"


def readmission_text(data: Mapping[str, Any]) -> str:
    """The decision in a `readmitted` entry, in one sentence."""
    update = data["update"]
    which = f"the update of {update['client'] or 'an unknown client'} at offset {update['offset']}"
    if data["refused"]:
        return f"{which} was not let in: {data['refused']}"
    said = f": {data['reason']}" if data["reason"] else ""
    return f"{which} counts in round {data['round']}: readmitted by {data['who']}{said}"


def _metric(name: str, value: float, before: Mapping[str, float]) -> str:
    change = f" ({value - before[name]:+.4f})" if name in before else ""
    return f"{name} {value:.4f}{change}"


def megabytes(count: float) -> str:
    """Bytes for people: 812 B, 3.1 kB, 12.4 MB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
