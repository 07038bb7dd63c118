"""What a worker has answered, so that an order which comes again is not trained again."""

from __future__ import annotations

from typing import NamedTuple

from shared.messages import Assignment, Update
from shared.weights import Buffer

#: Orders that are remembered. One may come back late: the broker gives a lost worker up after a minute or
#: two, and the same worker has done others by then.
KEPT = 1000
#: What the payloads that are remembered with them may take together.
KEPT_BYTES = 32 << 20

_Key = tuple[str, str]


class Answer(NamedTuple):
    """What came of an assignment: the update, and its payload."""

    update: Update
    payload: Buffer


class Answers:
    """The answers that the broker has confirmed. Not for several threads."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._known: dict[_Key, None] = {}
        self._newest: dict[_Key, Answer] = {}
        self._nbytes = 0

    def add(self, answer: Answer) -> None:
        """Remembers an answer, and for as long as there is room its payload."""
        key = answer.update.run, answer.update.id
        if key in self._newest:
            return
        self._known[key] = None
        self._newest[key] = answer
        self._nbytes += len(answer.payload)
        while self._nbytes > self._kept_bytes or len(self._newest) > KEPT:
            self._nbytes -= len(self._newest.pop(next(iter(self._newest))).payload)
        if len(self._known) > KEPT:
            del self._known[next(iter(self._known))]

    def __contains__(self, assignment: Assignment) -> bool:
        return (assignment.run, assignment.id) in self._known

    def get(self, assignment: Assignment) -> Answer | None:
        """The answer to an assignment, if it is still there whole."""
        return self._newest.get((assignment.run, assignment.id))
