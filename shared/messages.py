"""The messages, as frozen dataclasses that check themselves.

Each kind's header is its fields, plus `protocol` and `kind`. What arrives is conformed to the field types
before anything reads it: a missing, surplus or mistyped field is a MessageError that names it.
"""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from shared.errors import MessageError, UnknownVersionError

PROTOCOL = 1
Scalar = bool | int | float | str
Work = Literal["train", "evaluate", "initialise"]

#: A site's words (a failure's reason, a metric's name) are cut to this before they are kept.
MAX_REASON_CHARS = 500
MAX_METRICS = 64


class Message:
    """Base of all kinds: to a header and back."""

    KIND: ClassVar[str]

    def to_header(self) -> dict[str, Any]:
        """The fields as they are, not copied."""
        return {"protocol": PROTOCOL, "kind": self.KIND, **vars(self)}

    @classmethod
    def from_header(cls, header: Mapping[str, Any]) -> Self:
        """The message in a decoded header.

        Raises:
            UnknownVersionError: it speaks another protocol version.
            MessageError: a field is missing, not known, or of another type.
        """
        check_protocol(header)
        if header.get("kind") != cls.KIND:
            raise MessageError(f"expected a message of kind {cls.KIND!r}, got {header.get('kind')!r}")
        given = {key: value for key, value in header.items() if key not in ("protocol", "kind")}
        hints = _hints(cls)  # type: ignore[arg-type]
        if given.keys() != hints.keys():
            odd = sorted(given.keys() ^ hints.keys())
            raise MessageError(f"{cls.KIND}: fields missing or not known: {', '.join(map(repr, odd[:5]))}")
        for name, hint in hints.items():
            # Most are of the very type: only the others need a look at what the hint allows.
            if type(given[name]) is not hint:
                given[name] = _conform(f"{cls.KIND}.{name}", given[name], hint)
        return cls(**given)


@dataclass(frozen=True)
class RoundTask(Message):
    """A version of the global model, and how to train on it. Payload: the weights, as `layout` says."""

    KIND: ClassVar[str] = "round-task"
    federation: str
    run: str
    epoch: int
    version: int
    digest: str
    layout: list[Any]


@dataclass(frozen=True)
class Assignment(Message):
    """The order to one client to do `work` on the round task with `digest`.

    `task_*` say where the round task is: its message id, number of parts and bytes, and an offset of the
    rounds log at or before its first part. `training` is the federation's `[training]` table.
    """

    KIND: ClassVar[str] = "assignment"
    federation: str
    run: str
    epoch: int
    id: str
    work: Work
    client: str
    round: int
    version: int
    digest: str
    turn: int
    seed: int
    evaluate: bool
    training: dict[str, Scalar]
    task_message: str
    task_parts: int
    task_bytes: int
    task_offset: int


@dataclass(frozen=True)
class Update(Message):
    """A client's answer to one assignment. Payload: the delta (or an initialise answer's weights).

    `layout` holds rows for an initialise answer, and is empty otherwise: a delta has its base's layout, and
    `layout_digest` says so. `sha256` is that of the payload. `error` is the reason of a failure, "" if none.
    `metrics` are the training's, `evaluation` those of the base version on the site's own test rows.
    """

    KIND: ClassVar[str] = "update"
    federation: str
    run: str
    id: str
    work: Work
    client: str
    worker: str
    round: int
    version: int
    digest: str
    turn: int
    layout: list[Any]
    layout_digest: str
    sha256: str
    examples: int
    metrics: dict[str, float]
    evaluated: int
    evaluation: dict[str, float]
    seconds: float
    error: str


@dataclass(frozen=True)
class Presence(Message):
    """A worker says that it is there, for which partitions (see `shared.partitions`), and what it does."""

    KIND: ClassVar[str] = "presence"
    federation: str
    site: str
    worker: str
    partitions: list[str]
    doing: str
    answered: int


@dataclass(frozen=True)
class Mark(Message):
    """Published by a reader to learn where a log ends: it reads up to its own mark."""

    KIND: ClassVar[str] = "mark"
    federation: str
    token: str


@dataclass(frozen=True)
class Readmit(Message):
    """An operator's request that a refused update count all the same: the one in the results log at `offset`.

    `message_id` and `sender` (the login that published it) say that it is the one that the operator looked
    at. `who` asks, for that `reason`. The request's own message id names it: it is decided once.
    """

    KIND: ClassVar[str] = "readmit"
    federation: str
    run: str
    offset: int
    message_id: str
    sender: str
    reason: str
    who: str


def order_id(work: str, client: str, round_number: int, digest: str, turn: int) -> str:
    """An assignment's id: the same order has the same id, whoever issues it and however often.

    The round's number is part of it, since a round may leave the model's bits as they were.
    """
    text = json.dumps([work, client, round_number, digest, turn], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def seed_of(federation_seed: int, *what: str) -> int:
    """A 63-bit seed that depends on the federation's seed and on what it is for."""
    text = json.dumps([federation_seed, *what], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def check_protocol(header: Mapping[str, Any]) -> None:
    """Raises UnknownVersionError if the header speaks another protocol version than this Warren."""
    if header.get("protocol") != PROTOCOL:
        version = header.get("protocol")
        raise UnknownVersionError(
            f"protocol version {version!r} is not known here (this is {PROTOCOL}); upgrade"
        )


@cache
def _hints(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


def _conform(where: str, value: Any, hint: Any) -> Any:
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin is Literal:
        if value not in get_args(hint):
            raise MessageError(f"{where} is {value!r}; allowed are {', '.join(map(str, get_args(hint)))}")
        return value
    if origin in (Union, types.UnionType):
        if type(value) not in get_args(hint):
            raise MessageError(f"{where} has a value of type {type(value).__name__}")
        return value
    if origin is list:
        _expect(where, value, list)
        return [_conform(where, item, get_args(hint)[0]) for item in value]
    if origin is dict:
        _expect(where, value, dict)
        if len(value) > MAX_METRICS:
            raise MessageError(f"{where} has {len(value)} entries, at most {MAX_METRICS} are taken")
        return {key: _conform(f"{where}.{key}", item, get_args(hint)[1]) for key, item in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    _expect(where, value, hint)
    return value


def _expect(where: str, value: Any, kind: type) -> None:
    if type(value) is not kind:
        raise MessageError(f"{where} must be {kind.__name__}, not {type(value).__name__}")
