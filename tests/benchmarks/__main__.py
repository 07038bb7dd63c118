"""`make bench`: what a round costs when nobody trains, and how much memory it takes, on both brokers.

Federations of real processes, in turn on the embedded broker and on private RabbitMQ and Redis nodes. Prints
a table and writes results.md and results.json beside this file.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.services import RabbitNode, RedisServer

HERE = Path(__file__).parent
#: So many clients are one site's, with this many workers; fewer are sites of their own.
GATEWAY, GATEWAY_WORKERS = 50, 3
#: Clients, parameters (float32), rounds.
CASES = [(2, 1_000, 60), (10, 1_000, 60), (10, 1_000_000, 20), (4, 25_000_000, 5), (GATEWAY, 25_000_000, 4)]
MODEL_BYTES = 4
SAMPLE_S = 0.02


@dataclass(frozen=True)
class Result:
    """Seconds of the rounds but the first two (the first waits for workers); peaks of anonymous memory."""

    broker: str
    clients: int
    parameters: int
    rounds: int
    median_s: float
    fastest_s: float
    slowest_s: float
    coordinator_bytes: int
    worker_bytes: int


class Peaks:
    """The largest anonymous memory of a process and of its children, sampled while it runs."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.own = self.child = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self.own = max(self.own, anonymous(self._pid))
            children = Path(f"/proc/{self._pid}/task/{self._pid}/children")
            for child in children.read_text().split() if children.exists() else ():
                self.child = max(self.child, anonymous(int(child)))


def anonymous(pid: int) -> int:
    """A process's anonymous memory now, in bytes; 0 if it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    lines = [line for line in status.splitlines() if line.startswith("RssAnon")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


def measure(broker: str, urls: list[str], clients: int, parameters: int, rounds: int) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        toml = Path(folder) / "bench.toml"
        toml.write_text(document(clients, parameters, rounds))
        command = [
            sys.executable,
            "-m",
            "coordinator",
            "run",
            str(toml),
            "--out",
            f"{folder}/out",
            "--fresh",
            *urls,
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        peaks = Peaks(process.pid)
        _, said = process.communicate()
        peaks.stop()
        if process.returncode:
            raise SystemExit(f"the federation failed:\n{said}")
        lines = [
            json.loads(line) for line in (Path(folder) / "out" / "history.jsonl").read_text().splitlines()
        ]
    seconds = [line["seconds"] for line in lines[3:]]  # version 0, and two rounds to warm up
    return Result(
        broker, clients, parameters, len(seconds), statistics.median(seconds), min(seconds), max(seconds),
        peaks.own, peaks.child,
    )  # fmt: skip


def document(clients: int, parameters: int, rounds: int) -> str:
    names = ["gateway"] if clients == GATEWAY else [f"s{number}" for number in range(clients)]
    loader, workers = ("fifty", GATEWAY_WORKERS) if clients == GATEWAY else ("nothing", 1)
    sites = "".join(
        f'[[local.sites]]\nname = "{name}"\ndata = "{HERE / "echo.py"}:{loader}"\nworkers = {workers}\n'
        for name in names
    )
    return (
        f'[federation]\nname = "bench"\nrounds = {rounds}\n'
        f"[cohort]\nmin_clients = {clients}\ndeadline_s = 600\n"
        "[evaluation]\neach_round = false\nlast = false\n"
        f'[local]\ntrainer = "{HERE / "echo.py"}:Echo"\nparams = {{ parameters = {parameters} }}\n{sites}'
    )


def row(result: Result) -> list[str]:
    models = result.parameters * MODEL_BYTES
    return [
        result.broker,
        str(result.clients),
        f"{result.parameters:,}",
        str(result.rounds),
        f"{1000 * result.median_s:.1f}",
        f"{1000 * result.fastest_s:.1f} to {1000 * result.slowest_s:.1f}",
        f"{result.coordinator_bytes / 1e6:.0f} ({(result.coordinator_bytes - 1e8) / models:.1f} models + 100)"
        if models > 1e7
        else f"{result.coordinator_bytes / 1e6:.0f}",
        f"{result.worker_bytes / 1e6:.0f}",
    ]


HEADS = ["broker", "clients", "parameters", "rounds", "median ms", "range ms", "coordinator MB", "worker MB"]


def main() -> None:
    console = Console()
    rabbit, redis = RabbitNode(), RedisServer()
    rabbit.start()
    redis.start()
    results: list[Result] = []
    try:
        for clients, parameters, rounds in CASES:
            for broker, urls in (
                ("embedded", []),
                ("RabbitMQ + Redis", ["--broker", rabbit.url, "--state", redis.url]),
            ):
                results.append(measure(broker, urls, clients, parameters, rounds))
                console.print(" · ".join(row(results[-1])), highlight=False)
    finally:
        rabbit.stop()
        redis.stop()
    show(console, results)


def show(console: Console, results: list[Result]) -> None:
    about = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    table = Table(*HEADS, title=f"A round in which nobody trains ({about})", title_justify="left")
    for result in results:
        table.add_row(*row(result))
    console.print(table)
    lines = [f"A round in which nobody trains, by `make bench`; {about}. Anonymous memory, peaks.", ""]
    lines += ["| " + " | ".join(cells) + " |" for cells in (HEADS, ["---"] * len(HEADS), *map(row, results))]
    (HERE / "results.md").write_text("\n".join(lines) + "\n")
    (HERE / "results.json").write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")


if __name__ == "__main__":
    main()
