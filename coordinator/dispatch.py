"""Orders on their way out: the version's round task, if the log lacks it, and an assignment each."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from coordinator.config import Config
from coordinator.facts import Order, State
from coordinator.models import GlobalModel, TaskRef
from shared import codec
from shared.broker.port import FIRST, Broker, Part, Publication
from shared.messages import Assignment, seed_of
from shared.topology import Topology


class Dispatch:
    """Publishes for one leader; `epoch` is the offset of its `leader` entry."""

    def __init__(self, config: Config, broker: Broker, topology: Topology, model: GlobalModel) -> None:
        self._config = config
        self._broker = broker
        self._topology = topology
        self._model = model
        self.epoch = 0
        self._given_up: frozenset[str] = frozenset()
        self._looked_at = -inf

    def issue(self, state: State, orders: Sequence[Order]) -> int:
        """Publishes the task and the orders' assignments, in one flight; returns the bytes sent."""
        publications: list[Publication] = []
        task = None
        sent = 0
        if orders and self._may_lack_task(state, orders):
            self._model.look_for_task()
        if state.version >= 0:
            task, publications, sent = self._model.publish(state, self.epoch)
        publications += [self._publication(state, order, task) for order in orders]
        if publications:
            self._broker.publish(publications)
        return sent + sum(len(publication.part.body) for publication in publications)

    def _may_lack_task(self, state: State, orders: Sequence[Order]) -> bool:
        """Whether some who brought nothing may have looked for the task in vain.

        In buffered mode orders are given up at any time: there it may be so once in a deadline.
        """
        if not state.rules.buffered:
            return any(order.turn for order in orders)
        failed = {id_ for id_, how in state.outcome.items() if how == "failed"}
        before, self._given_up = self._given_up, state.superseded | failed
        now = max(order.issued_at for order in orders)
        if self._given_up <= before or now < self._looked_at + state.rules.deadline_s:
            return False
        self._looked_at = now
        return True

    def _publication(self, state: State, order: Order, task: TaskRef | None) -> Publication:
        site = state.clients[order.client]
        part = Part.single(Assignment.KIND, codec.encode(self._assignment(state, order, task).to_header()))
        return Publication(self._topology.assignments, site, part, self._config.assignment_expiry_s())

    def _assignment(self, state: State, order: Order, task: TaskRef | None) -> Assignment:
        seed = self._config.federation.seed
        # Of an older version it isn't known where its task lies, only that it is as large.
        known = task if task and task.digest == order.digest else None
        return Assignment(
            federation=self._config.name,
            run=state.run,
            epoch=self.epoch,
            id=order.id,
            work=order.work,
            client=order.client,
            round=order.round,
            version=order.version,
            digest=order.digest,
            turn=order.turn,
            # Every client must make the same initial weights.
            seed=seed_of(seed, "initialise") if order.work == "initialise" else seed_of(seed, order.id),
            evaluate=self._config.evaluation.each_round and order.work == "train",
            training=self._config.training,
            task_message=known.message_id if known else "",
            task_parts=task.parts if task else 0,
            task_bytes=task.nbytes if task else 0,
            task_offset=known.offset if known else FIRST,
        )
