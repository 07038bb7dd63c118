"""What came to nothing, and what an operator made of it: cases, from the journal and the store. Pure.

A case is an update that was refused, a failure report, or an assignment that died. The journal tells those
of closed rounds; those of the open one stand in the state store until it closes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from coordinator.applying import apply
from coordinator.config import parse
from coordinator.facts import Answer, Entry, State
from coordinator.validation import OVERRULABLE, unfit

Kind = Literal["refused", "failed", "dead"]

#: Reasons of one round, each with its number and some offsets of the results log.
Refusals = Mapping[str, tuple[int, Sequence[int]]]


@dataclass(frozen=True)
class Case:
    """One case. `at` is when the journal told of it, in seconds since 1970; None: the round is still open.

    `offset` is the update's in the results log; None for an assignment, and where only the number of `more`
    like it is known. `out` says why an operator can't let it in, "" if that may be, None if nobody looked.
    What the update's own header says is None or empty until it was `looked_at`.
    """

    kind: Kind
    round: int
    reason: str
    at: float | None = None
    offset: int | None = None
    more: int = 0
    id: str = ""
    client: str = ""
    login: str = ""
    version: int | None = None
    examples: int | None = None
    out: str | None = None


class Quarantine:
    """Takes the journal's entries in order; `state` is what they come to."""

    def __init__(self) -> None:
        self.state: State | None = None
        self.decisions: list[Entry] = []
        self._cases: list[Case] = []

    def take(self, entry: Entry) -> None:
        """Takes the next entry.

        Raises:
            ConfigError: the federation was started with a configuration that this Warren does not know.
        """
        if entry.kind == "federation-started":
            self.state = State(parse(entry.data["config"], "the journal").rules())
        if self.state is None:
            return
        if entry.kind == "failed":
            self._cases.append(_dead(self.state, entry))
        elif entry.kind == "round-closing":
            self._cases += _cases(entry.data["refusals"], entry.data["round"], entry.at)
        elif entry.kind == "readmitted":
            self.decisions.append(entry)
        self.state = apply(self.state, entry)

    def cases(self, open_: Refusals) -> list[Case]:
        """All cases, newest first; `open_` are the refusals of the open round."""
        number = self.state.round if self.state else 0
        return [*self._cases, *_cases(open_, number, None)][::-1]

    def looked_at(self, case: Case, answer: Answer) -> Case:
        """The case with what its header says; the refusal of an `answer` says why that can't be read."""
        return replace(
            case,
            id=answer.id,
            client=answer.client,
            login=answer.sender,
            version=answer.version,
            examples=answer.examples,
            out=self.keeps_out(answer, case.reason),
        )

    def keeps_out(self, answer: Answer, reason: str) -> str:
        """Why an update that was refused for a reason stays out, "" if an operator may let it in.

        As far as the journal tells: an answer in the open round may have the same assignment.
        """
        assert self.state is not None
        if answer.refusal:
            return reason or answer.refusal
        for entry in self.decisions:
            update = entry.data["update"]
            if update["offset"] == answer.offset and not entry.data["refused"]:
                return f"it was let in already, in round {entry.data['round']}"
        why = unfit(self.state, answer)
        return why or ("" if any(words in reason for words in OVERRULABLE) else reason)


def _cases(refusals: Refusals, round_: int, at: float | None) -> Iterator[Case]:
    for text, (count, offsets) in refusals.items():
        ruling, _, reason = text.partition(": ")
        kind: Kind = "failed" if ruling == "failed" else "refused"
        for offset in offsets:
            yield Case(kind, round_, reason, at, offset)
        if count > len(offsets):
            yield Case(kind, round_, reason, at, more=count - len(offsets))


def _dead(state: State, entry: Entry) -> Case:
    data: Mapping[str, Any] = entry.data
    order = state.orders.get(data["id"])
    return Case(
        kind="dead",
        round=order.round if order else state.round,
        reason=data["reason"],
        at=entry.at,
        id=data["id"],
        client=data["client"],
        version=order.version if order else None,
        out="nothing came of it that could count",
    )
