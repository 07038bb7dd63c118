"""Worker processes on this machine, for `warren run`: started, watched, started again, ended."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coordinator.config import Config, LocalSite
from shared.errors import ConfigError

log = logging.getLogger(__name__)

WATCH_S = 0.2
#: A worker that dies is started again after so long, doubled each time it dies again within a minute.
RESTART_S = 0.5
RESTART_MAX_S = 30.0
#: How long a worker may go on with the training in hand when it is told to end, and when it is killed.
GRACE_S = 2.0
END_S = 6.0
#: The exit code with which a worker says that its settings are wrong.
CONFIG_EXIT = 2


@dataclass
class _Process:
    site: LocalSite
    number: int
    log_file: Path
    popen: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pause_s: float = RESTART_S
    restart_at: float = field(default=0.0)


class Workers:
    """The local sites' workers. Each ends when this process does, however it does: its stdin closes."""

    def __init__(self, config: Config, broker_url: str, logs: Path, failed: Callable[[str], None]) -> None:
        """`failed` is told, from a thread, when a site's settings let no worker of it start."""
        self._config = config
        self._broker_url = broker_url
        self._failed = failed
        logs.mkdir(parents=True, exist_ok=True)
        self._processes = [
            _Process(site, number, logs / f"{site.name}-{number}.log")
            for site in config.local.sites
            for number in range(site.workers)
        ]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="workers", daemon=True)

    def start(self) -> None:
        for process in self._processes:
            self._begin(process)
        self._thread.start()

    def close(self) -> None:
        """Ends all of them, politely first."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        running = [p.popen for p in self._processes if p.popen is not None]
        for popen in running:
            popen.terminate()
        deadline = time.monotonic() + END_S
        for popen in running:
            try:
                popen.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()
            if popen.stdin is not None:
                popen.stdin.close()

    def _begin(self, process: _Process) -> None:
        process.started_at = time.monotonic()
        with process.log_file.open("ab") as output:
            process.popen = subprocess.Popen(
                command(self._config, process.site, self._broker_url),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                # Ctrl-C is this process's to handle; it ends its workers itself.
                process_group=0,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            )

    def _watch(self) -> None:
        while not self._stop.wait(WATCH_S):
            for process in self._processes:
                self._look_after(process)

    def _look_after(self, process: _Process) -> None:
        now = time.monotonic()
        if process.popen is None:
            if now >= process.restart_at:
                self._begin(process)
            return
        code = process.popen.poll()
        if code is None:
            return
        process.popen = None
        if code == CONFIG_EXIT:
            process.restart_at = float("inf")
            self._failed(f"the worker of site {process.site.name!r} cannot start: {_last_line(process)}")
            return
        lived_long = now - process.started_at > 60
        process.pause_s = RESTART_S if lived_long else min(process.pause_s * 2, RESTART_MAX_S)
        process.restart_at = now + process.pause_s
        log.warning(
            "worker %d of site %s ended (%s); a new one starts in %.1f s; its log: %s",
            process.number, process.site.name, _ending(code), process.pause_s, process.log_file,
        )  # fmt: skip


def command(config: Config, site: LocalSite, broker_url: str) -> Sequence[str]:
    """The command line of a site's worker, as a person would type it."""
    params = config.local.params if site.params is None else site.params
    return [
        sys.executable, "-m", "worker",
        "--federation", config.name,
        "--site", site.name,
        "--data", site.data,
        "--trainer", site.trainer or config.local.trainer,
        "--params", json.dumps(params),
        "--broker", broker_url,
        "--grace", str(GRACE_S),
        "--end-with-stdin",
    ]  # fmt: skip


def check_data(config: Config) -> None:
    """Raises ConfigError if a local site's data isn't there, before anything is started."""
    for site in config.local.sites:
        is_loader = ":" in site.data
        if not is_loader and not Path(site.data).exists():
            raise ConfigError(
                f"the data of site {site.name!r} is not there: {site.data}; prepare it, as the comment "
                f"at the top of the TOML file may say, or correct local.sites"
            )


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _last_line(process: _Process) -> str:
    lines = process.log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else f"see {process.log_file}"
