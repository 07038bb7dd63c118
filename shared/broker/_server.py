"""The one thread of a broker object that serves all its subscriptions."""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from shared.broker._subscriptions import Subscription
from shared.broker._wakeup import Bell, Bells
from shared.errors import BrokerError, UnreachableError

#: How often everything is looked at, wake-up or not.
POLL_S = 0.25

log = logging.getLogger(__name__)


class Server(threading.Thread):
    """Waits for bells, for acks that make room, and for the clock; pumps subscriptions.

    Other threads hand it closures; only `run` and what it calls touch the selector and the bells.
    """

    def __init__(self, bells: Bells, housekeeping: Callable[[], object]) -> None:
        super().__init__(name="embedded-broker", daemon=True)
        self._bells = bells
        self._housekeeping = housekeeping
        self._selector = selectors.DefaultSelector()
        self._ear, self._mouth = socket.socketpair()
        self._ear.setblocking(False)
        self._mouth.setblocking(False)
        self._selector.register(self._ear, selectors.EVENT_READ)
        self._served: dict[Subscription, Bell | None] = {}
        self._due: set[Subscription] = set()
        self._calls: deque[Callable[[], object]] = deque()
        self._next_poll = 0.0
        self._stopping = False
        self._complaint = ""

    def serve(self, subscription: Subscription) -> None:
        """Serves it from now on, and looks at once."""
        self._call(lambda: self._serve(subscription))

    def feed(self, subscription: Subscription) -> None:
        """Looks soon whether there is something for it."""
        self._call(lambda: self._due.add(subscription))

    def forget(self, subscription: Subscription) -> None:
        """Serves it no more."""
        self._call(lambda: self._forget(subscription))

    def stop(self) -> None:
        """Ends the thread; returns when it has."""
        self._stopping = True
        self._call(lambda: None)
        if self.is_alive() and threading.current_thread() is not self:
            self.join()

    def run(self) -> None:
        try:
            while not self._stopping:
                self._wait()
                self._run_calls()
                if time.monotonic() >= self._next_poll:
                    self._poll()
                self._pump()
        finally:
            for subscription in tuple(self._served):
                self._forget(subscription)
            self._selector.close()
            self._ear.close()
            self._mouth.close()

    def _call(self, call: Callable[[], object]) -> None:
        self._calls.append(call)
        # Full: it is going to wake anyhow. Closed: it has stopped.
        with suppress(OSError):
            self._mouth.send(b"!")

    def _wait(self) -> None:
        timeout = 0.0 if self._due else max(0.0, self._next_poll - time.monotonic())
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                self._ear.recv(4096)
                continue
            subscription, bell = key.data
            bell.quiet()
            self._due.add(subscription)

    def _run_calls(self) -> None:
        while self._calls:
            self._calls.popleft()()

    def _poll(self) -> None:
        self._next_poll = time.monotonic() + POLL_S
        for subscription, bell in tuple(self._served.items()):
            if bell is None or not bell.path.exists():
                self._unhang(subscription)
                self._hang(subscription)
        self._due.update(self._served)
        self._guarded(self._housekeeping)

    def _pump(self) -> None:
        due, self._due = self._due, set()
        for subscription in due & self._served.keys():
            if self._guarded(subscription.pump):
                self._due.add(subscription)

    def _guarded(self, step: Callable[[], object]) -> object:
        """A step's result; if it fails, says so (once), and the next poll tries again."""
        try:
            return step()
        except (UnreachableError, BrokerError, OSError) as error:
            if not self._stopping and str(error) != self._complaint:
                self._complaint = str(error)
                log.warning("the embedded broker tries again: %s", error)
            return None

    def _serve(self, subscription: Subscription) -> None:
        self._served[subscription] = None
        self._hang(subscription)
        self._due.add(subscription)

    def _forget(self, subscription: Subscription) -> None:
        self._unhang(subscription)
        self._served.pop(subscription, None)

    def _hang(self, subscription: Subscription) -> None:
        bell = self._bells.hang(subscription.queue)
        self._served[subscription] = bell
        if bell is not None:
            self._selector.register(bell.socket, selectors.EVENT_READ, (subscription, bell))

    def _unhang(self, subscription: Subscription) -> None:
        bell = self._served.get(subscription)
        if bell is not None:
            self._selector.unregister(bell.socket)
            bell.close()
