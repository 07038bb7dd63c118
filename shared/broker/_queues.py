"""Exchanges, bindings, queues and what is in them, as AMQP knows them: functions on an open transaction.

Of topic patterns there is `#` and the exact key. A queue's message is ready (no owner), or held by one
owner until that acks it (the row goes) or it comes back (`returns` grows by one: with it, a row's offset
names one handing out). One that came back too often, or wasn't taken in its time, is a dead letter: it
moves to the queues behind `x-dead-letter-exchange`, or is dropped. What falls off the head of a full queue
is dropped.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any

from shared.broker._database import Database
from shared.broker._segments import Place, Segments
from shared.broker.port import Part, Publication
from shared.errors import NotDeclaredError, OtherArgumentsError, RefusedError, UnroutableError
from shared.topology import Exchange, Queue

#: Queue arguments that mean something here, or are harmless to leave out.
_KNOWN = {
    "x-message-ttl", "x-max-length", "x-overflow", "x-delivery-limit", "x-dead-letter-exchange",
}  # fmt: skip
_KNOWN_OF_LOGS = {"x-stream-max-segment-size-bytes", "x-max-length-bytes", "x-max-age"}
_SECONDS = re.compile(r"[0-9]+s")
#: How many expired messages one transaction buries.
_BURIALS = 500

_PLACED = "queue, at, expires_at, key"
_CONTENT = "message_id, kind, part, parts, nbytes, crc32, user_id, size, segment, position, body"
_INSERT = f"INSERT INTO parts ({_PLACED}, {_CONTENT}) VALUES (?,?,?,?, ?,?,?,?,?,?,?,?,?,?,?)"
_MOVE = f"INSERT INTO parts ({_PLACED}, {_CONTENT}) SELECT ?,?,?, key, {_CONTENT} FROM parts WHERE offset = ?"
#: What readers get of a row: its offset, its returns, its content.
_READ = f"offset, returns, {_CONTENT}"
_READY = (
    "queue = (SELECT id FROM queues WHERE name = ? AND kind != 'stream') "
    "AND owner IS NULL AND (expires_at IS NULL OR expires_at > ?)"
)

Connection = sqlite3.Connection
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """A queue that a message goes to."""

    id: int
    name: str
    kind: str
    arguments: Mapping[str, Any]

    def expiry(self, now: float, expires_s: float | None) -> float | None:
        """When a message that arrives now is over, in Unix time."""
        if self.kind == "stream":
            return None
        ttl_ms = self.arguments.get("x-message-ttl")
        limits = [s for s in (expires_s, None if ttl_ms is None else ttl_ms / 1000) if s is not None]
        return now + min(limits) if limits else None


def declare_exchange(db: Connection, exchange: Exchange) -> None:
    """Makes an exchange.

    Raises:
        RefusedError: it is there with another type.
    """
    found = db.execute("SELECT kind FROM exchanges WHERE name = ?", (exchange.name,)).fetchone()
    if found is None:
        db.execute("INSERT INTO exchanges VALUES (?, ?)", (exchange.name, exchange.kind))
    elif found[0] != exchange.kind:
        raise OtherArgumentsError(
            f"exchange {exchange.name} is there as {found[0]}, not {exchange.kind}: "
            "delete it, or take another name"
        )


def declare_queue(db: Connection, queue: Queue) -> None:
    """Makes a queue, and its binding.

    Raises:
        RefusedError: it is there with another kind or arguments, or an argument is not known here.
        NotDeclaredError: the exchange to bind it to is missing.
    """
    unknown = sorted(queue.arguments.keys() - (_KNOWN_OF_LOGS if queue.kind == "stream" else _KNOWN))
    if queue.arguments.get("x-overflow", "drop-head") != "drop-head":
        unknown.append("x-overflow")
    if not _SECONDS.fullmatch(str(queue.arguments.get("x-max-age", "0s"))):
        unknown.append("x-max-age in other units than s")
    if unknown:
        raise RefusedError(f"the embedded broker can't make {queue.name}: it doesn't know {unknown}")
    wanted = queue.kind, json.dumps(dict(queue.arguments), sort_keys=True)
    found = db.execute("SELECT kind, arguments FROM queues WHERE name = ?", (queue.name,)).fetchone()
    if found is None:
        db.execute("INSERT INTO queues (name, kind, arguments) VALUES (?, ?, ?)", (queue.name, *wanted))
    elif found != wanted:
        raise OtherArgumentsError(
            f"queue {queue.name} is there with other arguments ({' '.join(found)}): "
            "delete it, or take another name"
        )
    _check_exchange(db, queue.exchange)
    db.execute(
        "INSERT OR IGNORE INTO bindings SELECT ?, ?, id FROM queues WHERE name = ?",
        (queue.exchange, queue.key, queue.name),
    )


def delete(db: Connection, name: str) -> None:
    """Removes the exchange or queue of that name, its bindings and all it holds."""
    db.execute("DELETE FROM exchanges WHERE name = ?", (name,))
    db.execute("DELETE FROM bindings WHERE exchange = ?", (name,))
    for (queue,) in db.execute("SELECT id FROM queues WHERE name = ?", (name,)).fetchall():
        db.execute("DELETE FROM parts WHERE queue = ?", (queue,))
        db.execute("DELETE FROM chapters WHERE queue = ?", (queue,))
        db.execute("DELETE FROM bindings WHERE queue = ?", (queue,))
        db.execute("DELETE FROM queues WHERE id = ?", (queue,))


def targets(db: Connection, exchange: str, key: str) -> list[Target]:
    """The queues that take what is published there with that key.

    Raises:
        NotDeclaredError: no such exchange.
        UnroutableError: none does.
    """
    kind = _check_exchange(db, exchange)
    rows = db.execute(
        "SELECT DISTINCT q.id, q.name, q.kind, q.arguments FROM bindings b JOIN queues q ON q.id = b.queue "
        "WHERE b.exchange = ? AND (b.key = ? OR ? = 'fanout' OR (? = 'topic' AND b.key = '#'))",
        (exchange, key, kind, kind),
    ).fetchall()
    if not rows:
        raise UnroutableError(f"no queue takes messages of key {key!r} from exchange {exchange}")
    return [Target(id_, name, kind, _parsed(arguments)) for id_, name, kind, arguments in rows]


def insert(
    db: Connection, target: Target, publication: Publication, place: Place | None, login: str, now: float
) -> int:
    """Puts a part at the end of a queue; returns its offset."""
    part = publication.part
    segment, position = place or (None, None)
    values = (
        target.id, now, target.expiry(now, publication.expires_s), publication.key,
        part.message_id, part.kind, part.part, part.parts, part.nbytes, part.crc32, login,
        len(part.body), segment, position, part.body if place is None else None,
    )  # fmt: skip
    offset = db.execute(_INSERT, values).lastrowid
    _drop_surplus(db, target)
    assert offset is not None
    return offset


def log_rows(db: Database, log: str, after: int, limit: int) -> list[Row]:
    """A log's next rows behind an offset."""
    return db.read(
        f"SELECT {_READ} FROM parts WHERE queue = (SELECT id FROM queues WHERE name = ? AND kind = 'stream') "
        "AND offset > ? ORDER BY offset LIMIT ?",
        (log, after, limit),
    )


def is_there(db: Database, offset: int) -> bool:
    """Whether a row was not dropped or deleted meanwhile."""
    return bool(db.read("SELECT 1 FROM parts WHERE offset = ?", (offset,)))


def has_ready(db: Database, queue: str, now: float) -> bool:
    """Whether a claim would find something; needs no lock, as the claim does."""
    return bool(db.read(f"SELECT 1 FROM parts WHERE {_READY} LIMIT 1", (queue, now)))


def claim(db: Connection, queue: str, owner: str, now: float, limit: int) -> list[Row]:
    """Gives the queue's oldest ready messages to an owner; returns their rows, in order."""
    rows = db.execute(
        "UPDATE parts SET owner = ? WHERE offset IN "
        f"(SELECT offset FROM parts WHERE {_READY} ORDER BY offset LIMIT ?) RETURNING {_READ}",
        (owner, queue, now, limit),
    ).fetchall()
    return sorted(rows, key=itemgetter(0))


def part_of(row: Row, segments: Segments, offset: int) -> Part:
    """The part in a row; its body is read from its segment, if it lies there.

    Raises:
        OSError: it can't be.
    """
    message_id, kind, part, parts, nbytes, crc32, user_id, size, segment, position, body = row[2:]
    if segment is not None:
        body = segments.read(segment, position, size)
    return Part(message_id, kind, part, parts, nbytes, crc32, body, user_id, offset)


def ack(db: Connection, owner: str, offset: int, returns: int) -> None:
    """Removes a message, if it is still in the owner's hands since that handing out."""
    db.execute("DELETE FROM parts WHERE offset = ? AND owner = ? AND returns = ?", (offset, owner, returns))


def give_back(db: Connection, owner: str, held: Iterable[tuple[int, int]], now: float) -> set[str]:
    """Makes messages ready again, given as (offset, returns); returns the queues that changed."""
    changed: set[str] = set()
    for offset, returns in held:
        row = db.execute(
            "SELECT q.name, q.arguments FROM parts p JOIN queues q ON q.id = p.queue "
            "WHERE p.offset = ? AND p.owner = ? AND p.returns = ?",
            (offset, owner, returns),
        ).fetchone()
        if row is None:
            continue
        changed.add(row[0])
        db.execute("UPDATE parts SET owner = NULL, returns = returns + 1 WHERE offset = ?", (offset,))
        limit = _parsed(row[1]).get("x-delivery-limit")
        if limit is not None and returns + 1 > limit:
            changed |= _bury(db, offset, now)
    return changed


def give_back_all(db: Connection, owner: str, now: float) -> set[str]:
    """Makes all ready again that an owner holds; returns the queues that changed."""
    held = db.execute(
        "SELECT offset, returns FROM parts WHERE owner = ? ORDER BY offset", (owner,)
    ).fetchall()
    return give_back(db, owner, held, now)


def bury_expired(db: Connection, now: float) -> set[str]:
    """Buries ready messages whose time is over, some at a time; returns the queues that changed."""
    rows = db.execute(
        "SELECT offset FROM parts WHERE expires_at <= ? AND owner IS NULL LIMIT ?", (now, _BURIALS)
    ).fetchall()
    return {name for (offset,) in rows for name in _bury(db, offset, now)}


def _bury(db: Connection, offset: int, now: float) -> set[str]:
    """Moves a message to where its queue's dead letters go, if anywhere; returns the queues that got it."""
    key, arguments = db.execute(
        "SELECT p.key, q.arguments FROM parts p JOIN queues q ON q.id = p.queue WHERE p.offset = ?", (offset,)
    ).fetchone()
    graves = _graves(db, _parsed(arguments).get("x-dead-letter-exchange"), key)
    for grave in graves:
        db.execute(_MOVE, (grave.id, now, grave.expiry(now, None), offset))
        _drop_surplus(db, grave)
    db.execute("DELETE FROM parts WHERE offset = ?", (offset,))
    return {grave.name for grave in graves}


def _graves(db: Connection, exchange: str | None, key: str) -> list[Target]:
    if exchange is None:
        return []
    try:
        return targets(db, exchange, key)
    except (NotDeclaredError, UnroutableError):
        return []  # as in AMQP: dead letters that nobody wants are dropped


def _drop_surplus(db: Connection, target: Target) -> None:
    limit = target.arguments.get("x-max-length")
    if limit is not None:
        db.execute(
            "DELETE FROM parts WHERE offset IN (SELECT offset FROM parts "
            "WHERE queue = ? AND owner IS NULL ORDER BY offset DESC LIMIT -1 OFFSET ?)",
            (target.id, limit),
        )


def _check_exchange(db: Connection, exchange: str) -> str:
    found = db.execute("SELECT kind FROM exchanges WHERE name = ?", (exchange,)).fetchone()
    if found is None:
        raise NotDeclaredError(f"exchange {exchange} is not declared: start the coordinator first")
    return str(found[0])


@lru_cache(maxsize=1024)
def _parsed(arguments: str) -> Mapping[str, Any]:
    parsed: Mapping[str, Any] = json.loads(arguments)
    return parsed
