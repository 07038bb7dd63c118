"""RabbitMQ nodes and Redis servers of the tests' own: private folders, free ports, loopback only.

`python tests/services.py --install` installs what is missing, or says in one sentence what to install.
Nothing here touches a service that runs on the machine already, and nothing is left behind: a guard process
ends a service and removes its folder as soon as the process that started it is gone, however it went.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

#: Debian's package for each program that the tests start.
PACKAGES = {"rabbitmq-server": "rabbitmq-server", "redis-server": "redis-server"}
#: The plain scripts; those on root's PATH step down to a user of their own, who may not read our folders.
RABBITMQ_SCRIPTS = "/usr/lib/rabbitmq/bin"
#: What RabbitMQ 4 takes at most; older ones would take more.
MAX_MESSAGE_BYTES = 16 << 20
#: Below the range that the kernel gives to outgoing connections.
PORTS = range(20_000, 32_768)
#: A node takes 4 s of one free core to start, more on a busy machine.
START_TIMEOUT_S = 60.0
POLL_S = 0.01
LOG_LINES = 30
#: What nodes of one cluster know each other by; they listen on loopback only.
COOKIE = "warren-tests"
#: Reads lists of process groups, one a line; at the end of its input kills those of the last one.
GUARD = 'while read -r line; do groups=$line; done; kill -KILL $groups; rm -rf -- "$1"'
ADVICE = (
    "The tests need RabbitMQ and Redis: install rabbitmq-server and redis-server "
    "(Debian, Ubuntu: sudo apt-get install rabbitmq-server redis-server) and run them again."
)


class ServiceMissing(RuntimeError):
    """Raised when a program that the tests need is not installed."""


class ServiceFailed(RuntimeError):
    """Raised when a service does not start, or refuses a command; carries the end of its log."""


class Service(ABC):
    """A server on a port of its own; its folder lives from the first `start` to `stop`. Not thread-safe."""

    name: str

    def __init__(self) -> None:
        self.port = free_port()
        self._folder: Path | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect."""

    @property
    def folder(self) -> Path:
        """Where it keeps data and log.

        Raises:
            ServiceFailed: it was not started.
        """
        if self._folder is None:
            raise ServiceFailed(f"{self.name} has no folder: start it first")
        return self._folder

    @property
    def pid(self) -> int:
        """The server's own process."""
        return self._running[self.name].pid

    def start(self) -> None:
        """Starts it and waits until it answers; after `kill`, on the same port and data.

        Raises:
            ServiceMissing: it is not installed.
            ServiceFailed: it does not answer in time.
        """
        if self.name in self._running:
            return
        try:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="warren-"))
                self._guard = _guard(self._folder)
            self._launch()
            self._wait_until_up()
        except BaseException:
            self.stop()
            raise

    def kill(self) -> None:
        """Ends the server with SIGKILL, at once; its data stays."""
        self._end(self.name)

    def stop(self) -> None:
        """Ends all its processes and removes its folder."""
        for name in list(self._running):
            self._end(name)
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            self._guard.wait()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = self._guard = None

    @abstractmethod
    def _launch(self) -> None:
        """Starts the processes, with `_spawn`."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether the server speaks its protocol now; OSError when it doesn't listen."""

    def _spawn(self, name: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> None:
        with open(self.folder / "log", "ab") as log:
            self._running[name] = subprocess.Popen(
                command,
                env=env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._tell_guard()

    def _end(self, name: str) -> None:
        process = self._running.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()
            self._tell_guard()

    def _tell_guard(self) -> None:
        if self._guard is not None and self._guard.stdin is not None:
            groups = " ".join(f"-{process.pid}" for process in self._running.values())
            self._guard.stdin.write(f"{groups}\n".encode())
            self._guard.stdin.flush()

    def _wait_until_up(self) -> None:
        try:
            wait_for(self._is_up, START_TIMEOUT_S, self.name)
        except TimeoutError as late:
            raise ServiceFailed(f"{late}; its log ends with:\n{self._log_end()}") from late

    def _is_up(self) -> bool:
        if self._running[self.name].poll() is not None:
            raise ServiceFailed(f"{self.name} ended while starting; its log ends with:\n{self._log_end()}")
        try:
            return self._answers()
        except OSError:
            return False

    def _log_end(self) -> str:
        lines = (self.folder / "log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES:])


class RabbitNode(Service):
    """A RabbitMQ node with an Erlang port mapper of its own; the mapper lives until `stop`.

    `beside`: another node, whose mapper it uses, and whose cluster it joins when it is first started.
    """

    name = "rabbitmq-server"

    def __init__(self, node: str = "warren", beside: RabbitNode | None = None) -> None:
        super().__init__()
        self.node = f"{node}@localhost"
        self._beside = beside
        self._mapper_port: int = beside._mapper_port if beside else free_port()
        self._cluster_port = free_port()

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2F"

    @property
    def data(self) -> Path:
        """Where its queues lie."""
        return self.folder / "data"

    def ctl(self, *arguments: str) -> str:
        """What `rabbitmqctl` prints.

        Raises:
            ServiceFailed: it exits with an error.
        """
        command = [_program("rabbitmqctl"), "--quiet", *arguments]
        done = subprocess.run(
            command, env=self._environment(), cwd=self.folder, capture_output=True, text=True, timeout=60
        )
        if done.returncode:
            raise ServiceFailed(f"rabbitmqctl {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def _launch(self) -> None:
        server, mapper = _program(self.name), _program("epmd")
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            (self.folder / "plugins").write_text("[].\n")
            cookie.touch(mode=0o600)
            cookie.write_text(COOKIE)
        if self._beside is None and "epmd" not in self._running:
            self._spawn("epmd", [mapper, "-port", str(self._mapper_port), "-address", "127.0.0.1"])
        self._spawn(self.name, [server], self._environment())

    def _answers(self) -> bool:
        greeting = ask(self.port, b"AMQP\x00\x00\x09\x01")
        return greeting.startswith(b"\x01\x00\x00")

    def _environment(self) -> dict[str, str]:
        """All by variables: a configuration file costs a second at each start, to parse its schema."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("RABBITMQ_")}
        peers = f" -rabbit cluster_nodes {{['{self._beside.node}'],disc}}" if self._beside else ""
        return inherited | {
            "HOME": str(self.folder),  # where the cookie is
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the virtual machine: a kill hits it
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._cluster_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false "
                f"-rabbit max_message_size {MAX_MESSAGE_BYTES}{peers}"
            ),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "none"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "none"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.data),
            "RABBITMQ_LOG_BASE": str(self.folder / "logs"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_LOG": "warning",
        }


class RedisServer(Service):
    """A Redis server that keeps nothing on disk: after `kill` and `start` it is empty."""

    name = "redis-server"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _launch(self) -> None:
        options = {"--port": str(self.port), "--bind": "127.0.0.1", "--save": "", "--appendonly": "no"}
        self._spawn(self.name, [_program(self.name), *(word for pair in options.items() for word in pair)])

    def _answers(self) -> bool:
        return ask(self.port, b"PING\r\n").startswith(b"+PONG")


def ask(port: int, question: bytes) -> bytes:
    """The first bytes that a server on this machine answers."""
    with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
        connection.sendall(question)
        return connection.recv(4096)


def free_port() -> int:
    """A port that nothing listens on now."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServiceFailed(f"found no free port from {PORTS.start} to {PORTS.stop}")


def wait_for(condition: Callable[[], T], timeout_s: float = 10, what: str = "the condition") -> T:
    """Asks again and again until the condition holds; returns what it gave.

    Raises:
        TimeoutError: it did not hold in time.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        time.sleep(POLL_S)
    return found


def missing() -> list[str]:
    """The packages whose programs are not there."""
    return [package for program, package in PACKAGES.items() if _find(program) is None]


def install() -> None:
    """Installs what is missing, when this is root on a Debian.

    Raises:
        ServiceMissing: it is not, or the installation failed.
    """
    packages = missing()
    if not packages:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ServiceMissing(ADVICE)
    _apt_get("update")
    _apt_get("install", "--yes", "--no-install-recommends", *packages)


def _apt_get(*arguments: str) -> None:
    command = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120", *arguments]
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ServiceMissing(f"apt-get {arguments[0]} failed: {done.stderr.strip()}\n{ADVICE}")


def _program(name: str) -> str:
    path = _find(name)
    if path is None:
        raise ServiceMissing(ADVICE)
    return path


def _find(program: str) -> str | None:
    return shutil.which(program, path=RABBITMQ_SCRIPTS) or shutil.which(program)


def _guard(folder: Path) -> subprocess.Popen[bytes]:
    """A process that sees its input end when this process does, however that goes."""
    return subprocess.Popen(
        ["sh", "-c", GUARD, "guard", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="The services that the tests start.")
    parser.add_argument("--install", action="store_true", required=True, help="install what is missing")
    parser.parse_args()
    try:
        install()
    except ServiceMissing as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
