"""Federations of real processes, on the embedded broker and on RabbitMQ + Redis."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import pytest

from tests.services import RabbitNode

TRAINERS = Path(__file__).with_name("trainers.py")
FIELD_TRAINERS = Path(__file__).with_name("field_trainers.py")
SOFTMAX = {"features": 5, "classes": 3}
#: Of the sites' logins.
PASSWORD = "secret"
#: How long a federation of the tests may take before it counts as hung.
DEADLINE_S = 120


class Federation:
    """One federation in a folder: its data, its TOML, its processes."""

    def __init__(self, name: str, folder: Path, urls: list[str]) -> None:
        self.name = name
        self.folder = folder
        self.urls = urls
        self.out = folder / "out"
        self.notes = folder / "notes"
        self.gate = folder / "gate"
        self.processes: list[subprocess.Popen] = []
        self._errors: dict[int, Path] = {}
        self.notes.mkdir(parents=True)

    @property
    def broker_url(self) -> str:
        return self.urls[1] if self.urls else str(self.out / "log")

    def site(
        self, name: str, clients: int = 1, trainer: str = "Honest", workers: int = 1, **params: object
    ) -> dict:
        """Makes a site's data, and describes it. `trainer`: one of trainers.py, or FILE.py:CLASS."""
        rng = np.random.default_rng(list(name.encode()))
        centres = np.random.default_rng(1).normal(size=(3, 5)) * 2
        y = rng.integers(0, 3, 40 * clients)
        x = (centres[y] + rng.normal(size=(len(y), 5))).astype(np.float32)
        path = self.folder / f"{name}.npz"
        np.savez(path, x=x, y=y, partition=np.repeat(np.arange(clients), 40))
        return {
            "name": name,
            "data": str(path),
            "workers": workers,
            "trainer": trainer if ":" in trainer else f"{TRAINERS}:{trainer}",
            "params": {**({} if ":" in trainer else SOFTMAX), "notes": str(self.notes), **params},
        }

    def wide_site(self, name: str, size: int, clients: int = 1, pause_s: float = 0.0) -> dict:
        """A site that trains a model of `size` float32."""
        return self.site(name, clients, f"{FIELD_TRAINERS}:Wide", size=size, pause_s=pause_s)

    def write(self, sites: list[dict], **tables: dict) -> Path:
        """Writes the TOML; `tables` override the defaults, by table."""
        clients = sum(len(set(np.load(site["data"])["partition"])) for site in sites)
        document = {
            "federation": {"name": self.name, "rounds": 5, "seed": 7, **tables.pop("federation", {})},
            "training": {"epochs": 1, "batch_size": 8, "learning_rate": 0.1, **tables.pop("training", {})},
            "cohort": {"min_clients": clients, "deadline_s": 30.0, **tables.pop("cohort", {})},
            **tables,
        }
        lines = []
        for table, keys in document.items():
            lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
        for site in sites:
            params = ", ".join(f"{key} = {json.dumps(value)}" for key, value in site["params"].items())
            plain = [f"{key} = {json.dumps(site[key])}" for key in ("name", "data", "workers", "trainer")]
            lines += ["[[local.sites]]", *plain, f"params = {{ {params} }}"]
        path = self.folder / "federation.toml"
        path.write_text("\n".join(lines))
        return path

    def warren(self, *arguments: object) -> subprocess.Popen:
        """Starts a `warren` command, in a process group of its own."""
        return self._start("coordinator", *arguments)

    def coordinate(self, toml: Path, *arguments: object, broker_url: str = "") -> subprocess.Popen:
        """`warren coordinate`, begun; at another broker's URL than the others, if one is given."""
        urls = [*self.urls, *(("--broker", broker_url) if broker_url else ())]
        return self.warren("coordinate", toml, "--out", self.out, *urls, *arguments)

    def worker(
        self, site: dict, *more: str, broker_url: str = "", clock_off_s: float = 0.0
    ) -> subprocess.Popen:
        """Starts a worker of a site, as an engineer there would; its machine's clock may be off."""
        program = ("tests.e2e.clock", clock_off_s) if clock_off_s else ("worker",)
        return self._start(
            *program, "--federation", self.name, "--site", site["name"], "--data", site["data"],
            "--trainer", site["trainer"], "--params", json.dumps(site["params"]),
            "--broker", broker_url or self.broker_url,
            *more,
        )  # fmt: skip

    def run(self, toml: Path, *arguments: object) -> subprocess.CompletedProcess:
        """`warren run` to its end."""
        return self.done(self.warren("run", toml, "--out", self.out, *self.urls, *arguments))

    def start(self, toml: Path, *arguments: object) -> subprocess.Popen:
        """`warren run`, begun."""
        return self.warren("run", toml, "--out", self.out, *self.urls, *arguments)

    def ask(self, command: str, *arguments: object) -> subprocess.CompletedProcess:
        """A reading command about this federation."""
        urls = self.urls if command == "status" else self.urls[:2]
        return self.done(self.warren(command, self.out, *urls, *arguments))

    def status(self) -> dict:
        return json.loads(self.ask("status", "--json").stdout)

    def versions(self) -> list[dict]:
        """The closed rounds in the journal, oldest first."""
        lines = self.ask("log", "--json").stdout.splitlines()
        return [json.loads(line) for line in lines][::-1]

    def history(self) -> list[dict]:
        file = self.out / "history.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def repeats(self) -> list[int]:
        """How often each training of `Wide` was done by one process."""
        return [len(note.read_text().splitlines()) for note in self.notes.iterdir()]

    def trainings(self) -> dict[int, int]:
        """How often each process trained."""
        counts: dict[int, int] = {}
        for note in self.notes.iterdir():
            pid = int(note.name.partition("-")[0])
            counts[pid] = counts.get(pid, 0) + 1
        return counts

    def said(self, process: subprocess.Popen) -> str:
        """What a process has written to standard error so far."""
        return self._errors[process.pid].read_text()

    def done(self, process: subprocess.Popen, timeout_s: float = DEADLINE_S) -> subprocess.CompletedProcess:
        out, _ = process.communicate(timeout=timeout_s)
        return subprocess.CompletedProcess(process.args, process.returncode, out, self.said(process))

    def close(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def _start(self, module: str, *arguments: object) -> subprocess.Popen:
        errors = self.folder / f"{module}-{len(self.processes)}.err"
        with errors.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, arguments)],
                stdout=subprocess.PIPE, stderr=file, text=True, process_group=0,
            )  # fmt: skip
        self.processes.append(process)
        self._errors[process.pid] = errors
        return process


@pytest.fixture(params=["embedded", "services"])
def urls(request: pytest.FixtureRequest) -> list[str]:
    """The command line's words for a broker and a state store; none: embedded."""
    if request.param == "embedded":
        return []
    return [
        "--broker",
        request.getfixturevalue("rabbit_url"),
        "--state",
        request.getfixturevalue("redis_url"),
    ]


@pytest.fixture
def fed(federation: str, tmp_path: Path, urls: list[str]) -> Iterator[Federation]:
    made = Federation(federation, tmp_path, urls)
    yield made
    made.close()


@pytest.fixture
def login_of(rabbit_node: RabbitNode, federation: str) -> Iterator[Callable[[str], str]]:
    """Makes a site's login at RabbitMQ, with the least that a worker needs; gives its URL."""
    made = []

    def make(site: str) -> str:
        name = re.escape(f"warren.{federation}")
        write = rf"^{name}\.(results|presence)$"
        read = rf"^{name}\.(assignments\.{site}|rounds\.log)$"
        rabbit_node.ctl("add_user", site, PASSWORD)
        rabbit_node.ctl("set_permissions", "-p", "/", site, "^$", write, read)
        made.append(site)
        url = urlsplit(rabbit_node.url)
        return urlunsplit(url._replace(netloc=f"{site}:{PASSWORD}@{url.hostname}:{url.port}"))

    yield make
    for site in made:
        rabbit_node.ctl("delete_user", site)


@pytest.fixture
def make_fed(tmp_path: Path) -> Iterator[Callable[[str, list[str]], Federation]]:
    """Makes federations by name and urls; ends what they started."""
    with _making(tmp_path) as make:
        yield make


@pytest.fixture(scope="module")
def make_module_fed(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str, list[str]], Federation]]:
    """The same for what several tests compare with."""
    with _making(tmp_path_factory.mktemp("federations")) as make:
        yield make


@contextmanager
def _making(folder: Path) -> Iterator[Callable[[str, list[str]], Federation]]:
    made: list[Federation] = []

    def make(name: str, urls: list[str]) -> Federation:
        made.append(Federation(name, folder / f"{name}-{len(made)}", urls))
        return made[-1]

    try:
        yield make
    finally:
        for federation in made:
            federation.close()
