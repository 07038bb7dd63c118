"""Many clients at few workers: updates a second, what each costs the state store, and how long it takes to
select among many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from redis import Redis

from tests.benchmarks.bench import EMBEDDED, RABBIT, Bench
from tests.benchmarks.federation import WORKERS, Shape, warren
from tests.benchmarks.figures import significant, spread
from tests.benchmarks.overhead import KINDS, floor
from tests.benchmarks.report import Section, Table

#: Shape and rounds.
CASES = ((Shape(1_000, 1_000), 5), (Shape(1_000, 100_000), 3), (Shape(10_000, 1_000, asked=200), 10))
QUICK = ((Shape(200, 1_000), 3), (Shape(2_000, 1_000, asked=50), 3))
#: Commands that the product sends; others are what its scripts call, or this benchmark's own.
SENT = ("evalsha", "eval", "script|load")
OURS = ("info", "hello", "client|setinfo", "client|setname", "ping", "select")
TITLE = "Crowds"
NOTES = [
    f"{WORKERS} workers of two sites. Redis counts commands itself (INFO commandstats): *round trips* are "
    "scripts sent, with the lease's; *operations* are what the scripts did there. Where fewer are asked than "
    "are registered, functions are wrapped as for the phases; *select* is the time to draw the cohort. The "
    "floors are those of the overhead, by as many processes: what RabbitMQ leaves to any client.",
]


@dataclass(frozen=True)
class Trips:
    """What Redis was asked so far."""

    sent: int
    done: int

    @classmethod
    def of(cls, stats: Mapping[str, Mapping[str, int]]) -> Trips:
        calls = {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()}
        sent = sum(calls.get(name, 0) for name in SENT)
        return cls(sent, sum(count for name, count in calls.items() if name not in (*SENT, *OURS)))


def measure(bench: Bench, section: Section) -> None:
    heads = ["clients × parameters", "asked", "broker", "rounds", "round s", "updates/s"]
    heads += ["round trips an update", "operations an update", "select ms"]
    table = Table("Rounds: median (10th to 90th percentile)", heads)
    section.tables.append(table)
    for shape, rounds in QUICK if bench.quick else CASES:
        for broker in (RABBIT, EMBEDDED):
            bench.say(f"crowds: {shape.text()}, {shape.cohort} asked, {broker}")
            table.rows.append(one(bench, section, shape, broker, rounds))
        for name, kind in KINDS.items() if not shape.asked else ():
            bench.say(f"crowds: {shape.text()}, {name}")
            table.rows.append(bare(bench, section, shape, name, kind, rounds))


def one(bench: Bench, section: Section, shape: Shape, broker: str, rounds: int) -> list[str]:
    with warren(bench, broker, shape, phases=bool(shape.asked)) as federation:
        before = trips(bench)
        seconds = federation.turn(rounds)
        after = trips(bench)
    updates = sum(round_["accepted"] for round_ in federation.rounds)
    each = [(now - then) / updates for now, then in ((after.sent, before.sent), (after.done, before.done))]
    selects = [round_["phases"]["select"] for round_ in federation.rounds if shape.asked]
    speed = shape.cohort / spread(seconds).median
    key = f"{broker} {shape.cohort} of {shape.clients}x{shape.parameters}"
    section.figures |= {
        f"{key} updates/s": speed,
        f"{key} round trips": each[0],
        f"{key} operations": each[1],
    }
    if selects:
        section.figures[f"{key} select s"] = fmean(selects)
    counted = [significant(count, 2) for count in each] if broker == RABBIT else ["", ""]
    return [
        shape.text(), f"{shape.cohort:,}", broker, str(rounds), spread(seconds).text(), significant(speed),
        *counted, spread(selects).text(1e-3) if selects else "",
    ]  # fmt: skip


def bare(bench: Bench, section: Section, shape: Shape, name: str, kind: str, rounds: int) -> list[str]:
    """A floor's row."""
    with floor(bench, kind, shape) as contestant:
        seconds = contestant.turn(rounds)
    speed = shape.cohort / spread(seconds).median
    section.figures[f"{name} {shape.cohort} of {shape.clients}x{shape.parameters} updates/s"] = speed
    cells = [shape.text(), f"{shape.cohort:,}", name, str(rounds), spread(seconds).text(), significant(speed)]
    return [*cells, "", "", ""]


def trips(bench: Bench) -> Trips:
    with Redis.from_url(bench.redis.url) as client:
        return Trips.of(client.info("commandstats"))
