"""The floor that anybody writes first: pika's BlockingConnection as it comes, a confirm for each publish."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pika


class Blocking:
    """One connection. A `Line` of `tests.benchmarks.floor`."""

    def __init__(self, url: str) -> None:
        parameters = pika.URLParameters(url)
        parameters.heartbeat = 0
        self._connection = pika.BlockingConnection(parameters)
        self._publishing = self._connection.channel()
        self._publishing.confirm_delivery()
        self._properties = pika.BasicProperties(delivery_mode=2)
        self._sources: list[tuple[Any, Iterator[Any]]] = []

    def declare(self, queue: str, arguments: Mapping[str, str | int]) -> None:
        self._publishing.queue_declare(queue, durable=True, arguments=dict(arguments))

    def delete(self, queue: str) -> None:
        self._publishing.queue_delete(queue)

    def consume(self, queue: str, prefetch: int, arguments: Mapping[str, str | int]) -> int:
        channel = self._connection.channel()
        channel.basic_qos(prefetch_count=prefetch)
        self._sources.append((channel, channel.consume(queue, arguments=dict(arguments))))
        return len(self._sources) - 1

    def publish(self, messages: Sequence[tuple[str, memoryview]]) -> None:
        for queue, body in messages:
            self._publishing.basic_publish("", queue, bytes(body), self._properties)

    def take(self, source: int) -> tuple[int, memoryview]:
        """The next delivery's tag and body; it is to be acked."""
        method, _, body = next(self._sources[source][1])
        return method.delivery_tag, memoryview(body)

    def ack(self, source: int, tag: int) -> None:
        self._sources[source][0].basic_ack(tag)

    def close(self) -> None:
        self._connection.close()
