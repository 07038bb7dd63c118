"""How much memory processes take, as the kernel tells."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

PERIOD_S = 0.01


def figure(pid: int, name: str) -> int:
    """A figure of /proc/PID/status in bytes, such as RssAnon or VmHWM; 0 once the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


class Peaks:
    """While it is entered: the most anonymous memory (`anonymous`) that named processes took, in bytes.

    `resident` counts what they map of files too.
    """

    def __init__(self, pids: Mapping[str, int]) -> None:
        self.anonymous = dict.fromkeys(pids, 0)
        self.resident = dict.fromkeys(pids, 0)
        self._pids = pids
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peaks", daemon=True)

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(PERIOD_S):
            for name, pid in self._pids.items():
                self.anonymous[name] = max(self.anonymous[name], figure(pid, "RssAnon"))
                self.resident[name] = max(self.resident[name], figure(pid, "VmHWM"))
