"""Who tries to lead: a lease in the state store. It decides only that; the journal decides who leads."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
from pathlib import Path

from coordinator.state.port import StateStore
from shared.errors import StateUnreachable
from shared.runtime import THREADS, Flag, Runtime

log = logging.getLogger(__name__)

#: A leader that does not renew for so long may be replaced.
LEASE_S = 10.0
POLL_S = 0.25


def make_token() -> str:
    """A token that tells where its holder runs, so that one on the same machine can see whether it lives."""
    holder = {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "start": _started(os.getpid()),
    }
    return json.dumps({**holder, "nonce": secrets.token_hex(8)}, sort_keys=True)


def is_dead(token: str) -> bool:
    """Whether the holder ran on this machine and is gone. False where that can't be known."""
    try:
        holder = json.loads(token)
        if holder["host"] != socket.gethostname() or not _boot():
            return False
        return bool(holder["boot"] != _boot() or holder["start"] != _started(int(holder["pid"])))
    except (ValueError, KeyError, TypeError):
        return False


def acquire(store: StateStore, token: str, stop: Flag, ttl_s: float = LEASE_S) -> bool:
    """Waits for the lease; returns False if told to stop before.

    Raises:
        StateUnreachable: the store does not answer the first time.
    """
    said = ""
    while not stop.is_set():
        try:
            holder = _try(store, token, ttl_s)
            text = f"standing by: another coordinator leads this federation ({describe(holder)})"
        except StateUnreachable as error:
            if not said:
                raise
            # A standby outlives the store's outages: there may be nobody else to take over.
            holder, text = "", f"standing by: {error}"
        if holder == token:
            return True
        if text != said:
            log.info("%s", text)
        said = text
        stop.wait(POLL_S)
    return False


def _try(store: StateStore, token: str, ttl_s: float) -> str:
    """Who holds the lease, once this coordinator has tried for it."""
    holder = store.lease(token, ttl_s)
    if holder != token and is_dead(holder):
        holder = store.lease(token, ttl_s, instead_of=holder)
    return holder


def describe(token: str) -> str:
    """A holder, for people."""
    try:
        holder = json.loads(token)
        return f"process {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):
        return "unknown"


class Keeper:
    """Renews the lease from a thread of its own, whatever the coordinator is busy with."""

    def __init__(
        self, store: StateStore, token: str, ttl_s: float = LEASE_S, runtime: Runtime = THREADS
    ) -> None:
        self._store = store
        self._token = token
        self._ttl_s = ttl_s
        self._runtime = runtime
        self._held_until = runtime.monotonic() + ttl_s
        self._doubtful = False
        self._stop = runtime.flag()
        self._task = runtime.start(self._run, "lease")

    def in_doubt(self) -> bool:
        """Whether another coordinator may have taken the lease since `looking` was called last."""
        return self._doubtful or self._runtime.monotonic() >= self._held_until

    def looking(self) -> None:
        """The journal is about to be looked at: only what becomes doubtful from now on is so afterwards."""
        self._doubtful = False

    def close(self) -> None:
        """Stops renewing, and gives the lease back."""
        self._stop.set()
        self._task.join()
        try:
            self._store.release(self._token)
        except StateUnreachable as error:
            log.info("the lease was not given back, and will run out: %s", error)

    def _run(self) -> None:
        away = False
        while not self._stop.wait(self._ttl_s / 3):
            try:
                self._renew()
                if away:
                    log.info("the state store is back")
                away = False
            except StateUnreachable as error:
                if not away:
                    log.warning("%s; the federation goes on without it", error)
                away = True

    def _renew(self) -> None:
        began = self._runtime.monotonic()
        held = self._store.lease(self._token, self._ttl_s) == self._token
        # It ran out before it was renewed: in between somebody else may have had it.
        if not held or self._runtime.monotonic() >= self._held_until:
            self._doubtful = True
        if held:
            self._held_until = began + self._ttl_s


def _boot() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def _started(pid: int) -> str:
    """When a process began, in clock ticks since boot; "" if it is gone, or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]
