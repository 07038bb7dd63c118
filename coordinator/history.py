"""Closed rounds as people and `history.jsonl` see them: a line a round, from the journal alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from coordinator.facts import Entry


@dataclass
class History:
    """Collects lines from journal entries, fed in order; `last` is the last version's evaluation.

    A line's `metrics` are those of the version that the round began with: its clients scored that one before
    they trained.
    """

    lines: list[dict[str, Any]] = field(default_factory=list)
    last: dict[str, Any] | None = None
    _closing: Entry | None = None

    def feed(self, entry: Entry) -> dict[str, Any] | None:
        """Takes an entry; returns the line of the round that it closed, if it closed one."""
        if entry.kind == "evaluated":
            self.last = {**entry.data, "clients": _scores(entry.rows)}
        if entry.kind == "round-closing":
            self._closing = entry
        if entry.kind != "round-closed" or self._closing is None:
            return None
        line = _line(self._closing, entry)
        self.lines.append(line)
        return line


def _line(closing: Entry, closed: Entry) -> dict[str, Any]:
    counts = closing.data["counts"]
    return {
        "round": closed.data["round"],
        "version": closed.data["version"],
        "seconds": round(closed.at - closing.data["opened_at"], 6),
        "assigned": closing.data["assigned"],
        "accepted": counts["accepted"],
        "late": counts["late"],
        "duplicate": counts["duplicate"],
        "rejected": counts["refused"],
        "failed": counts["failed"],
        "readmitted": counts.get("readmitted", 0),
        "skipped": closed.data["skipped"],
        "metrics": closing.data["metrics"],
        "evaluated": _scores(closing.rows[2]),
        "reasons": {reason: n for reason, (n, _) in closing.data["refusals"].items()},
        "bytes_in": closed.data.get("bytes_in", 0),
        "bytes_out": closed.data.get("bytes_out", 0),
        "digest": closed.data["digest"],
    }


def _scores(rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """What each client measured, of the rows of those who only evaluated a version."""
    return {client: {"examples": n, **metrics} for client, n, metrics, *_ in rows}
