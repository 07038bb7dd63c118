"""The machine that is measured on, and its processes, as /proc tells of them."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tests.services import RabbitNode, RedisServer

Name = TypeVar("Name")

#: How long others' load is looked at before the measurements, and what share of the cores counts as busy.
LOOK_S = 2.0
BUSY = 0.1
SAMPLE_S = 0.02
_TICKS = os.sysconf("SC_CLK_TCK")


def about(rabbit: RabbitNode, redis: RedisServer) -> dict[str, str]:
    """What the figures depend on."""
    return {
        "CPU": f"{_cpu()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f} GB",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": f"{platform.python_version()}, numpy {np.__version__}",
        "RabbitMQ": rabbit.ctl("version").strip(),
        "Redis": _redis_version(),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def load() -> float:
    """The share of the cores that is busy now, looked at for LOOK_S seconds while nothing of ours runs."""
    before = _cpu_times()
    time.sleep(LOOK_S)
    busy, total = (after - earlier for after, earlier in zip(_cpu_times(), before, strict=True))
    return busy / max(total, 1)


def free_disk(folder: Path) -> int:
    """Bytes that the folder's disk has room for."""
    return shutil.disk_usage(folder).free


def anonymous(pid: int) -> int:
    """A process's anonymous memory now, in bytes; 0 if it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    lines = [line for line in status.splitlines() if line.startswith("RssAnon")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


def cpu_seconds(pid: int) -> float:
    """Seconds of a core that a process has used, its threads together.

    Raises:
        FileNotFoundError: it is gone.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def children(pid: int) -> list[int]:
    """The processes that a process's main thread has started, and that are still there."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


class Peaks:
    """The largest anonymous memory of a process and of any child of it, sampled while the context lasts."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.own = self.child = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self.own = max(self.own, anonymous(self._pid))
            self.child = max(self.child, *map(anonymous, children(self._pid)), 0)


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def in_turn(
    calls: Mapping[Name, Callable[[], object]], times: int, warm_up: int = 1
) -> dict[Name, list[float]]:
    """Seconds of each call, A B C A B C …; the first turns warm up and don't count."""
    series: dict[Name, list[float]] = {name: [] for name in calls}
    for turn in range(warm_up + times):
        for name, call in calls.items():
            seconds = timed(call)
            if turn >= warm_up:
                series[name].append(seconds)
    return series


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown")


def _cpu_times() -> tuple[int, int]:
    """Busy and all ticks of the cores since the start."""
    ticks = list(map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]))
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)


def _redis_version() -> str:
    said = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    return _word_after("v=", said.split())


def _word_after(prefix: str, words: Iterable[str]) -> str:
    return next((word.removeprefix(prefix) for word in words if word.startswith(prefix)), "unknown")


def available_memory() -> int:
    """Bytes that processes can still have."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
