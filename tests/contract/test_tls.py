"""The RabbitMQ adapter over TLS, as sites use it: what comes out is what went in."""

from __future__ import annotations

import asyncio
import random
import ssl
import threading
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from queue import Queue
from typing import Any
from urllib.parse import urlencode

import pytest

from shared.broker import rabbit
from shared.broker.port import FIRST, Part, Publication
from shared.errors import RefusedError
from shared.topology import Topology

#: Of nobody: for the name localhost, signed by itself, made for this test.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBQTCB6KADAgECAgEBMAoGCCqGSM49BAMCMBQxEjAQBgNVBAMMCWxvY2FsaG9z
dDAgFw0yMDAxMDEwMDAwMDBaGA8yMTIwMDEwMTAwMDAwMFowFDESMBAGA1UEAwwJ
bG9jYWxob3N0MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAErw384Z+Tzd8O7X/3
A3HeUlrt2tq4cm19JOdPjGMFosmEmRUG7HTp2lxVzvHW3X+YhkSWXWxz+7w/DITb
7q4QeqMpMCcwFAYDVR0RBA0wC4IJbG9jYWxob3N0MA8GA1UdEwEB/wQFMAMBAf8w
CgYIKoZIzj0EAwIDSAAwRQIhAPndIidjTBXBHEto2Cji5B14eoTusj6NsuQsOGl/
7/YxAiAcJdoKqvCAfGq4R16HThNFNWfWuuWaKnx2sLHsF2069g==
-----END CERTIFICATE-----
"""
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQghBY4CqKsBcPoUxkj
fh/d75p5PHAje0KvOUiUqJ042jehRANCAASvDfzhn5PN3w7tf/cDcd5SWu3a2rhy
bX0k50+MYwWiyYSZFQbsdOnaXFXO8dbdf5iGRJZdbHP7vD8MhNvurhB6
-----END PRIVATE KEY-----
"""
PATIENCE_S = 30


class Terminator:
    """Speaks TLS on a port of its own, and hands what it hears on to `port`, and back; on one thread, since
    OpenSSL doesn't let two use a connection."""

    def __init__(self, port: int, certificate: Path) -> None:
        self._target = port
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context))
        self.port: int = server.sockets[0].getsockname()[1]

    def close(self) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, up: asyncio.StreamReader, down: asyncio.StreamWriter) -> None:
        back, onward = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(_pump(up, onward), _pump(back, down))


async def _pump(source: asyncio.StreamReader, goal: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(1 << 16):
            goal.write(data)
            await goal.drain()
    goal.close()


@pytest.fixture
def certificate(tmp_path):
    file = tmp_path / "localhost.pem"
    file.write_text(CERTIFICATE + KEY)
    return file


@pytest.fixture
def url(rabbit_node, rabbit_url, certificate):
    """The node's URL over TLS, without a word of whom to trust."""
    terminator = Terminator(rabbit_node.port, certificate)
    yield rabbit_url.replace("amqp://", "amqps://").replace(
        f"127.0.0.1:{rabbit_node.port}", f"localhost:{terminator.port}"
    )
    terminator.close()


def trusting(url: str, certificate: Path) -> str:
    return f"{url}{'&' if '?' in url else '?'}{urlencode({'ssl_options': {'cafile': str(certificate)}})}"


def test_what_goes_in_over_tls_comes_out(url, certificate, federation):
    topology = Topology(federation)
    broker = rabbit.connect(trusting(url, certificate), patience_s=PATIENCE_S)
    queues = topology.queues()
    broker.declare(topology.exchanges(), queues)
    rng = random.Random(1)
    bodies = [rng.randbytes(nbytes) for nbytes in (0, 1, 5_000, 6_000_000, 300_000, 7)]
    parts = [Part.single("update", body) for body in bodies]
    came: Queue[Part] = Queue()
    try:
        subscription = broker.follow(
            topology.results_log, FIRST, lambda each: (came.put(each.part), each.ack())
        )
        broker.publish([Publication(topology.results, "x", part) for part in parts])
        assert [bytes(came.get(timeout=PATIENCE_S).body) for _ in parts] == bodies
        subscription.close()
        broker.delete(each.name for each in (*queues, *topology.exchanges()))
    finally:
        broker.close()


def test_a_broker_that_nobody_vouches_for_is_not_talked_to(url):
    with pytest.raises(RefusedError, match=r"certificate .* isn't trusted"):
        rabbit.connect(url, patience_s=0)
