"""What processes cost that have nothing to do."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.benchmarks.bench import Bench
from tests.benchmarks.federation import WORKERS, Shape, founded
from tests.benchmarks.machine import children, cpu_seconds
from tests.benchmarks.process import Process
from tests.benchmarks.report import Section, Table
from tests.services import wait_for

SECONDS = {True: 10.0, False: 20.0}
#: Processes that used less than this in a second, all together, have settled.
SETTLED_S = 0.2
SETTLE_TIMEOUT_S = 60.0
TITLE = "Idle"
NOTES = [
    f"A federation that waits for one client more than there are: the coordinator (`warren run`, which also "
    f"looks after its workers) and {WORKERS} workers of a site each, on both brokers at the same time. "
    "Shares of one core, from the ticks of 10 ms in /proc.",
]


def measure(bench: Bench, section: Section) -> None:
    seconds = SECONDS[bench.quick]
    bench.say(f"idle: {seconds:g} s")
    with ExitStack() as stack:
        leads = {}
        for broker in bench.brokers:
            settings = {"cohort.min_clients": WORKERS + 1}
            lead, folder = stack.enter_context(
                founded(bench, broker, Shape(WORKERS, 1_000), settings=settings)
            )
            lead.tell(1)
            leads[broker] = lead
            said = folder / "lead.err"
            wait_for(partial(all_here, said), SETTLE_TIMEOUT_S, "all workers to be there")
        wait_for(lambda: settled(leads), SETTLE_TIMEOUT_S, "idle processes to use nothing")
        used = shares(leads, seconds)
    table = Table(
        f"Percent of a core over {seconds:g} s", ["broker", "coordinator", "a worker (mean)", "most"]
    )
    for broker, (own, workers) in used.items():
        mean = sum(workers) / len(workers)
        table.rows.append([broker, *(f"{100 * share:.2f}" for share in (own, mean, max(workers)))])
        section.figures |= {f"{broker} coordinator %": 100 * own, f"{broker} worker %": 100 * mean}
        section.figures[f"{broker} most %"] = 100 * max(own, *workers)
    section.tables.append(table)


def all_here(said: Path) -> bool:
    """Whether the coordinator has said that it waits for one client more."""
    return f"{WORKERS} of {WORKERS + 1} are here" in said.read_text()


def settled(leads: dict[str, Process]) -> bool:
    pids = [pid for lead in leads.values() for pid in (lead.pid, *children(lead.pid))]
    before = sum(map(cpu_seconds, pids))
    time.sleep(1.0)
    return sum(map(cpu_seconds, pids)) - before < SETTLED_S


def shares(leads: dict[str, Process], seconds: float) -> dict[str, tuple[float, list[float]]]:
    """The coordinator's share of a core, and each worker's, by broker."""
    families = {broker: [lead.pid, *children(lead.pid)] for broker, lead in leads.items()}
    before = {pid: cpu_seconds(pid) for pids in families.values() for pid in pids}
    began = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - began
    used = {pid: (cpu_seconds(pid) - spent) / passed for pid, spent in before.items()}
    return {broker: (used[own], [used[pid] for pid in others]) for broker, (own, *others) in families.items()}
