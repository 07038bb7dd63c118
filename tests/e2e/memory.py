"""How much memory processes take, as the kernel tells."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

PERIOD_S = 0.01


def anonymous(pid: int) -> int:
    """What a process holds in bytes that is no file's; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


class Peaks:
    """While it is entered: the most anonymous memory that processes took, in bytes, by process id."""

    def __init__(self, pids: Iterable[int]) -> None:
        self.anonymous = dict.fromkeys(pids, 0)
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
            for pid, peak in self.anonymous.items():
                self.anonymous[pid] = max(peak, anonymous(pid))
