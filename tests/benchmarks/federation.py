"""A federation that trains nothing, as the product runs it, round by round as it is told."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.retention import ROUNDS
from shared.broker.connect import connect
from shared.topology import SEGMENT_BYTES, SEGMENTS, Topology
from tests.benchmarks.bench import Bench
from tests.benchmarks.machine import Peaks
from tests.benchmarks.process import BenchmarkFailed, Process

TRAINER = f"{Path(__file__).with_name('echo.py')}:Echo"
ITEM_BYTES = 4
#: Most worker processes that a federation has here.
WORKERS = 10
#: How long a federation may take to make its first version, and a round at the least and by its bytes.
START_S = 120.0
ROUND_S = 60.0
SLOWEST = 10e6


@dataclass(frozen=True)
class Shape:
    """A federation's size: clients, float32 parameters, and `asked` clients a round (0: all).

    Up to WORKERS clients are a site and a worker each; more are those of two
    sites with WORKERS together.
    """

    clients: int
    parameters: int
    asked: int = 0

    @property
    def model_bytes(self) -> int:
        return self.parameters * ITEM_BYTES

    @property
    def cohort(self) -> int:
        return self.asked or self.clients

    @property
    def sites(self) -> Mapping[str, int]:
        """Clients by site."""
        if self.clients <= WORKERS:
            return {f"s{number}": 1 for number in range(self.clients)}
        return {"s0": self.clients - self.clients // 2, "s1": self.clients // 2}

    @property
    def workers(self) -> int:
        return min(self.clients, WORKERS)

    @property
    def log_bytes(self) -> int:
        """The least that `log.max_bytes` may be, and never less than 1 GB."""
        kept = ROUNDS * (self.clients + 1) * (self.model_bytes + 4096)
        return max(kept + min(SEGMENT_BYTES, math.ceil(kept / (SEGMENTS - 1))), 10**9)

    @property
    def disk_bytes(self) -> int:
        """What it takes on disk at the most: logs and spool."""
        return self.log_bytes + self.cohort * self.model_bytes

    @property
    def patience_s(self) -> float:
        """How long a round may take before it counts as hung."""
        return ROUND_S + self.cohort * self.model_bytes / SLOWEST

    def text(self) -> str:
        return f"{self.clients:,} × {self.parameters:,}"


@dataclass
class Warren:
    """A running federation that stands between two rounds."""

    shape: Shape
    lead: Process
    notes: Path
    peaks: Peaks | None
    rounds: list[dict[str, Any]] = field(default_factory=list)

    def turn(self, rounds: int = 1) -> list[float]:
        """Has it do so many rounds; returns the seconds of each.

        Raises:
            BenchmarkFailed: a round left the model as it was, so the next one would have nothing to publish.
        """
        self.lead.tell(rounds)
        done = [self.lead.hear("round", self.shape.patience_s) for _ in range(rounds)]
        self.rounds += done
        if any(one["digest"] == next_["digest"] for one, next_ in pairwise(self.rounds)):
            raise BenchmarkFailed("a round made no new version: it is no measure of one")
        return [round_["seconds"] for round_ in done]


@contextmanager
def warren(
    bench: Bench, broker: str, shape: Shape, *, phases: bool = False, watched: bool = False
) -> Iterator[Warren]:
    """A federation of that shape, its first round done; gone without a trace at the context's end.

    `phases`: it tells where its time goes. `watched`: its memory is, from its start on.
    """
    with ExitStack() as stack:
        lead, folder = stack.enter_context(founded(bench, broker, shape, phases=phases))
        peaks = stack.enter_context(Peaks(lead.pid)) if watched else None
        patience_s = START_S + shape.patience_s
        lead.hear("round", patience_s)
        # The first round waits for all clients, and is no measure of anything.
        lead.tell(1)
        lead.hear("round", patience_s)
        yield Warren(shape, lead, folder, peaks)


@contextmanager
def founded(
    bench: Bench,
    broker: str,
    shape: Shape,
    *,
    phases: bool = False,
    command: str = "run",
    settings: Mapping[str, Any] | None = None,
    folder: Path | None = None,
) -> Iterator[tuple[Process, Path]]:
    """A federation that has just been started, and its folder; gone at the context's end.

    `settings`: what differs in its TOML, by dotted key. `folder`: where it is to be, by its name.
    """
    folder = folder or bench.place()
    toml = folder / "federation.toml"
    toml.write_text(document(folder, shape, settings or {}))
    words = [f"--phases={folder}"] if phases else []
    urls = bench.brokers[broker]
    arguments = [*words, command, toml, "--out", folder / "out", "--fresh", *urls]
    try:
        with Process("tests.benchmarks.lead", arguments, folder / "lead.err") as lead:
            yield lead, folder
            lead.end()
    finally:
        if urls:
            remove(bench, folder.name, shape)
        shutil.rmtree(folder, ignore_errors=True)


def worker_arguments(bench: Bench, broker: str, folder: Path) -> list[str]:
    """The command line of a worker of the first site of a federation that is going to be in that folder."""
    data = folder / "s0.npz"
    write_data(data, 1)
    urls = bench.brokers[broker][:2] or ["--broker", str(folder / "out" / "log")]
    params = json.dumps({"parameters": 1_000})
    trainer = ["--data", str(data), "--trainer", TRAINER, "--params", params]
    return ["--federation", folder.name, "--site", "s0", *trainer, *urls, "--end-with-stdin"]


def document(folder: Path, shape: Shape, settings: Mapping[str, Any]) -> str:
    """The TOML of the folder's federation; writes the sites' data into the folder. `settings`: more keys."""
    tables: dict[str, dict[str, Any]] = {
        "federation": {"name": folder.name, "rounds": 10**6},
        "cohort": {"min_clients": shape.clients, "deadline_s": 3600.0},
        "evaluation": {"each_round": False, "last": False},
        "log": {"max_bytes": shape.log_bytes},
        "local": {"trainer": TRAINER},
    }
    if shape.asked:
        tables["cohort"] |= {"select": "random", "size": shape.asked}
    for key, value in settings.items():
        table, _, last = key.partition(".")
        tables[table][last] = value
    lines = []
    for table, keys in tables.items():
        lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    lines.append(f"params = {{ parameters = {shape.parameters} }}")
    each = shape.workers // len(shape.sites)
    for site, clients in shape.sites.items():
        data = folder / f"{site}.npz"
        write_data(data, clients)
        lines += ["[[local.sites]]", f'name = "{site}"', f'data = "{data}"', f"workers = {each}"]
    return "\n".join(lines) + "\n"


def write_data(file: Path, clients: int) -> None:
    """A site's data: a row for each client, which nobody looks at."""
    rows = np.arange(clients)
    np.savez(file, x=rows[:, None].astype(np.float32), y=rows, partition=rows)


def remove(bench: Bench, federation: str, shape: Shape) -> None:
    """Deletes all of a federation at RabbitMQ."""
    topology = Topology(federation)
    names = [queue.name for queue in (*topology.queues(), *map(topology.site_queue, shape.sites))]
    broker = connect(bench.rabbit.url, "guest", patience_s=START_S)
    try:
        broker.delete([*names, *(exchange.name for exchange in topology.exchanges())])
    finally:
        broker.close()


def phases_noted(folder: Path, first: int) -> list[dict[str, Any]]:
    """What workers noted in a folder, an object an answer, from round `first` on."""
    files: Sequence[Path] = sorted(folder.glob("*.jsonl"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [line for line in lines if line["round"] >= first]
