"""May this update count? Each answer gets one verdict, from the state and the answer alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coordinator.facts import Answer, Order, Phase, State
from shared.messages import order_id

Ruling = Literal["accepted", "late", "duplicate", "refused", "failed"]

#: More examples than that are no honest count (and would drown the others).
MAX_EXAMPLES = 1 << 40
#: What is said of values that are numbers, and beyond what training makes.
ABSURDLY_LARGE = "absurdly large"
#: Words of the reasons that an operator may overrule, or that don't say enough to know; the others are about
#: bytes that can't count.
OVERRULABLE = (
    ABSURDLY_LARGE, "does not speak for site", "is not registered", "it was not assigned", "it claims",
    "floods the results log", "other reasons",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an answer is worth, and why. `its_own`: it came from its client's site, and settles the order."""

    ruling: Ruling
    reason: str = ""
    its_own: bool = True


def judge(state: State, answer: Answer) -> Verdict:
    """The verdict on an answer, as the state stands when the log reaches it.

    The key is the assignment id: the first valid answer counts; a success stands in for an earlier failure.
    """
    if not answer.client:
        return Verdict("refused", answer.refusal or "it names no client", its_own=False)
    stranger = _stranger(state, answer)
    if stranger:
        return Verdict("refused", stranger, its_own=False)
    order = state.orders.get(answer.id)
    if order is None:
        return _forgotten(state, answer)
    if not _matches(order, answer):
        return Verdict("refused", "it contradicts its own assignment", its_own=False)
    return _of_order(state, order, answer)


def unfit(state: State, answer: Answer) -> str:
    """Why an answer can't count in the open round, even if an operator lets it in; "" if it can.

    Let in may be what only looks wrong: its sender, how many examples it claims, and how large its values are
    (if `answer.refusal` says nothing of them).
    """
    if answer.refusal:
        return answer.refusal
    if answer.error:
        return f"it is no update, but a failure report: {answer.error}"
    if answer.work != "train":
        return "it is no training's update"
    order = state.orders.get(answer.id)
    if order is None:
        return _forgotten(state, answer).reason
    if not _matches(order, answer):
        return "it contradicts its own assignment"
    if answer.examples <= 0:
        return f"it claims {answer.examples} examples, and has no weight"
    if state.phase is not Phase.OPEN:
        return "no round is open now"
    return _untimely(state, order)


def _untimely(state: State, order: Order) -> str:
    """Why an order's update would not be counted in the open round, "" if it would."""
    if state.outcome.get(order.id) == "accepted":
        return "its assignment was answered by an accepted update already"
    behind = state.version - order.version
    if behind > state.rules.max_staleness:
        return _late_by(behind)
    if state.rules.buffered:
        return ""
    rivals = [answer.version for answer in state.accepted.values() if answer.client == order.client]
    if max(rivals, default=-1) >= order.version:
        return f"client {order.client!r} has an accepted update on version {max(rivals)} in this round"
    return ""


def _matches(order: Order, answer: Answer) -> bool:
    claimed = (answer.work, answer.client, answer.round, answer.version, answer.digest)
    return (order.work, order.client, order.round, order.version, order.digest) == claimed


def _of_order(state: State, order: Order, answer: Answer) -> Verdict:
    before = state.outcome.get(answer.id)
    if before == "accepted":
        return Verdict("duplicate")
    refusal = answer.refusal or _absurd(answer)
    if refusal:
        return Verdict("refused", refusal, its_own=not answer.forged)
    if answer.error:
        return Verdict("failed" if before is None else "duplicate", answer.error)
    if state.phase is Phase.FINISHED:
        return Verdict("late", "the federation has ended")
    if order.work == "initialise" and state.phase is not Phase.INITIALISING:
        return Verdict("late", "the model has its initial weights")
    behind = state.version - order.version
    if behind > (0 if order.work == "evaluate" else state.rules.max_staleness):
        return Verdict("late", _late_by(behind))
    return Verdict("accepted")


def _stranger(state: State, answer: Answer) -> str:
    """Why the answer is not from a client of its sender's, "" if it is."""
    site = state.clients.get(answer.client)
    if site is None:
        return f"client {answer.client[:100]!r} is not registered"
    if state.rules.attest and answer.sender != site:
        return f"login {answer.sender[:100]!r} does not speak for site {site!r}"
    return ""


def _forgotten(state: State, answer: Answer) -> Verdict:
    """An answer whose order isn't known: an old one that is too late, or none of ours."""
    claimed = order_id(answer.work, answer.client, answer.round, answer.digest, answer.turn)
    if claimed != answer.id:
        return Verdict("refused", "its assignment id is not that of what it answers", its_own=False)
    if state.chain.get(answer.version) != answer.digest:
        return Verdict("refused", "its base is no version of this model", its_own=False)
    if state.version - answer.version > state.rules.max_staleness:
        return Verdict("late", _late_by(state.version - answer.version))
    return Verdict("refused", "it was not assigned", its_own=False)


def _late_by(versions: int) -> str:
    return "1 version behind" if versions == 1 else f"{versions} versions behind"


def _absurd(answer: Answer) -> str:
    if answer.error or answer.work == "initialise":
        return ""
    if answer.evaluated > MAX_EXAMPLES:
        return f"it claims to have evaluated {answer.evaluated} examples"
    if answer.work == "evaluate":
        return ""
    if not 0 < answer.examples <= MAX_EXAMPLES:
        return f"it claims {answer.examples} examples"
    return ""
