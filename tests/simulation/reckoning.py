"""A federation reckoned again from its raw logs: which updates count, and what they make.

None of the coordinator's own fold is used, but for the aggregation that it is held to.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from coordinator.aggregation import Contribution, aggregate
from coordinator.config import Config
from coordinator.facts import Closed
from coordinator.optimizers import OptimizerState
from coordinator.optimizers import make as make_optimizer
from coordinator.rules import make as make_rule
from shared.messages import Update, order_id
from shared.weights import Layout, Weights
from tests.simulation.ledger import Line, Message


@dataclass(frozen=True)
class Order:
    """An assignment that the journal knows of, from `at` on."""

    at: float
    work: str
    client: str
    version: int


@dataclass
class Reckoning:
    """The federation as the logs tell it, folded entry by entry; `faults` are contradictions on the way.

    `arrivals` are the offsets at which an update was whole, copies too, each with whether it must have a
    verdict of its own; None: what nobody honest sent gets verdicts too, by the part. `taken` are the
    assignments whose answer was accepted once, counted or not; `doubtful` those that had an answer before
    they counted themselves.
    """

    config: Config
    updates: Sequence[tuple[Message, Update]]
    arrivals: Sequence[tuple[int, bool]] | None = None
    faults: list[str] = field(default_factory=list)
    run: str = ""
    clients: dict[str, str] = field(default_factory=dict)
    orders: dict[str, Order] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    doubtful: set[str] = field(default_factory=set)
    counted: Counter[str] = field(default_factory=Counter)
    round: int = 0
    version: int = -1
    digest: str = ""
    digests: list[str] = field(default_factory=list)
    decided: int = -1
    closing: Line | None = None
    weights: Weights | None = None
    slots: OptimizerState = field(default_factory=dict)
    finished: Line | None = None
    all_answered: bool = True
    cohorts: set[frozenset[str]] = field(default_factory=set)

    # --- entry by entry

    def feed(self, line: Line) -> None:
        if self.finished is not None and line.kind != "leader":
            self.faults.append(f"a {line.kind} entry counts after the end")
        match line.kind:
            case "federation-started":
                self.run = line.data["run"]
            case "registered":
                for site, partitions in line.rows:
                    self.clients |= {f"{site}/{name}": site for name in partitions}
            case "round-opened":
                self._opened(line)
            case "assigned":
                for client, turn, _ in line.rows:
                    self._order(line, line.data["work"], client, turn)
            case "round-closing":
                self._check_closing(line)
            case "round-closed":
                self._closed(line)
            case "finished":
                self.finished = line

    def _opened(self, line: Line) -> None:
        if (line.data["version"], line.data["digest"]) != (self.version, self.digest):
            self.faults.append(f"round {line.data['round']} was opened on another version than the last")
        self.round = line.data["round"]
        for client in line.rows:
            self._order(line, "train", client, 0)
        for client in line.data["evaluators"]:
            self._order(line, "evaluate", client, 0)

    def _order(self, line: Line, work: str, client: str, turn: int) -> None:
        id_ = order_id(work, client, self.round, self.digest, turn)
        self.orders.setdefault(id_, Order(line.at, work, client, self.version))

    # --- which updates count

    def _check_closing(self, line: Line) -> None:
        if self.closing is not None:
            self.faults.append(f"round {line.data['round']} closes while another does")
        self.closing = line
        rows = [Closed(*row) for row in line.rows[0]]
        for row in rows:
            self.counted[row.id] += 1
        self._check_rows(line, rows)

    def _check_rows(self, line: Line, rows: Sequence[Closed]) -> None:
        """A closing counts what was accepted since the last one, and all of it."""
        for row in rows:
            self._check_row(row)
        if self.arrivals is not None:
            self._check_verdicts(line, self.arrivals)
        sure, possible = self._accepted(line)
        chosen = {row.id for row in rows}
        self.taken |= chosen
        if not chosen <= possible:
            self.faults.append(f"round {line.data['round']} counts updates that were not accepted")
        if not (line.data["skipped"] or sure <= chosen):
            self.faults.append(f"round {line.data['round']} leaves out {len(sure - chosen)} accepted updates")
        expected = {order_id("train", c, self.round, self.digest, 0) for c in self.clients}
        if self.version >= 0:
            self.all_answered = self.all_answered and chosen == expected
            self.cohorts.add(frozenset(self.clients))

    def _check_verdicts(self, line: Line, arrivals: Sequence[tuple[int, bool]]) -> None:
        """Each update got one verdict; a copy may have got one too, as a duplicate."""
        window = [first for at, first in arrivals if self.decided < at <= line.data["decided"]]
        if not sum(window) <= sum(line.data["counts"].values()) <= len(window):
            counts = {name: n for name, n in line.data["counts"].items() if n}
            self.faults.append(
                f"round {line.data['round']} gave the verdicts {counts} to {sum(window)} updates, "
                f"which came {len(window)} times"
            )

    def _check_row(self, row: Closed) -> None:
        """A counted update is in the log, and is what the entry says."""
        for message, update in self.updates:
            if (message.sender, message.message_id) == (row.sender, row.message_id):
                found = update.client, update.id, update.version, update.examples, message.first
                if found != (row.client, row.id, row.version, row.examples, row.offset):
                    self.faults.append(f"the update of {row.client} at {row.offset} is another in the log")
                return
        self.faults.append(f"the log holds no update of {row.client} at {row.offset}")

    def _accepted(self, line: Line) -> tuple[set[str], set[str]]:
        """The assignments whose answers this closing must count, and those that it may.

        They differ where an answer came before its assignment counted: one that a leader issued who was
        deposed already. It may have been refused, or found to be fine by the next leader.
        """
        accepted: list[tuple[Update, bool]] = []
        for message, update in self.updates:
            order = self.orders.get(update.id)
            if not self.decided < message.last <= line.data["decided"] or order is None:
                continue
            if update.id in self.taken or not self._is_good(message, update, order):
                continue
            if order.at >= message.at:
                self.doubtful.add(update.id)
            elif update.id not in self.doubtful:
                self.taken.add(update.id)
            accepted.append((update, update.id not in self.doubtful))
        self.decided = line.data["decided"]
        if self.config.federation.mode == "rounds" or self.version < 0:
            return _freshest(accepted) if self.version >= 0 else _first(accepted)
        return {update.id for update, sure in accepted if sure}, {update.id for update, _ in accepted}

    def _is_good(self, message: Message, update: Update, order: Order) -> bool:
        if order.work == "evaluate" or update.error or update.federation != self.config.name:
            return False
        if update.run != self.run or (update.work, update.client) != (order.work, order.client):
            return False
        if update.id != order_id(order.work, order.client, update.round, update.digest, update.turn):
            return False
        if self.config.security.attest and self.clients.get(update.client) != message.sender:
            return False
        if order.work == "initialise":
            return self.version < 0 and _is_whole(message, update)
        fresh = self.version - order.version <= self.config.staleness.max
        return fresh and self._is_sound(message, update)

    def _is_sound(self, message: Message, update: Update) -> bool:
        if self.weights is None or update.layout_digest != self.weights.layout.digest:
            return False
        if not _is_whole(message, update) or len(message.payload) != self.weights.layout.nbytes:
            return False
        w = self.weights.layout.views(message.payload)["w"]
        moderate = bool(np.all(np.abs(w) < 1e19))
        return moderate and 0 < update.examples <= 1 << 40 and update.evaluated <= 1 << 40

    # --- what is made of them

    def _closed(self, line: Line) -> None:
        closing, self.closing = self.closing, None
        if closing is None:
            self.faults.append(f"round {line.data['round']} closed without closing")
            return
        if line.data["parent"] != self.digest:
            self.faults.append(f"version {line.data['version']} has another parent than the version before")
        if not closing.data["skipped"]:
            self._check_version(line, [Closed(*row) for row in closing.rows[0]])
            self.version += 1
        if line.data["version"] != self.version:
            self.faults.append(f"version {line.data['version']} stands where {self.version} is due")
        self.digest = line.data["digest"]
        self.digests.append(self.digest)

    def _check_version(self, line: Line, rows: Sequence[Closed]) -> None:
        self._fold(rows)
        if self.weights is None or self.weights.digest != line.data["digest"]:
            self.faults.append(f"version {line.data['version']} is not what its updates make")

    def _fold(self, rows: Sequence[Closed]) -> None:
        found = {(m.sender, m.message_id): (m, u) for m, u in self.updates}
        optimizer = make_optimizer(self.config.server)
        if self.weights is None:
            message, update = found[rows[0].sender, rows[0].message_id]
            self.weights = Weights(Layout.from_wire(update.layout), message.payload)
            self.slots = optimizer.initial_state(self.weights.layout)
            return
        by_examples = self.config.normalise() == "weights"
        contributions = []
        for row in rows:
            weight = float((1 + self.version - row.version) ** -self.config.staleness.exponent)
            if by_examples:
                weight *= row.examples
            payload = found[row.sender, row.message_id][0].payload
            contributions.append(Contribution(row.client, row.version, weight, payload, row.id))
        self.weights, self.slots = aggregate(
            self.weights,
            contributions,
            normalise=self.config.normalise(),
            rule=make_rule(self.config.aggregation),
            optimizer=optimizer,
            state=self.slots,
        )


class Remains(Reckoning):
    """What can be reckoned where the logs have lost their ends: updates that counted may be gone."""

    def _check_rows(self, line: Line, rows: Sequence[Closed]) -> None: ...

    def _check_version(self, line: Line, rows: Sequence[Closed]) -> None: ...


def _is_whole(message: Message, update: Update) -> bool:
    return hashlib.sha256(message.payload).hexdigest() == update.sha256


def _first(accepted: Sequence[tuple[Update, bool]]) -> tuple[set[str], set[str]]:
    """Of the answers with initial weights the first counts."""
    sure = [update.id for update, is_sure in accepted if is_sure]
    return set(sure[:1]), {update.id for update, _ in accepted}


def _freshest(accepted: Sequence[tuple[Update, bool]]) -> tuple[set[str], set[str]]:
    """Of each client's answers the one on the newest version counts, of those the first."""
    best: dict[str, Update] = {}
    for update, is_sure in accepted:
        if is_sure and (update.client not in best or update.version > best[update.client].version):
            best[update.client] = update
    unsure = {update.client for update, is_sure in accepted if not is_sure}
    must = {update.id for update in best.values() if update.client not in unsure}
    may = {update.id for update, _ in accepted if update.client in unsure}
    return must, must | may
