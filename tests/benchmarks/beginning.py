"""How soon something happens: from the start of a process to the first assignment, and to its help."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.benchmarks.bench import Bench
from tests.benchmarks.federation import START_S, Shape, founded, worker_arguments
from tests.benchmarks.figures import spread
from tests.benchmarks.machine import in_turn
from tests.benchmarks.process import ROOT, Process
from tests.benchmarks.report import Section, Table
from tests.services import wait_for

SHAPE = Shape(1, 1_000)
#: Repetitions of a start, and of the help; of the quick run and of the whole one.
STARTS = {True: 2, False: 7}
HELPS = {True: 3, False: 10}
WARREN = Path(sys.executable).with_name("warren")
TITLE = "Beginning"
NOTES = [
    "From the start of the process to the moment when the first assignment is confirmed by the broker (the "
    "order for the initial weights), for a new federation of one client: `warren coordinate` with a worker "
    "that was there first and waits, and `warren run`, which starts its worker too. The help is shown beside "
    "a Python that does nothing; both in turn.",
]


def measure(bench: Bench, section: Section) -> None:
    table = Table("Seconds: median (10th to 90th percentile)", ["what", "times", "seconds"])
    starts: dict[str, Callable[[], float]] = {}
    for broker in bench.brokers:
        starts[f"coordinate, {broker}"] = partial(coordinate, bench, broker)
        starts[f"run, {broker}"] = partial(run, bench, broker)
    series: dict[str, list[float]] = {name: [] for name in starts}
    for _ in range(STARTS[bench.quick]):
        for name, start in starts.items():
            bench.say(f"beginning: {name}")
            series[name].append(start())
    helps = {"warren --help": partial(call, str(WARREN), "--help")}
    helps["python -c pass"] = partial(call, sys.executable, "-c", "pass")
    series |= in_turn(helps, HELPS[bench.quick])
    for name, seconds in series.items():
        table.rows.append([name, str(len(seconds)), spread(seconds).text()])
        section.figures[f"{name} s"] = spread(seconds).median
    section.tables.append(table)


def run(bench: Bench, broker: str) -> float:
    """Seconds from the start of `warren run` to its first assignment."""
    with founded(bench, broker, SHAPE) as (lead, _):
        return float(lead.hear("issued", START_S)["issued"]) - lead.began


def coordinate(bench: Bench, broker: str) -> float:
    """The same of `warren coordinate`, when a worker waits for it."""
    folder = bench.place()
    with Process("worker", worker_arguments(bench, broker, folder), folder / "worker.err") as worker:
        wait_for(partial(waits, folder / "worker.err"), START_S, "the worker to wait")
        with founded(bench, broker, SHAPE, command="coordinate", folder=folder) as (lead, _):
            seconds = float(lead.hear("issued", START_S)["issued"]) - lead.began
        worker.end()
    return seconds


def waits(said: Path) -> bool:
    return "waiting for" in said.read_text()


def call(*command: str) -> None:
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
