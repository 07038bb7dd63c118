"""The services of a run, each of which comes back after a kill."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.chaos.container import RabbitContainer
from tests.services import RabbitNode, RedisServer


class Killable(Protocol):
    """A server of `tests.services`, or a container."""

    @property
    def url(self) -> str: ...
    def start(self) -> None: ...
    def kill(self) -> None: ...
    def stop(self) -> None: ...


class Phoenix:
    """A service that comes back after a kill, started by a thread of its own. For one thread.

    `lives_s`: so many seconds it shall be up before it is killed, and have its queues.
    """

    def __init__(self, service: Killable, lives_s: float = 0.0) -> None:
        service.start()
        self.lives_s = lives_s
        self._service = service
        self._up_at: float | None = time.monotonic()
        self._error: Exception | None = None
        self._reviver: threading.Thread | None = None

    @property
    def up_s(self) -> float:
        """For how long it has been up, in seconds; 0 while it is not.

        Raises:
            ServiceFailed: it did not start again.
        """
        if self._error is not None:
            raise self._error
        return 0.0 if self._up_at is None else time.monotonic() - self._up_at

    def kill(self, rest_s: float) -> None:
        """SIGKILL; it is started again after `rest_s`."""
        self._up_at = None
        self._service.kill()
        self._reviver = threading.Thread(target=self._revive, args=(rest_s,), name="reviver")
        self._reviver.start()

    def wait(self) -> None:
        """Returns when it is up, or has failed to come up."""
        if self._reviver is not None:
            self._reviver.join()

    def _revive(self, rest_s: float) -> None:
        time.sleep(rest_s)
        try:
            self._service.start()
        except Exception as error:  # noqa: BLE001 - `up_s` raises it where it is seen
            self._error = error
        else:
            self._up_at = time.monotonic()


@dataclass(frozen=True)
class Services:
    """The URLs (or folder) of broker and state store, and what of them can be killed, by its kind."""

    broker: str
    state: str
    phoenixes: Mapping[str, Phoenix]


#: What makes a broker, by the name that the command line has for it; None: a folder.
BROKERS: Mapping[str, Callable[[], Killable] | None] = {
    "rabbit": RabbitNode,
    "docker": RabbitContainer,
    "embedded": None,
}
#: RabbitMQ 3.10 may lose confirmed messages when it is killed about a second after it came back, and a queue
#: that it is killed with in its first second. RabbitMQ 4 does not.
LIVES_S = {"rabbit": 5.0, "docker": 0.3}


@contextmanager
def serving(broker: str, folder: Path) -> Iterator[Services]:
    """A broker of that kind and a state store, for as long as the `with` lasts.

    Raises:
        ServiceMissing: a program is not installed.
        ServiceFailed: one does not start.
    """
    make = BROKERS[broker]
    if make is None:
        inside = str(folder / "log")
        yield Services(inside, inside, {})
        return
    with ExitStack() as stack:
        rabbit, redis = make(), RedisServer()
        for service in (rabbit, redis):
            stack.callback(service.stop)
        phoenixes = {"rabbitmq": Phoenix(rabbit, LIVES_S[broker]), "redis": Phoenix(redis)}
        for phoenix in phoenixes.values():
            stack.callback(phoenix.wait)
        yield Services(rabbit.url, redis.url, phoenixes)
