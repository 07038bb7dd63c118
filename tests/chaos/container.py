"""RabbitMQ as the image that people run, in a container that is killed and started again with its data."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from pathlib import Path

from tests.services import ServiceFailed, ask, free_port, wait_for

IMAGE = "rabbitmq:4-management"
#: With a login that may come from outside of the container.
CONFIGURATION = Path(__file__).parents[2] / "deploy" / "rabbitmq.conf"
START_TIMEOUT_S = 120.0


class RabbitContainer:
    """The same to its users as `tests.services.RabbitNode`."""

    name = "rabbitmq-server"

    def __init__(self) -> None:
        self.port = free_port()
        self._id = f"warren-chaos-{secrets.token_hex(4)}"
        self._made = False

    @property
    def url(self) -> str:
        return f"amqp://warren:warren@127.0.0.1:{self.port}/%2F"

    def start(self) -> None:
        """Makes the container or starts it again; returns when it answers.

        Raises:
            ServiceFailed: there is no engine or no such image, or it doesn't answer in time.
        """
        if shutil.which("docker") is None:
            raise ServiceFailed("there is no docker here: take another broker")
        if self._made:
            _docker("start", self._id)
        else:
            self._made = True
            # The node's name, and with it the folder of its data, is made of the host's.
            _docker(
                "run", "--detach", "--name", self._id, "--hostname", "warren",
                "--publish", f"127.0.0.1:{self.port}:5672",
                "--volume", f"{self._id}:/var/lib/rabbitmq",
                "--volume", f"{CONFIGURATION}:/etc/rabbitmq/conf.d/20-warren.conf:ro",
                IMAGE,
            )  # fmt: skip
        try:
            wait_for(self._answers, START_TIMEOUT_S, IMAGE)
        except TimeoutError as late:
            raise ServiceFailed(f"{late}: see docker logs {self._id}") from late

    def kill(self) -> None:
        """Ends it with SIGKILL; its data stays."""
        _docker("kill", "-s", "KILL", self._id)

    def stop(self) -> None:
        """Removes the container and its data."""
        if self._made:
            for command in (["rm", "--force"], ["volume", "rm", "--force"]):
                subprocess.run(["docker", *command, self._id], capture_output=True, check=False)
            self._made = False

    def _answers(self) -> bool:
        # Docker's own forwarder takes connections before the broker does, and drops them.
        try:
            return ask(self.port, b"AMQP\x00\x00\x09\x01").startswith(b"\x01\x00\x00")
        except OSError:
            return False


def _docker(*arguments: str) -> None:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServiceFailed(f"docker {arguments[0]}: {done.stderr.strip()}")
