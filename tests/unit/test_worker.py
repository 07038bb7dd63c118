"""What a worker does with an assignment that comes again, and with a model that comes slowly."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from shared import codec
from shared.broker.port import FIRST, Delivery, Part, Publication, Sink
from shared.messages import Assignment, RoundTask, Update
from shared.topology import Topology
from shared.weights import Weights
from worker.answers import KEPT, KEPT_BYTES, Answer, Answers
from worker.service import Worker
from worker.tasks import TaskNotFound, Tasks

LARGE = codec.SINGLE_PART_BYTES // 4 + 1
WAIT_S = 10.0


class Desk:
    """A broker that a test plays: what is published and acked lies here, and `sink` takes deliveries."""

    def __init__(self) -> None:
        self.updates: queue.SimpleQueue[Publication] = queue.SimpleQueue()
        self.acks: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self.ready = threading.Event()
        self.sink: Sink = lambda _: None

    def publish(
        self, publications: Sequence[Publication], *, then_ack: Delivery | None = None, locate: bool = False
    ) -> int:
        for publication in publications:
            if publication.part.kind == Update.KIND and publication.part.part == 0:
                self.updates.put(publication)
        if then_ack is not None:
            then_ack.ack()
        return -1

    def consume(self, queue: str, sink: Sink, *, prefetch: int = 1) -> Desk:
        self.sink = sink
        self.ready.set()
        return self

    def follow(self, log: str, start: int, sink: Sink, *, prefetch: int = 8) -> Desk:
        self.sink = sink
        self.ready.set()
        return self

    def close(self) -> None:
        """Nothing is left open."""


class Counting:
    """Makes weights of `size` float32, and counts how often."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.made = 0

    def initial_weights(self, seed):
        self.made += 1
        return {"weight": np.zeros(self.size, np.float32)}


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def worker_of(desk) -> Iterator:
    """`worker_of(trainer)` starts a worker of site "a"."""
    running = []

    def start(trainer):
        worker = Worker("f", "a", desk, trainer, {"0": None})
        thread = threading.Thread(target=worker.run)
        thread.start()
        running.append((worker, thread))
        assert desk.ready.wait(WAIT_S)

    yield start
    for worker, thread in running:
        worker.stop()
        thread.join()


def assignment(work="initialise", **more):
    fields = {
        "federation": "f", "run": "r", "epoch": 0, "id": "i", "work": work, "client": "a/0", "round": 0,
        "version": -1, "digest": "", "turn": 0, "seed": 1, "evaluate": False, "training": {},
        "task_message": "", "task_parts": 0, "task_bytes": 0, "task_offset": 0,
    }  # fmt: skip
    return Assignment(**{**fields, **more})


def deliver(desk, redelivered=0, name="i"):
    """Hands an order out; returns when it is acked."""
    part = Part.single(Assignment.KIND, codec.encode(assignment(id=name).to_header()))
    delivery = Delivery(part, lambda: desk.acks.put(delivery), redelivered=redelivered)
    desk.sink(delivery)
    assert desk.acks.get(timeout=WAIT_S) is delivery


def test_confirmed_large_answer_isn_t_sent_again_when_only_its_ack_was_lost(desk, worker_of):
    trainer = Counting(LARGE)
    worker_of(trainer)
    for name in ("i", "j", "k"):
        deliver(desk, name=name)
    deliver(desk, redelivered=1)
    assert (trainer.made, desk.updates.qsize()) == (3, 3)


@pytest.mark.parametrize(("size", "redelivered"), [(LARGE, 0), (1, 0), (1, 1)])
def test_order_that_is_issued_again_is_answered_again_from_memory(desk, worker_of, size, redelivered):
    trainer = Counting(size)
    worker_of(trainer)
    deliver(desk)
    deliver(desk, redelivered)
    assert (trainer.made, desk.updates.qsize()) == (1, 2)


def test_order_that_is_issued_again_is_carried_out_again_when_its_answer_is_no_longer_held(desk, worker_of):
    trainer = Counting(KEPT_BYTES // 4 + 1)
    worker_of(trainer)
    for _ in range(2):
        deliver(desk)
    deliver(desk, redelivered=1)
    assert (trainer.made, desk.updates.qsize()) == (2, 2)


class Trickle(Desk):
    """A log that gives a part whenever the one before is acked and `pause_s` is over."""

    def __init__(self, parts: Sequence[Part], pause_s: float) -> None:
        super().__init__()
        self._parts = list(parts)
        self._pause_s = pause_s

    def follow(self, log: str, start: int, sink: Sink, *, prefetch: int = 8) -> Desk:
        super().follow(log, start, sink)
        self._next()
        return self

    def _next(self) -> None:
        if self._parts:
            delivery = Delivery(self._parts.pop(0), self._next)
            threading.Timer(self._pause_s, self.sink, (delivery,)).start()


def test_model_may_come_slowly_but_not_stop_coming():
    weights = Weights.from_arrays({"weight": np.arange(LARGE, dtype=np.float32)})
    header = RoundTask("f", "r", 0, 3, weights.digest, weights.layout.to_wire()).to_header()
    parts = codec.split(RoundTask.KIND, header, weights.payload, part_bytes=8 * 1024)
    order = assignment(
        "train", version=3, digest=weights.digest, task_message=parts[0].message_id, task_parts=len(parts),
        task_bytes=parts[0].nbytes,
    )  # fmt: skip
    assert len(parts) >= 9
    slowly = Tasks(Trickle(parts, pause_s=0.05), Topology("f"), patience_s=0.3)
    assert slowly.weights(order).digest == weights.digest
    with pytest.raises(TaskNotFound):
        Tasks(Trickle(parts[:-1], pause_s=0.0), Topology("f"), patience_s=0.1).weights(order)


def test_what_was_answered_is_remembered_longer_than_its_payload():
    answers = Answers(kept_bytes=250)
    orders = [assignment(id=f"i{number}") for number in range(KEPT + 2)]
    for number, order in enumerate(orders):
        answers.add(Answer(update_for(order), bytes(100 if number < 4 else 0)))
        answers.add(Answer(update_for(order), bytes(100 if number < 4 else 0)))
        if number == 3:
            assert [answers.get(each) is not None for each in orders[:4]] == [False, False, True, True]
    assert [each in answers for each in orders[:3]] == [False, False, True]
    assert all(each in answers for each in orders[3:])
    assert assignment(id="i5", run="another") not in answers


def update_for(order):
    shared = {"federation", "run", "id", "work", "client", "round", "version", "digest", "turn"}
    return Update(
        **{name: getattr(order, name) for name in shared}, worker="w", layout=[], layout_digest="", sha256="",
        examples=1, metrics={}, evaluated=0, evaluation={}, seconds=0.0, error="",
    )  # fmt: skip


class Shortened(Desk):
    """A rounds log that lost its end and was given its last task again: only read from its first part on
    it gives anything."""

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__()
        self._parts = parts

    def follow(self, log: str, start: int, sink: Sink, *, prefetch: int = 8) -> Desk:
        for part in self._parts if start == FIRST else ():
            sink(Delivery(part, lambda: None))
        return self


@pytest.mark.parametrize("size", [3, LARGE])
def test_model_that_was_published_again_since_the_log_lost_its_end_is_found(size):
    weights = Weights.from_arrays({"weight": np.arange(size, dtype=np.float32)})
    header = RoundTask("f", "r", 0, 3, weights.digest, weights.layout.to_wire()).to_header()
    lost, again = (
        codec.split(RoundTask.KIND, header, weights.payload, part_bytes=8 * 1024) for _ in range(2)
    )
    order = assignment(
        "train", version=3, digest=weights.digest, task_message=lost[0].message_id, task_parts=len(lost),
        task_bytes=lost[0].nbytes, task_offset=900,
    )  # fmt: skip
    tasks = Tasks(Shortened(again), Topology("f"), patience_s=0.1)
    assert tasks.weights(order).digest == weights.digest
