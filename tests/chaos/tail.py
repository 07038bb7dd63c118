"""The journal as it grows: tells within milliseconds which kinds of entries come."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pika

RETRY_S = 0.1
#: How often a folder is looked at, in seconds.
POLL_S = 0.002


class Tail:
    """Follows a journal in a thread, for as long as the `with` lasts. What comes in outages may be missed.

    `seen` counts entries by their kind; `news` is set whenever there is another.
    """

    def __init__(self, federation: str, broker: str) -> None:
        self.seen: Counter[str] = Counter()
        self.news = threading.Event()
        self._stop = threading.Event()
        self._log = f"warren.{federation}.events.log"
        self._broker = broker
        self._thread = threading.Thread(target=self._run, name="tail")

    def __enter__(self) -> Tail:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        follow = self._in_rabbit if "://" in self._broker else self._in_folder
        while not self._stop.wait(RETRY_S):
            try:
                for kind in follow():
                    self.seen[kind] += 1
                    self.news.set()
            except (pika.exceptions.AMQPError, OSError, sqlite3.Error):
                # The broker is down, or has no such log yet.
                continue

    def _in_rabbit(self) -> Iterator[str]:
        connection = pika.BlockingConnection(pika.URLParameters(self._broker))
        try:
            channel = connection.channel()
            channel.basic_qos(prefetch_count=100)
            deliveries = channel.consume(
                self._log, arguments={"x-stream-offset": "next"}, inactivity_timeout=RETRY_S
            )
            for method, _, _ in deliveries:
                if self._stop.is_set():
                    return
                if method is not None:
                    yield method.routing_key
                    channel.basic_ack(method.delivery_tag)
        finally:
            with suppress(pika.exceptions.AMQPError):
                connection.close()

    def _in_folder(self) -> Iterator[str]:
        path = Path(self._broker) / "broker.db"
        with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True)) as database:
            after = 0
            while not self._stop.wait(POLL_S):
                rows = database.execute(
                    "SELECT offset, key FROM parts JOIN queues ON queues.id = parts.queue "
                    "WHERE name = ? AND offset > ? ORDER BY offset",
                    (self._log, after),
                ).fetchall()
                yield from (kind for _, kind in rows)
                after = rows[-1][0] if rows else after
