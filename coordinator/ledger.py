"""The ledger: what a federation's journal says of every version, read once and kept in memory.

Only entries that count are in it: what deposed leaders wrote, or rounds that were never closed, is not. The
payloads stay in the logs: `coordinator.recording` reads those, by the rows that stand here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from coordinator import journal
from coordinator.config import Config, parse
from coordinator.facts import Closed, Entry
from coordinator.history import History
from coordinator.journal import Record
from shared.broker.port import FIRST, Broker
from shared.errors import ConfigError, JournalError
from shared.topology import Topology


@dataclass(frozen=True)
class Leader:
    """Who led from when on (seconds since 1970), by its clock; `epoch` is the offset of its entry."""

    token: str
    who: str
    at: float
    epoch: int


@dataclass(frozen=True)
class Round:
    """A closed round, from its `round-closing` and `round-closed` entries; `leader` closed it.

    It made `version` of the one before, whose digest is `parent` ("" before version 0); a skipped round made
    none, so both are those of the version that it left as it was. `rows` are the updates that it counts, by
    client; of version 0, the initialise answer (none if it came from a file). All their parts lie at or
    before the results offset `decided` (-1: not known). `task_from` and `checkpoint_from` are offsets at or
    before the parent's round task and optimiser state, in their logs. `refusals` are the reasons of what
    did not count, as "refused: …" or "failed: …", each with its number and some results offsets. `readmitted`
    says of the rows that an operator let in, by id: at, who, reason. `scores` are the answers
    of those who only evaluated the parent. `line` is that of `history.jsonl`.
    """

    number: int
    version: int
    digest: str
    parent: str
    leader: Leader
    skipped: bool
    opened_at: float
    closed_at: float
    rows: tuple[Closed, ...]
    decided: int
    task_from: int
    checkpoint_from: int
    counts: Mapping[str, int]
    refusals: Mapping[str, tuple[int, tuple[int, ...]]]
    readmitted: Mapping[str, Mapping[str, Any]]
    metrics: Mapping[str, float]
    scores: tuple[Closed, ...]
    line: Mapping[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """What everybody made of the last version: `scores` are the answers, `metrics` their means."""

    version: int
    digest: str
    metrics: Mapping[str, float]
    scores: tuple[Closed, ...]
    rows: tuple[Closed, ...] = ()
    decided: int = -1


@dataclass(frozen=True)
class Ledger:
    """A federation's journal. `config` is what it was started with, `binding` the same as it stands there.

    `config_digest` is what the journal says of `binding` ("" if it says nothing). `rounds` are in order, from
    the one that made version 0 on. `outcome` is how the federation ended, None while it goes on. `lacking`
    is the number of entries that stand behind a gap of the journal, and so don't count.
    """

    topology: Topology
    run: str
    started_at: float
    binding: Mapping[str, Any]
    config_digest: str
    rounds: tuple[Round, ...]
    leaders: tuple[Leader, ...]
    outcome: str | None
    evaluation: Evaluation | None = None
    lacking: int = 0

    @cached_property
    def config(self) -> Config:
        """The configuration, checked; paths in it are those of the machine that it was read on.

        Raises:
            ConfigError: it is not one that this Warren knows.
        """
        return parse(self.binding, f"the configuration in the journal of {self.topology.federation}")

    @cached_property
    def versions(self) -> Mapping[int, Round]:
        """The round that made each version, in order of versions."""
        return {round_.version: round_ for round_ in self.rounds if not round_.skipped}

    @cached_property
    def known_as(self) -> Mapping[str, Sequence[int]]:
        """The versions of each digest: several where a round changed no bit, or the model came back to it."""
        known: dict[str, list[int]] = {}
        for version, round_ in self.versions.items():
            known.setdefault(round_.digest, []).append(version)
        return known

    def unchanged_since(self, version: int) -> int:
        """The version that has the same bits, and all between them: often that version itself."""
        versions = self.versions
        while version - 1 in versions and versions[version - 1].digest == versions[version].digest:
            version -= 1
        return version

    def made(self, version: int | None) -> Round:
        """The round that made a version; None: the last one.

        Raises:
            ConfigError: there is no such version.
        """
        federation = self.topology.federation
        if not self.versions:
            raise ConfigError(f"federation {federation!r} has no version of its model in the log yet")
        first, last = min(self.versions), max(self.versions)
        number = last if version is None else version
        if number not in self.versions:
            raise ConfigError(f"version {number} is not in the log; there are {first} to {last}")
        return self.versions[number]


def read(broker: Broker, topology: Topology) -> Ledger:
    """Reads the federation's journal to its end.

    Raises:
        ConfigError: the federation was never started.
        JournalError: an entry is not what a coordinator writes.
    """
    reader = journal.Reader()
    pages = Pages(topology)
    for record in journal.read(broker, topology, reader):
        pages.take(record)
    return pages.bound(reader.held)


class Pages:
    """A ledger on its way: takes the records that count, in order."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._started: Entry | None = None
        self._closing: Entry | None = None
        self._history = History()
        self._readmitted: dict[str, Mapping[str, Any]] = {}
        self._rounds: list[Round] = []
        self._leaders: list[Leader] = []
        self._outcome: str | None = None
        self._evaluation: Evaluation | None = None

    def take(self, record: Record) -> None:
        """Takes the next record.

        Raises:
            JournalError: the entry lacks what a coordinator writes.
        """
        try:
            self._take(record)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise JournalError(
                f"the journal's entry at offset {record.offset} is not what a coordinator writes "
                f"({type(error).__name__}: {error}): the log was changed; restore the broker's data"
            ) from error

    def _take(self, record: Record) -> None:
        entry = record.entry
        line = self._history.feed(entry)
        if entry.kind == "leader":
            who = str(entry.data.get("who", "unknown"))
            self._leaders.append(Leader(record.token, who, entry.at, record.offset))
        elif entry.kind == "federation-started":
            self._started = entry
        elif entry.kind == "round-closing":
            self._closing = entry
        elif entry.kind == "readmitted":
            if not entry.data["refused"]:
                about = {"at": entry.at, "who": entry.data["who"], "reason": entry.data["reason"]}
                self._readmitted[entry.data["update"]["id"]] = about
        elif entry.kind == "evaluated":
            scores = tuple(Closed(*row[3]) for row in entry.rows)
            data = entry.data
            self._evaluation = Evaluation(data["version"], data["digest"], data["metrics"], scores)
        elif entry.kind == "finished":
            self._outcome = str(entry.data["reason"])
        elif line is not None and self._closing is not None:
            self._rounds.append(_round(self._leaders[-1], self._closing, entry, line, self._readmitted))

    def bound(self, lacking: int = 0) -> Ledger:
        """The ledger of what was taken.

        Raises:
            ConfigError: the federation was never started.
        """
        started = self._started
        if started is None:
            raise ConfigError(
                f"federation {self._topology.federation!r} has nothing in its journal: check the name, "
                f"or run it first"
            )
        return Ledger(
            topology=self._topology,
            run=started.data["run"],
            started_at=started.at,
            binding=started.data["config"],
            config_digest=started.data.get("digest", ""),
            rounds=tuple(self._rounds),
            leaders=tuple(self._leaders),
            outcome=self._outcome,
            evaluation=self._evaluation,
            lacking=lacking,
        )


def _round(
    leader: Leader,
    closing: Entry,
    closed: Entry,
    line: Mapping[str, Any],
    readmitted: Mapping[str, Mapping[str, Any]],
) -> Round:
    hints = closed.data["hints"]
    rows, _, evaluated = closing.rows
    counted = [Closed(*row) for row in rows]
    return Round(
        number=closed.data["round"],
        version=closed.data["version"],
        digest=closed.data["digest"],
        parent=closed.data["parent"],
        leader=leader,
        skipped=closed.data["skipped"],
        opened_at=closing.data["opened_at"],
        closed_at=closed.at,
        rows=tuple(counted),
        decided=closing.data["decided"],
        task_from=max(hints["task"], FIRST),
        checkpoint_from=max(hints["checkpoint"], FIRST),
        counts=closing.data["counts"],
        refusals={reason: (n, tuple(offsets)) for reason, (n, offsets) in closing.data["refusals"].items()},
        readmitted={row.id: readmitted[row.id] for row in counted if row.id in readmitted},
        metrics=closing.data["metrics"],
        scores=tuple(Closed(*row[3]) for row in evaluated),
        line=line,
    )
