"""A federation's processes: started, killed, and started again, as an init system would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.chaos.setting import SITES, Setting

COORDINATORS = 2
WORKERS = 2
#: What a coordinator says that found a later leader, and its exit code; and the code for want of a service.
DEPOSED, DEPOSED_CODE = "leads this federation now", 4
UNREACHABLE_CODE = 3
#: A process that ended by itself is started again after so many seconds.
PAUSE_S = 0.3
#: A frozen process wakes up after so many seconds: a leader's lease, of 10 s, is another's then.
FREEZE_S = 12.0


class CrewFailed(RuntimeError):
    """Raised when a process ends in a way that no kill explains."""


class Member:
    """One process, started with `python -m COMMAND` in a group of its own. `out`: a coordinator's folder."""

    def __init__(self, kind: str, name: str, command: list[object], errors: Path, out: Path | None) -> None:
        self.kind = kind
        self.name = name
        self.errors = errors
        self.out = out
        self._command = [sys.executable, "-m", *map(str, command)]
        self._process: subprocess.Popen[bytes] | None = None
        self._due_at = 0.0
        self._killed = False
        self._wakes_at: float | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def frozen(self) -> bool:
        return self._wakes_at is not None

    @property
    def led_at(self) -> float:
        """When it last wrote to its history, in seconds since 1970; 0 if it never did."""
        history = self.out / "history.jsonl" if self.out else None
        return history.stat().st_mtime if history is not None and history.exists() else 0.0

    def start(self) -> None:
        with self.errors.open("ab") as errors:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, process_group=0,
            )  # fmt: skip
        self._killed = False

    def kill(self, rest_s: float = 0.0) -> None:
        """SIGKILL for it and all that it started; it is due again after `rest_s`."""
        if self._process is None:
            return
        self._killed, self._due_at = True, time.monotonic() + rest_s
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._wakes_at = None

    def freeze(self) -> None:
        """SIGSTOP: it knows nothing of the time until it wakes up."""
        self._signal(signal.SIGSTOP)
        self._wakes_at = time.monotonic() + FREEZE_S

    def tend(self) -> bool:
        """Starts or wakes it again if it is due; returns whether it ended for good, with success.

        Raises:
            CrewFailed: it ended in a way that no kill explains.
        """
        if self._wakes_at is not None and time.monotonic() >= self._wakes_at:
            self._signal(signal.SIGCONT)
            self._wakes_at = None
        if self.running:
            return False
        if not self._killed and self._process is not None:
            if self._process.returncode == 0 and self.kind == "coordinator":
                return True
            self._check_end(self._process.returncode)
            self._killed, self._due_at = True, time.monotonic() + PAUSE_S
        if time.monotonic() >= self._due_at:
            self.start()
        return False

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _check_end(self, code: int) -> None:
        """A coordinator may end because a service is away, or because another leads."""
        last = self.said()[-1:]
        deposed = code == DEPOSED_CODE and any(DEPOSED in line for line in last)
        if self.kind != "coordinator" or not (code == UNREACHABLE_CODE or deposed):
            raise CrewFailed(f"{self.name} ended with code {code}: {' '.join(last) or 'it said nothing'}")

    def said(self) -> list[str]:
        """The lines of its standard error."""
        return self.errors.read_text(errors="replace").splitlines()


class Crew:
    """A leader, a standby, and the sites' workers, for as long as the `with` lasts."""

    def __init__(self, setting: Setting) -> None:
        setting.write()
        self._setting = setting
        self.members = [
            self._member("coordinator", str(number), setting.coordinator(number), setting.out(number))
            for number in range(COORDINATORS)
        ]
        self.members += [
            self._member("worker", f"{site}-{number}", setting.worker(site))
            for site in SITES
            for number in range(WORKERS)
        ]

    def __enter__(self) -> Crew:
        for member in self.members:
            member.start()
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            member.kill()

    def tend(self) -> bool:
        """Starts again what is due; returns whether the federation has finished.

        Raises:
            CrewFailed: a process ended in a way that no kill explains.
        """
        ended = [member.tend() for member in self.members]
        return any(ended)

    def victim(self, kind: str, pick: float) -> Member | None:
        """The running process that `pick`, in [0, 1), chooses: who leads, rather than who stands by.

        None while one of its kind is frozen: another shall have the time to take over.
        """
        running = [member for member in self.members if member.kind == kind and member.running]
        if not running or any(member.frozen for member in running):
            return None
        running.sort(key=lambda member: member.led_at, reverse=True)
        return running[int(pick * pick * len(running))]

    def trained(self) -> int:
        """The trainings that were done so far."""
        return sum(1 for _ in self._setting.notes.iterdir())

    def rounds(self) -> int:
        """The versions made so far, as a coordinator's history has them."""
        histories = [member.out / "history.jsonl" for member in self.members if member.out is not None]
        return max((len(file.read_bytes().splitlines()) for file in histories if file.exists()), default=0)

    def tracebacks(self) -> list[str]:
        """The processes that showed their users a traceback."""
        return [m.name for m in self.members if any(line.startswith("Traceback") for line in m.said())]

    def _member(self, kind: str, name: str, command: list[object], out: Path | None = None) -> Member:
        return Member(kind, f"{kind} {name}", command, self._setting.folder / f"{kind}-{name}.err", out)
