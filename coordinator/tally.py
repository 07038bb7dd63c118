"""What is counted of a round's verdicts, and the reasons that are kept. Pure."""

from __future__ import annotations

from dataclasses import replace

from coordinator.facts import Answer, State
from coordinator.moves import Dropped
from coordinator.validation import Verdict

#: Offsets kept of the updates that were refused for one reason in one round; the rest is only counted.
MAX_REFUSED_OFFSETS = 20
#: Different reasons kept in one round: sites word them, and must not be able to fill the journal.
MAX_REASONS = 50


def counted(state: State, answer: Answer, verdict: Verdict) -> State:
    """The state with an answer's verdict counted."""
    only_evaluated = verdict.ruling == "accepted" and answer.work == "evaluate"
    counts = _one_more(state, "evaluated" if only_evaluated else verdict.ruling)
    if verdict.ruling not in ("refused", "failed"):
        return replace(state, counts=counts)
    reason = f"{verdict.ruling}: {verdict.reason}"
    if reason not in state.refusals and len(state.refusals) >= MAX_REASONS:
        reason = f"{verdict.ruling}: other reasons"
    return replace(state, counts=counts, refusals=_reasoned(state, reason, answer.offset))


def dropped(state: State, event: Dropped) -> State:
    """The state with a message counted that was not read. Its reason is our own, and always kept."""
    return replace(
        state,
        decided=event.offset,
        read_from=event.read_from,
        counts=_one_more(state, "refused"),
        refusals=_reasoned(state, f"refused: {event.reason}", event.offset),
    )


def _one_more(state: State, name: str) -> dict[str, int]:
    return {**state.counts, name: state.counts.get(name, 0) + 1}


def _reasoned(state: State, reason: str, offset: int) -> dict[str, tuple[int, tuple[int, ...]]]:
    known, offsets = state.refusals.get(reason, (0, ()))
    if len(offsets) < MAX_REFUSED_OFFSETS:
        offsets = (*offsets, offset)
    return {**state.refusals, reason: (known + 1, offsets)}
