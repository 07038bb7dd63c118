"""A replay for people and for machines: recorded versions on the left, replayed ones on the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coordinator.replay import Line, Replay

#: Metrics that have a column, where anybody scored them.
METRICS = ("accuracy", "loss")


def heading(replay: Replay) -> str:
    """What is replayed, and with what."""
    wish, recorded = replay.wish, replay.ledger.binding
    now = wish.settings.config.binding()
    changes = [f"{key} = {_of(now, key)} (it was {_of(recorded, key)})" for key in wish.settings.changed]
    changes += [f"without site {site}" for site in sorted(wish.left_out)]
    how = "each round of its recorded parent" if wish.ahead else f"from version {replay.plan.since} on"
    name = replay.ledger.topology.federation
    return f"Replay of {name}, {how}: {'; '.join(changes) or 'nothing is changed'}"


def table(lines: Sequence[Line]) -> list[str]:
    """A row a round, and under it what is to be said of it."""
    metrics = [name for name in METRICS if any(name in line.metrics for line in lines)]
    timed = ["seconds"] if any(line.replayed_seconds is not None for line in lines) else []
    head = [
        *("version", "recorded", "clients", *timed, *metrics),
        *("replayed", "clients", *timed, "distance", "cosine"),
    ]
    rows = [_cells(line, metrics, bool(timed)) for line in lines]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    text = [_aligned(head, widths)]
    for row, line in zip(rows, lines, strict=True):
        text += [_aligned(row, widths), *(f"{'':{widths[0]}}  {note}" for note in line.notes)]
    return text


def ending(replay: Replay, lines: Sequence[Line]) -> str:
    """What came of it, in a sentence."""
    others = sum(not line.same for line in lines)
    if not others:
        return "The replay gives the recorded digests, bit for bit."
    how = (
        "are other models than the recorded ones" if replay.wish.changes else "differ from what was recorded"
    )
    return f"{others} of {len(lines)} versions {how}."


def to_json(
    replay: Replay, lines: Sequence[Line], files: Sequence[Path], notes: Sequence[str]
) -> dict[str, Any]:
    """All of it for a machine."""
    return {
        "federation": replay.ledger.topology.federation,
        "run": replay.ledger.run,
        "from_version": replay.plan.since,
        "changed": list(replay.wish.settings.changed),
        "without": sorted(replay.wish.left_out),
        "one_round_ahead": replay.wish.ahead,
        "same": all(line.same for line in lines),
        "versions": [{**asdict(line), "same": line.same} for line in lines],
        "files": list(map(str, files)),
        "notes": list(notes),
    }


def _cells(line: Line, metrics: Sequence[str], timed: bool) -> list[str]:
    return [
        str(line.version),
        line.digest[:12],
        str(len(line.clients)),
        *([f"{line.seconds:.2f}"] if timed else []),
        *(_figure(line.metrics.get(name), ".4f") for name in metrics),
        "the same" if line.same else line.replayed[:12],
        str(len(line.replayed_clients)),
        *([_figure(line.replayed_seconds, ".2f")] if timed else []),
        _figure(line.distance, ".3g"),
        _figure(line.cosine, ".6f"),
    ]


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _of(binding: Mapping[str, Any], key: str) -> Any:
    table, _, name = key.partition(".")
    return binding.get(table, {}).get(name, "not set")
