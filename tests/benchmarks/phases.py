"""Where a round's time goes: at the coordinator, and at the workers meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from tests.benchmarks.bench import Bench
from tests.benchmarks.federation import Shape, phases_noted, warren
from tests.benchmarks.figures import significant, spread
from tests.benchmarks.report import Section, Table

PHASES = (
    "select", "decide", "publish", "wait", "spool", "validate", "fold", "close", "Redis", "files", "other",
)  # fmt: skip
WORK = ("fetch", "train", "pack", "upload")
#: Clients, parameters, rounds; the first is all that a quick run does.
CASES = ((10, 1_000, 40), (10, 1_000_000, 12), (10, 25_000_000, 5))
TITLE = "Phases of a round"
NOTES = [
    "Functions of the coordinator and of the workers are wrapped from outside, in this benchmark's own "
    "processes; the product has no clocks in it. At the coordinator each moment of its one thread belongs to "
    "one phase: *select* the cohort; *decide* (the state machine); *publish* (round task, assignments); "
    "*wait* (nothing has come in); *spool* (checksum, hash, disk); *validate*; *fold* (with the new digest); "
    "*close* (journal entries, confirmed); *Redis* (or the embedded store); *files* (history, best model); "
    "*other* (the loop itself). Their sum is compared with the round as it is timed for the other tables.",
    "*read* is CPU time of the adapters' threads, which read and write the sockets beside that thread. "
    "While the coordinator waits the workers *fetch* the round task, *train*, *pack* (subtract, hash) and "
    "*upload*: per update, as seconds that pass at a worker.",
]


def measure(bench: Bench, section: Section) -> None:
    cases = CASES[:1] if bench.quick else CASES
    seen: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}
    for clients, parameters, rounds in cases:
        for broker in bench.brokers:
            shape = Shape(clients, parameters)
            bench.say(f"phases: {shape.text()}, {broker}")
            with warren(bench, broker, shape, phases=True) as federation:
                federation.turn(rounds // 4 if bench.quick else rounds)
                first = federation.rounds[0]["round"]
                seen[f"{shape.text()}, {broker}"] = federation.rounds, phases_noted(federation.notes, first)
    section.tables = [at_coordinator(seen), at_workers(seen)]
    section.figures = {name: {"rounds": rounds, "updates": notes} for name, (rounds, notes) in seen.items()}


def at_coordinator(seen: Mapping[str, Sequence[Any]]) -> Table:
    """Phases down, cases across."""
    table = Table("The coordinator: mean milliseconds a round", ["phase", *seen])
    means = {name: phase_means(rounds) for name, (rounds, _) in seen.items()}
    for phase in PHASES:
        table.rows.append([phase, *(milliseconds(mean.get(phase, 0.0)) for mean in means.values())])
    sums = [sum(mean.get(phase, 0.0) for phase in PHASES) for mean in means.values()]
    series = [[round_["seconds"] for round_ in rounds] for rounds, _ in seen.values()]
    table.rows.append(["**sum**", *map(milliseconds, sums)])
    table.rows.append(["**round**", *(milliseconds(fmean(seconds)) for seconds in series)])
    shares = [total / fmean(seconds) for total, seconds in zip(sums, series, strict=True)]
    table.rows.append(["sum / round", *(f"{share:.1%}" for share in shares)])
    table.rows.append(["rounds: median (10th to 90th)", *(spread(seconds).text(1e-3) for seconds in series)])
    table.rows.append(["rounds", *(str(len(seconds)) for seconds in series)])
    table.rows.append(["beside it, CPU: read", *(milliseconds(mean["threads"]) for mean in means.values())])
    return table


def at_workers(seen: Mapping[str, Sequence[Any]]) -> Table:
    table = Table("A worker: mean milliseconds an update", ["phase", *seen])
    for phase in WORK:
        means = [fmean([note.get(phase, 0.0) for note in notes]) for _, notes in seen.values()]
        table.rows.append([phase, *map(milliseconds, means)])
    return table


def phase_means(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean seconds a round, by phase."""
    names = {name for round_ in rounds for name in round_["phases"]}
    return {name: fmean([round_["phases"].get(name, 0.0) for round_ in rounds]) for name in names}


def milliseconds(seconds: float) -> str:
    return significant(1e3 * seconds)
