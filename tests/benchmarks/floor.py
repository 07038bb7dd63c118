"""A round's bytes without Warren: what a plain client of RabbitMQ takes to move them, and to hash them.

`python -m tests.benchmarks.floor lead KIND URL NAME CLIENTS WORKERS BYTES` starts the processes of the
clients, and does rounds as it is told, as `tests.benchmarks.lead` does. As there, a round is: the model,
hashed, to a stream; an order for each client to a quorum queue; each order taken, the model read once by each
process and hashed, an answer of the same size hashed and put into a stream, the order acked; all answers read
and hashed; and two flights of journal entries to a stream. Every publish is confirmed, messages are cut as
Warren cuts them. Nothing is checked, spooled, folded or remembered.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from shared.codec import PART_BYTES, SINGLE_PART_BYTES
from shared.topology import SEGMENT_BYTES

#: Bytes as Warren has them: an update beside its payload (a round task says less), an assignment, and a
#: round's journal entries in two flights, the second number for each client.
HEADER_BYTES = 512
ORDER_BYTES = 384
JOURNAL = ((384, 140), (832, 6))
PREFETCH = 8
STREAM: dict[str, str | int] = {"x-queue-type": "stream", "x-stream-max-segment-size-bytes": SEGMENT_BYTES}
QUORUM: dict[str, str | int] = {"x-queue-type": "quorum"}
FROM_FIRST: dict[str, str | int] = {"x-stream-offset": "first"}


class Line(Protocol):
    """A connection, for one thread. `publish` returns when all is confirmed."""

    def declare(self, queue: str, arguments: Mapping[str, str | int]) -> None: ...
    def delete(self, queue: str) -> None: ...
    def consume(self, queue: str, prefetch: int, arguments: Mapping[str, str | int]) -> int: ...
    def publish(self, messages: Sequence[tuple[str, memoryview]]) -> None: ...
    def take(self, source: int) -> tuple[int, memoryview]: ...
    def ack(self, source: int, tag: int) -> None: ...
    def close(self) -> None: ...


def dial(kind: str, url: str) -> Line:
    """A line of that kind; the other kind's imports cost it nothing."""
    if kind == "pika":
        from tests.benchmarks.blocking import Blocking

        return Blocking(url)
    from tests.benchmarks.amqp import Socket

    return Socket(url)


def cut(payload: memoryview) -> list[memoryview]:
    """The payload in messages as Warren cuts it: one with the header, or the header and pieces."""
    header = memoryview(bytes(HEADER_BYTES))
    if HEADER_BYTES + len(payload) <= SINGLE_PART_BYTES:
        return [memoryview(bytes(header) + bytes(payload))]
    return [header, *(payload[at : at + PART_BYTES] for at in range(0, len(payload), PART_BYTES))]


def hashed(line: Line, source: int, messages: int) -> list[memoryview]:
    """The next messages of a source, each hashed and acked."""
    bodies = []
    for _ in range(messages):
        tag, body = line.take(source)
        hashlib.sha256(body).hexdigest()
        line.ack(source, tag)
        bodies.append(body)
    return bodies


def stream_bytes(nbytes: int) -> int:
    """What a stream keeps: about two rounds."""
    return 2 * nbytes + 2 * SEGMENT_BYTES


class Names:
    """The queues of a floor."""

    def __init__(self, name: str, workers: int) -> None:
        self.rounds, self.results, self.events = f"{name}.rounds", f"{name}.results", f"{name}.events"
        self.orders = [f"{name}.orders.{number}" for number in range(workers)]

    def arguments(self, nbytes: int) -> dict[str, Mapping[str, str | int]]:
        """What each is declared with, for rounds of `nbytes`."""
        stream = {**STREAM, "x-max-length-bytes": stream_bytes(nbytes)}
        logs = dict.fromkeys((self.rounds, self.results, self.events), stream)
        return {**logs, **dict.fromkeys(self.orders, QUORUM)}


def lead(kind: str, url: str, name: str, clients: int, workers: int, nbytes: int) -> None:
    """The coordinator of a floor, to the end of its input."""
    names = Names(name, workers)
    line = dial(kind, url)
    arguments = names.arguments(clients * nbytes)
    for queue, given in arguments.items():
        line.declare(queue, given)
    results = line.consume(names.results, PREFETCH, FROM_FIRST)
    command = [sys.executable, "-m", "tests.benchmarks.floor", "serve", kind, url, name]
    servants = [
        subprocess.Popen([*command, *map(str, (number, workers, nbytes))], stdin=subprocess.PIPE)
        for number in range(workers)
    ]
    model = memoryview(bytes(nbytes))
    print(json.dumps({"ready": True}), flush=True)
    number = 0
    for text in sys.stdin:
        for _ in range(int(text)):
            began = time.monotonic()
            number += 1
            one_round(line, names, number, model, clients, results)
            print(json.dumps({"round": number, "seconds": time.monotonic() - began}), flush=True)
    for servant in servants:
        servant.kill()
        servant.wait()
    for queue in arguments:
        line.delete(queue)
    line.close()


def one_round(line: Line, names: Names, number: int, model: memoryview, clients: int, results: int) -> None:
    """One round of the coordinator's."""
    hashlib.sha256(model).hexdigest()
    task = cut(model)
    order = memoryview(struct.pack("<Q", number).ljust(ORDER_BYTES, b"\0"))
    queues = [names.orders[client % len(names.orders)] for client in range(clients)]
    line.publish([*((names.rounds, part) for part in task), *((queue, order) for queue in queues)])
    for _ in range(clients):
        hashed(line, results, len(task))
    for fixed, each in JOURNAL:
        line.publish([(names.events, memoryview(bytes(fixed + each * clients)))])


def serve(kind: str, url: str, name: str, number: int, workers: int, nbytes: int) -> None:
    """The clients of one process: answers every order that comes, until its input ends."""
    threading.Thread(target=end_with_input, daemon=True).start()
    names = Names(name, workers)
    line = dial(kind, url)
    tasks = line.consume(names.rounds, PREFETCH, FROM_FIRST)
    orders = line.consume(names.orders[number], 1, {})
    parts = len(cut(memoryview(bytes(nbytes))))
    read, task = 0, []
    while True:
        tag, order = line.take(orders)
        while read < struct.unpack_from("<Q", order)[0]:
            task, read = hashed(line, tasks, parts), read + 1
        sha = hashlib.sha256()
        for part in task:
            sha.update(part)
        line.publish([(names.results, part) for part in task])
        line.ack(orders, tag)


def end_with_input() -> None:
    """Ends this process when the one that started it is gone."""
    while os.read(0, 4096):
        pass
    os._exit(0)


def main() -> None:
    role, kind, url, name, *numbers = sys.argv[1:]
    first, second, third = map(int, numbers)
    (lead if role == "lead" else serve)(kind, url, name, first, second, third)


if __name__ == "__main__":
    main()
