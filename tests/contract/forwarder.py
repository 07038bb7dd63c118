"""A TCP forwarder in front of a broker, for tests to cut, mute and count what passes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Literal

Direction = Literal["up", "down"]
CHUNK_BYTES = 64 * 1024


class Forwarder:
    """Forwards a port of its own to `port` on this machine; "up" is towards the broker.

    `drops` may be replaced: what it says yes to doesn't pass. `turns` counts how often the direction changed.
    """

    def __init__(self, port: int) -> None:
        self.drops: Callable[[Direction, bytes], bool] = lambda _direction, _data: False
        self.passed: dict[Direction, int] = {"up": 0, "down": 0}
        self.connections = 0
        self.turns = 0
        self._target = port
        self._cut_at: dict[Direction, int] = {}
        self._last: Direction = "down"
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Breaks all connections there are."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                _shut(end)

    def cut_after(self, direction: Direction, nbytes: int) -> None:
        """Breaks all connections, once, when so many more bytes have passed."""
        with self._lock:
            self._cut_at[direction] = self.passed[direction] + nbytes

    def close(self) -> None:
        _shut(self._listener)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            with self._lock:
                self.connections += 1
                self._pairs.append((client, server))
            threading.Thread(target=self._pump, args=("up", client, server), daemon=True).start()
            threading.Thread(target=self._pump, args=("down", server, client), daemon=True).start()

    def _pump(self, direction: Direction, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):  # one end is gone: the other is told
            while data := source.recv(CHUNK_BYTES):
                if self._counts(direction, len(data)):
                    self.cut()
                elif not self.drops(direction, data):
                    target.sendall(data)
        _shut(source)
        _shut(target)

    def _counts(self, direction: Direction, nbytes: int) -> bool:
        """Notes what arrived; returns whether it is time to cut."""
        with self._lock:
            self.turns += direction != self._last
            self._last = direction
            self.passed[direction] += nbytes
            if self.passed[direction] < self._cut_at.get(direction, 1 << 62):
                return False
            del self._cut_at[direction]
            return True


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it was already
        end.shutdown(socket.SHUT_RDWR)
