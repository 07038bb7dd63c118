"""The worker: takes an assignment, trains, publishes the update, and only then acks.

Stateless: whatever it was doing when it died, the broker hands to a replica. The broker's I/O runs on the
adapter's thread, assignments are worked on on another, and the caller's says that the worker is there: so
neither heartbeats nor presence wait for a training.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
from collections.abc import Mapping
from typing import Any

from shared import codec
from shared.broker.port import Broker, Delivery, Part, Publication
from shared.errors import BrokerError, MessageError, NotDeclaredError, UnroutableError
from shared.messages import MAX_REASON_CHARS, Assignment, Presence, Update
from shared.partitions import compact
from shared.runtime import THREADS, Inbox, Runtime
from shared.topology import Topology
from shared.weights import Weights, subtract
from worker.answers import Answer, Answers
from worker.tasks import Tasks
from worker.training import Trainer, Training

log = logging.getLogger(__name__)

#: How often a worker says that it is there, in seconds.
PRESENCE_S = 5.0
#: How often it looks for a federation that is not declared yet.
RETRY_S = 0.2
#: How long it keeps an assignment whose answer the broker doesn't take, before a replica may try, in seconds.
UNROUTABLE_S = 5.0
#: An answer that the broker has confirmed already, and asks for again since only the ack was lost, is sent
#: again up to this size: RabbitMQ 3.10 may lose what it confirmed. A bad line shall not carry more again.
RESENT_BYTES = codec.SINGLE_PART_BYTES
#: How long a stopping worker waits for the training in hand before it gives the assignment back.
GRACE_S = 20.0


class Worker:
    """One process of a site. `run` returns when `stop` is called, from any thread or signal handler.

    `name`: how it is known among its site's workers; by default by its machine and process.
    """

    def __init__(
        self,
        federation: str,
        site: str,
        broker: Broker,
        trainer: Trainer,
        partitions: Mapping[str, Any],
        *,
        grace_s: float = GRACE_S,
        presence_s: float = PRESENCE_S,
        runtime: Runtime = THREADS,
        name: str = "",
    ) -> None:
        self._topology = Topology(federation)
        self._site = site
        self._broker = broker
        self._trainer = trainer
        self._partitions = partitions
        self._announced = compact(partitions)
        self._grace_s = grace_s
        self._presence_s = presence_s
        self._runtime = runtime
        self._name = name or f"{socket.gethostname()}-{os.getpid()}"
        self._tasks = Tasks(broker, self._topology, runtime=runtime)
        self._inbox: Inbox[Delivery | None] = runtime.inbox()
        self._stopping = runtime.flag()
        self._in_hand: Delivery | None = None
        self._answers = Answers()
        self._answered = 0
        self._present_at = 0.0

    def run(self) -> None:
        """Works until told to stop."""
        if not self._announce():
            return
        queue_name = self._topology.assignments_of(self._site)
        subscription = self._broker.consume(queue_name, self._inbox.put, prefetch=1)
        log.info("site %s, worker %s: ready with %d client(s)", self._site, self._name, len(self._partitions))
        work = Training(self._work, self._runtime)
        while not self._stopping.wait(self._stay_present()):
            pass
        if work.wait(self._grace_s):
            work.result()
        else:
            self._give_back()
        subscription.close()
        self._tasks.close()
        log.info("site %s, worker %s: stopped after %d answers", self._site, self._name, self._answered)

    def stop(self) -> None:
        """Takes no more work; the training in hand has its grace time."""
        self._stopping.set()
        self._inbox.put(None)

    # --- being there

    def _announce(self) -> bool:
        """Waits until the federation is declared at the broker; returns False if stopped before."""
        said = False
        while not self._stopping.is_set():
            try:
                self._publish_presence("waiting")
                return True
            except (NotDeclaredError, UnroutableError):
                if not said:
                    log.info(
                        "waiting for federation %r: no coordinator has declared it at the broker yet "
                        "(or check its name, and the broker's)",
                        self._topology.federation,
                    )
                said = True
                self._stopping.wait(RETRY_S)
        return False

    def _publish_presence(self, doing: str) -> None:
        presence = Presence(
            self._topology.federation, self._site, self._name, self._announced, doing, self._answered
        )
        part = Part.single(Presence.KIND, codec.encode(presence.to_header()))
        self._broker.publish([Publication(self._topology.presence, self._site, part)])
        self._present_at = self._runtime.monotonic()

    def _stay_present(self) -> float:
        """Says that it is there, if it is time; returns the seconds to the next time."""
        due = self._present_at + self._presence_s - self._runtime.monotonic()
        if due > 0:
            return due
        try:
            self._publish_presence("training" if self._in_hand else "waiting")
        except BrokerError as error:
            # The federation may be being made anew; the next presence will tell.
            log.debug("presence not published: %s", error)
            self._present_at = self._runtime.monotonic()
        return self._presence_s

    # --- one assignment after another

    def _work(self) -> None:
        """Serves assignments until told to stop. If it ends by an error, the worker ends."""
        try:
            while not self._stopping.is_set():
                self._in_hand = self._inbox.get()
                if self._in_hand is not None:
                    self._serve(self._in_hand)
                    self._in_hand = None
        finally:
            self._stopping.set()

    def _give_back(self) -> None:
        """The training in hand took longer than the grace time; its thread ends with the process."""
        delivery = self._in_hand
        if delivery is not None:
            log.info("gave an assignment back: stopping")
            delivery.give_back()

    def _serve(self, delivery: Delivery) -> None:
        try:
            codec.check_part(delivery.part)
            assignment = Assignment.from_header(codec.decode(delivery.part.body)[0])
        except MessageError as error:
            log.warning("dropped a message that is no assignment: %s", error)
            delivery.ack()
            return
        answer = self._answers.get(assignment)
        large = answer is None or len(answer.payload) > RESENT_BYTES
        if delivery.redelivered and large and assignment in self._answers:
            delivery.ack()
            return
        # One that was issued again is asked for since the results log has lost its answer.
        self._answer(answer or self._done(assignment, self._runtime.monotonic()), delivery)

    def _answer(self, answer: Answer, delivery: Delivery) -> None:
        parts = codec.split(Update.KIND, answer.update.to_header(), answer.payload)
        publications = [Publication(self._topology.results, self._site, part) for part in parts]
        try:
            self._broker.publish(publications, then_ack=delivery)
        except (NotDeclaredError, UnroutableError) as error:
            log.warning("the answer of %s has nowhere to go: %s", answer.update.client, error)
            # Not at once: handed out ten times, the assignment would be a dead letter.
            self._stopping.wait(UNROUTABLE_S)
            delivery.give_back()
            return
        self._answered += 1
        self._answers.add(answer)

    def _done(self, assignment: Assignment, began: float) -> Answer:
        try:
            return self._carry_out(assignment, began)
        except Exception as error:  # a site's own code may raise anything
            log.warning("%s: %s failed", assignment.client, assignment.work, exc_info=True)
            return self._report(assignment, began, error=describe(error))

    def _carry_out(self, assignment: Assignment, began: float) -> Answer:
        data = self._data(assignment)
        if assignment.work == "initialise":
            initial = Weights.from_arrays(self._trainer.initial_weights(assignment.seed))
            return self._report(assignment, began, initial, layout=initial.layout.to_wire())
        base = self._tasks.weights(assignment)
        about: dict[str, Any] = {}
        if assignment.evaluate or assignment.work == "evaluate":
            evaluated, evaluation = self._trainer.evaluate(base.arrays, data)
            about = {"evaluated": int(evaluated), "evaluation": numbers(evaluation)}
        if assignment.work == "evaluate":
            return self._report(assignment, began, **about)
        local, examples, metrics = self._trainer.fit(
            base.arrays, data, dict(assignment.training), assignment.seed
        )
        delta = subtract(local, base)
        return self._report(
            assignment, began, delta, examples=int(examples), metrics=numbers(metrics), **about
        )

    def _data(self, assignment: Assignment) -> Any:
        partition = assignment.client.partition("/")[2]
        if partition not in self._partitions:
            raise KeyError(f"this site's data has no partition {partition!r} (any more)")
        return self._partitions[partition]

    def _report(
        self, assignment: Assignment, began: float, weights: Weights | None = None, **more: Any
    ) -> Answer:
        payload = weights.payload if weights is not None else b""
        fields: dict[str, Any] = {
            "layout": [],
            "layout_digest": weights.layout.digest if weights is not None else "",
            "examples": 0,
            "metrics": {},
            "evaluated": 0,
            "evaluation": {},
            "error": "",
            **more,
        }
        update = Update(
            federation=assignment.federation,
            run=assignment.run,
            id=assignment.id,
            work=assignment.work,
            client=assignment.client,
            worker=self._name,
            round=assignment.round,
            version=assignment.version,
            digest=assignment.digest,
            turn=assignment.turn,
            sha256=hashlib.sha256(payload).hexdigest(),
            seconds=self._runtime.monotonic() - began,
            **fields,
        )
        return Answer(update, payload)


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """A trainer's metrics as plain floats (they may be numpy's)."""
    return {str(name): float(value) for name, value in metrics.items()}


def describe(error: BaseException) -> str:
    """An exception in one line, for a failure report."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:MAX_REASON_CHARS]
