"""A federation's logs as they lie at the broker: over a plain pika connection, or out of the folder."""

from __future__ import annotations

import secrets
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pika

from tests.chaos.wire import Part, mark

LOGS = ("events", "results", "rounds", "checkpoints")
#: A log that gives nothing for so long, in seconds, does not hold what was published to it.
SILENCE_S = 60.0
PREFETCH = 32


@dataclass(frozen=True)
class Logs:
    """The parts of the four logs, in order."""

    events: list[Part]
    results: list[Part]
    rounds: list[Part]
    checkpoints: list[Part]


def read(federation: str, broker: str) -> Logs:
    """All logs of a federation; `broker` is an AMQP URL or an embedded broker's folder."""
    one = _in_rabbit if "://" in broker else _in_folder
    return Logs(*(list(one(federation, broker, log)) for log in LOGS))


def _in_rabbit(federation: str, url: str, log: str) -> Iterator[Part]:
    """Reads up to a mark of its own: a stream tells by nothing else where it ends."""
    name = f"warren.{federation}.{log}"
    parameters = pika.URLParameters(url)
    connection = pika.BlockingConnection(parameters)
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_qos(prefetch_count=PREFETCH)
        ours, body = secrets.token_hex(12), mark(federation, secrets.token_hex(12))
        properties = pika.BasicProperties(
            message_id=ours, type="mark", delivery_mode=2, user_id=parameters.credentials.username,
            headers={"part": 0, "parts": 1, "bytes": len(body), "crc32": zlib.crc32(body)},
        )  # fmt: skip
        channel.basic_publish(name, "mark", body, properties, mandatory=True)
        deliveries = channel.consume(
            f"{name}.log", arguments={"x-stream-offset": "first"}, inactivity_timeout=SILENCE_S
        )
        for method, about, content in deliveries:
            if method is None:
                raise RuntimeError(f"{name}.log gave nothing for {SILENCE_S:g} s before its end")
            if about.message_id == ours:
                return
            yield _part(about, content)
            channel.basic_ack(method.delivery_tag)
    finally:
        # A stream answers the nacks of an early end with a closed connection.
        with suppress(pika.exceptions.AMQPError):
            connection.close()


def _part(about: pika.BasicProperties, body: bytes) -> Part:
    headers = about.headers
    return Part(
        headers["x-stream-offset"], about.message_id, about.user_id or "", about.type,
        headers["part"], headers["parts"], headers["bytes"], headers["crc32"], body,
    )  # fmt: skip


def _in_folder(federation: str, folder: str, log: str) -> Iterator[Part]:
    """Small bodies are in the database, large ones in the files beside it."""
    database = sqlite3.connect(Path(folder) / "broker.db")
    try:
        rows = database.execute(
            "SELECT offset, message_id, user_id, parts.kind, part, parts, nbytes, crc32, size, segment, "
            "position, body FROM parts JOIN queues ON queues.id = parts.queue WHERE name = ? ORDER BY offset",
            (f"warren.{federation}.{log}.log",),
        ).fetchall()
    finally:
        database.close()
    for *about, size, segment, position, body in rows:
        yield Part(*about, body if segment is None else _stored(Path(folder), segment, position, size))


def _stored(folder: Path, segment: str, position: int, size: int) -> bytes:
    with (folder / "segments" / segment).open("rb") as file:
        file.seek(position)
        return file.read(size)
