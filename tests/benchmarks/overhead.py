"""A round in which nobody trains, beside what plain clients take to move its bytes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from tests.benchmarks.bench import EMBEDDED, RABBIT, Bench
from tests.benchmarks.federation import START_S, Shape, warren
from tests.benchmarks.figures import significant, spread
from tests.benchmarks.floor import stream_bytes
from tests.benchmarks.machine import available_memory, free_disk
from tests.benchmarks.process import Process
from tests.benchmarks.report import Section, Table

PIKA, SOCKET = "floor a: pika", "floor b: socket"
KINDS = {PIKA: "pika", SOCKET: "socket"}
CLIENTS = (2, 4, 10, 50)
PARAMETERS = (1_000, 1_000_000, 25_000_000)
#: Rounds in a turn and at most so many turns, by parameters.
TURNS = {1_000: (5, 12), 1_000_000: (2, 8), 25_000_000: (1, 6)}
#: A shape's turns end after so many seconds, but not before the second one.
BUDGET_S = 60.0
#: No shape is begun after so many seconds.
SECTION_BUDGET_S = 480.0
#: How many models a process may hold at one time.
HELD = 3
TITLE = "Overhead: rounds without training"
NOTES = [
    "Clients return an array of the model's shape, in which one element changes. The time is a whole round "
    "at the coordinator, from one `round-closed` to the next. Up to ten clients are a site and a worker "
    "process each; fifty are those of two sites with five worker processes each. All four do their rounds "
    "in turn, a few rounds each time, while the others stand still; the first round of each isn't counted.",
    "The floors move the same bytes through the same kinds of queues (streams for the round's task, the "
    "answers and the journal, a quorum queue for each process's orders), with confirms, by as many "
    "processes, and hash (SHA-256) what Warren must hash; they check, spool, fold and remember nothing. "
    "Floor a is pika's `BlockingConnection` as it comes, which waits for each confirm; floor b speaks AMQP "
    "on a bare socket, with confirms in flight together. The embedded broker has none of RabbitMQ's work to "
    "do.",
]


class Contestant(Protocol):
    """Something that does rounds when it is told."""

    def turn(self, rounds: int = 1) -> list[float]: ...


@dataclass
class Floor:
    """A running floor (`tests.benchmarks.floor`)."""

    lead: Process
    shape: Shape

    def turn(self, rounds: int = 1) -> list[float]:
        self.lead.tell(rounds)
        return [self.lead.hear("round", self.shape.patience_s)["seconds"] for _ in range(rounds)]


def measure(bench: Bench, section: Section) -> None:
    heads = ["clients × parameters", "rounds", RABBIT, PIKA, SOCKET, "× a", "× b", EMBEDDED]
    table = Table("Milliseconds a round: median (10th to 90th percentile)", heads)
    section.tables.append(table)
    began = time.monotonic()
    for shape in shapes(bench.quick):
        late = time.monotonic() - began > SECTION_BUDGET_S
        missing = "time" if late else short_of(bench, shape)
        if missing:
            section.notes.append(f"Left out: {shape.text()}, for want of {missing}.")
            continue
        bench.say(f"overhead: {shape.text()}")
        series = rounds_in_turn(bench, shape)
        table.rows.append(row(shape, series))
        section.figures |= figures(shape, series)


def shapes(quick: bool) -> list[Shape]:
    if quick:
        return [Shape(2, 1_000), Shape(10, 1_000), Shape(10, 1_000_000)]
    return [Shape(clients, parameters) for parameters in PARAMETERS for clients in CLIENTS]


def short_of(bench: Bench, shape: Shape) -> str:
    """What the machine has too little of for all four at once, "" if nothing."""
    disk = 2 * shape.disk_bytes + 2 * stream_bytes(shape.clients * shape.model_bytes)
    if free_disk(bench.folder) < disk:
        return f"{disk / 1e9:.0f} GB of free disk"
    memory = 4 * (shape.workers + 1) * HELD * shape.model_bytes
    if available_memory() < memory:
        return f"{memory / 1e9:.0f} GB of free memory"
    return ""


def rounds_in_turn(bench: Bench, shape: Shape) -> Mapping[str, list[float]]:
    """Seconds of rounds by who did them."""
    rounds, turns = TURNS[shape.parameters]
    with ExitStack() as stack:
        contestants: dict[str, Contestant] = {
            RABBIT: stack.enter_context(warren(bench, RABBIT, shape)),
            **{name: stack.enter_context(floor(bench, kind, shape)) for name, kind in KINDS.items()},
            EMBEDDED: stack.enter_context(warren(bench, EMBEDDED, shape)),
        }
        series: dict[str, list[float]] = {name: [] for name in contestants}
        began = time.monotonic()
        for turn in range(3 if bench.quick else turns):
            if turn > 1 and time.monotonic() - began > BUDGET_S:
                break
            for name, contestant in contestants.items():
                series[name] += contestant.turn(rounds)
    return series


@contextmanager
def floor(bench: Bench, kind: str, shape: Shape) -> Iterator[Floor]:
    """A floor of that shape, its first round done."""
    folder = bench.place()
    numbers = shape.clients, shape.workers, shape.model_bytes
    arguments = ["lead", kind, bench.rabbit.url, folder.name, *numbers]
    with Process("tests.benchmarks.floor", arguments, folder / "lead.err") as lead:
        made = Floor(lead, shape)
        lead.hear("ready", START_S)
        made.turn()
        yield made


def row(shape: Shape, series: Mapping[str, list[float]]) -> list[str]:
    spreads = {name: spread(values) for name, values in series.items()}
    ours = spreads[RABBIT].median
    return [
        shape.text(),
        str(spreads[RABBIT].n),
        *(spreads[name].text(1e-3) for name in (RABBIT, PIKA, SOCKET)),
        *(significant(ours / spreads[name].median, 2) for name in (PIKA, SOCKET)),
        spreads[EMBEDDED].text(1e-3),
    ]


def figures(shape: Shape, series: Mapping[str, list[float]]) -> dict[str, Any]:
    """By name: milliseconds, and ratios to the floors."""
    key = f"{shape.clients}x{shape.parameters}"
    medians = {name: spread(values).median for name, values in series.items()}
    ours = medians[RABBIT]
    return {
        f"{key} rabbit ms": 1e3 * ours,
        f"{key} embedded ms": 1e3 * medians[EMBEDDED],
        f"{key} × a": ours / medians[PIKA],
        f"{key} × b": ours / medians[SOCKET],
        f"{key} seconds": dict(series),
    }
