"""What federation the kills happen to: its configuration, its sites and their data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TRAINER = f"{Path(__file__).with_name('drift.py')}:Drift"
SITES = ("a", "b", "c", "d")
CLIENTS = 3
#: So long a round waits for a training that is lost, in seconds; no kill may lose one.
DEADLINE_S = 300.0
MODES = ("rounds", "buffered")
OPTIMIZERS = ("fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi")
#: Buffered mode: updates to a version, and how many versions behind one may be.
BUFFER = 6
STALENESS = 4


@dataclass(frozen=True)
class Setting:
    """One federation. `pause_s`: the mean time of a training; `size`: the model's floats."""

    name: str
    folder: Path
    broker: str
    state: str
    rounds: int
    pause_s: float
    mode: str = "rounds"
    optimizer: str = "fedavg"
    size: int = 20_000

    @property
    def trainings(self) -> int:
        """How many it takes when nothing is in the way."""
        return self.rounds * (BUFFER if self.mode == "buffered" else len(SITES) * CLIENTS)

    @property
    def notes(self) -> Path:
        """The folder in which each training leaves a file."""
        return self.folder / "notes"

    @property
    def gate(self) -> Path:
        """The file without which the last round doesn't end."""
        return self.folder / "gate"

    @property
    def toml(self) -> Path:
        return self.folder / "federation.toml"

    @property
    def urls(self) -> list[str]:
        return ["--broker", self.broker, "--state", self.state]

    def write(self) -> None:
        """Makes the folder, with the TOML and the data of every site."""
        self.notes.mkdir(parents=True)
        self.toml.write_text("\n".join(self._lines()))
        for number, site in enumerate(SITES):
            rows = [20 + 7 * (CLIENTS * number + client) for client in range(CLIENTS)]
            x = np.zeros((sum(rows), 1), np.float32)
            np.savez(self.data(site), x=x, y=x[:, 0], partition=np.repeat(np.arange(CLIENTS), rows))

    def data(self, site: str) -> Path:
        return self.folder / f"{site}.npz"

    def coordinator(self, number: int) -> list[object]:
        """The command of a coordinator; each has a folder of its own, as on machines of their own."""
        return ["coordinator", "coordinate", self.toml, "--out", self.out(number), *self.urls]

    def out(self, number: int) -> Path:
        return self.folder / f"out-{number}"

    def worker(self, site: str) -> list[object]:
        """The command of one of a site's workers."""
        params = {
            "size": self.size, "notes": str(self.notes), "pause_s": self.pause_s,
            "last": self.rounds - 1, "gate": str(self.gate),
        }  # fmt: skip
        return [
            "worker", "--federation", self.name, "--site", site, "--data", self.data(site),
            "--trainer", TRAINER, "--params", json.dumps(params), "--broker", self.broker,
        ]  # fmt: skip

    def _lines(self) -> Iterator[str]:
        clients, plain = len(SITES) * CLIENTS, self.optimizer == "fedavg"
        tables = {
            "federation": {"name": self.name, "rounds": self.rounds, "seed": 7, "mode": self.mode},
            # With fewer than all clients' updates a round would have other bits than the undisturbed one.
            "cohort": {
                "min_clients": clients, "minimum": clients, "deadline_s": DEADLINE_S, "absent_s": DEADLINE_S
            },
            "buffered": {"concurrency": 2 * len(SITES), "buffer": BUFFER},
            "staleness": {"max": STALENESS if self.mode == "buffered" else 0},
            "server": {"optimizer": self.optimizer, "learning_rate": 1.0 if plain else 0.1},
        }  # fmt: skip
        for table, keys in tables.items():
            yield f"[{table}]"
            yield from (f"{key} = {json.dumps(value)}" for key, value in keys.items())
