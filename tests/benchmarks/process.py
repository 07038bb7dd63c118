"""A process of the benchmark: told what to do by lines, and heard in JSON lines, each with a deadline."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
#: How long a process may take to end when its input does.
END_S = 10.0
TAIL_CHARS = 1500


class BenchmarkFailed(RuntimeError):
    """Raised when what is measured does not work, or does not answer in time."""


class Process:
    """`python -m MODULE …`, in a process group of its own, which is killed at the context's end.

    It ends by itself when its input does, which is when this process is gone.
    """

    def __init__(self, module: str, arguments: Sequence[object], errors: Path) -> None:
        self._module = module
        self._errors = errors
        self._heard = b""
        self.began = time.monotonic()
        with errors.open("wb") as file:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, arguments)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                process_group=0,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def tell(self, line: object) -> None:
        """Writes a line to its input."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(f"{line}\n".encode())
        self._popen.stdin.flush()

    def hear(self, key: str, patience_s: float) -> dict[str, Any]:
        """The next object that has such a key; what else is printed is passed over.

        Raises:
            BenchmarkFailed: it ended, or said nothing of the kind in time.
        """
        deadline = time.monotonic() + patience_s
        while True:
            line, newline, rest = self._heard.partition(b"\n")
            if newline:
                self._heard = rest
                said = json.loads(line) if line.startswith(b"{") else {}
                if key in said:
                    return dict(said)
            else:
                self._heard += self._more(deadline - time.monotonic())

    def end(self) -> None:
        """Asks it to end; the context's end waits for that."""
        self._popen.terminate()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        with suppress(BrokenPipeError):
            self._popen.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(END_S)
        with suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        self._popen.stdout.close()

    def _more(self, patience_s: float) -> bytes:
        assert self._popen.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._popen.stdout, selectors.EVENT_READ)
            ready = selector.select(max(patience_s, 0))
        more = os.read(self._popen.stdout.fileno(), 65536) if ready else b""
        if more:
            return more
        what = "ended early" if ready else "does not answer"
        said = self._errors.read_text(errors="replace")[-TAIL_CHARS:]
        raise BenchmarkFailed(f"{self._module} {what}; it said:\n{said}")
