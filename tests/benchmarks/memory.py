"""Anonymous memory of the coordinator and of its workers as clients grow in number, with a large model."""

from __future__ import annotations

from tests.benchmarks.bench import EMBEDDED, RABBIT, Bench
from tests.benchmarks.federation import WORKERS, Shape, warren
from tests.benchmarks.figures import significant
from tests.benchmarks.machine import free_disk
from tests.benchmarks.report import Section, Table

MODEL_BYTES = 100_000_000
CLIENTS = (2, 10, 100)
TITLE = "Memory"
NOTES = [
    "A 100 MB model (25 million float32). Peaks of RssAnon in /proc, sampled every 20 ms from the start to "
    "the end of the second round; memory maps of files are not in it, since the kernel may drop them at any "
    f"time. At most {WORKERS} worker processes; the largest of them is shown, which has an array "
    "of the trainer's own among the rest.",
]


def measure(bench: Bench, section: Section) -> None:
    heads = ["clients", "broker", "coordinator MB", "in models beyond 100 MB", "largest worker MB", "round s"]
    table = Table("Peaks of anonymous memory", heads)
    section.tables.append(table)
    for clients in CLIENTS[:1] if bench.quick else CLIENTS:
        shape = Shape(clients, MODEL_BYTES // 4)
        for broker in (RABBIT, EMBEDDED):
            if free_disk(bench.folder) < shape.disk_bytes:
                section.notes.append(
                    f"Left out: {clients} clients, for want of {shape.disk_bytes / 1e9:.0f} GB of free disk."
                )
                break
            bench.say(f"memory: {clients} clients, {broker}")
            table.rows.append(one(bench, section, shape, broker))


def one(bench: Bench, section: Section, shape: Shape, broker: str) -> list[str]:
    with warren(bench, broker, shape, watched=True) as federation:
        seconds = federation.turn()[0]
        peaks = federation.peaks
        assert peaks is not None
    section.figures |= {
        f"{broker} {shape.clients} coordinator bytes": peaks.own,
        f"{broker} {shape.clients} worker bytes": peaks.child,
        f"{broker} {shape.clients} coordinator MB beyond 2 models": (peaks.own - 2 * MODEL_BYTES) / 1e6,
    }
    return [
        str(shape.clients),
        broker,
        f"{peaks.own / 1e6:.0f}",
        significant((peaks.own - 1e8) / MODEL_BYTES, 2),
        f"{peaks.child / 1e6:.0f}",
        significant(seconds),
    ]
