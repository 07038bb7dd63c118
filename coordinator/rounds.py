"""The state machine: `step(state, event) -> (state, commands)`. No I/O, no clock, no randomness of its own.

Whatever changes a decision becomes a journal entry, and the same entry changes the state
(`coordinator.applying`). Commands are carried out in order, and an `Append` is confirmed before the next
one: that is the write-ahead rule. Verdicts on updates are no entries of their own: they follow from the
results log, and the `round-closing` entry fixes those that counted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from coordinator.closing import close, conclude, freshest, quorum_lost
from coordinator.facts import Answer, Phase, State, config_digest
from coordinator.issuing import ask_again, fill, initialise_elsewhere, move_on, replace_failed, replacements
from coordinator.moves import (
    Admit,
    Answered,
    Appealed,
    CaughtUp,
    Command,
    Died,
    Dropped,
    Event,
    Fold,
    Folded,
    Forget,
    Issue,
    ResultsLost,
    Resumed,
    Ruled,
    Seen,
    Started,
    Tick,
    Turn,
)
from coordinator.overlay import put
from coordinator.readmission import appealed, take_in
from coordinator.tally import counted, dropped
from coordinator.validation import judge
from shared.errors import WarrenError


class ImpossibleEvent(WarrenError):
    """Raised when the driver feeds an event that cannot happen in the state's phase."""


def step(state: State, event: Event) -> tuple[State, tuple[Command, ...]]:
    """What follows from an event.

    Raises:
        ImpossibleEvent: the driver broke the order of things.
    """
    turn = Turn(state)
    match event:
        case Started():
            config = dict(event.config)
            data = {"run": event.run, "config": config, "digest": config_digest(config)}
            turn.append("federation-started", event.now, data)
        case Seen():
            _seen(turn, event)
        case Answered():
            _answered(turn, event)
        case Appealed():
            if appealed(turn, event):
                _after_answer(turn, event.now)
        case Dropped():
            turn.state = dropped(state, event)
        case Died():
            _died(turn, event)
        case Tick():
            _tick(turn, event.now)
        case Folded():
            _folded(turn, event)
        case Resumed():
            turn.state = replace(state, rereading=True)
            if state.phase is Phase.CLOSING:
                turn.do(Fold(state.closing))
        case ResultsLost():
            turn.append("results-lost", event.now, {"end": event.end})
        case CaughtUp():
            _caught_up(turn, event)
    return turn.state, turn.commands()


def next_wake(state: State, now: float) -> float | None:
    """When the state wants its next Tick at the latest; None if only news can move it."""
    if state.phase is Phase.FINISHED or state.rereading:
        return None
    times = [at + state.rules.absent_s for site, at in state.seen.items() if site not in state.absent]
    if state.phase is Phase.OPEN and state.rules.buffered:
        times += _buffered_wakes(state, now)
    elif state.phase in (Phase.OPEN, Phase.INITIALISING, Phase.EVALUATING):
        times.append(state.deadline_at)
    return min(times, default=None)


def _buffered_wakes(state: State, now: float) -> list[float]:
    """When orders are overdue; while places are free, also when a client that failed may be asked again.

    What is overdue already and could not be given to another client waits for news, not for time.
    """
    full = len(state.waiting) >= state.rules.concurrency
    orders = state.waiting if full else state.orders
    times = [order.issued_at + state.rules.deadline_s for order in orders.values()]
    return [at for at in (*times, state.deadline_at) if at > now]


# --- clients come and go


def _seen(turn: Turn, event: Seen) -> None:
    if turn.state.phase is Phase.FINISHED:
        return
    turn.state = replace(turn.state, seen={**turn.state.seen, event.site: event.now})
    new = [p for p in event.partitions if f"{event.site}/{p}" not in turn.state.clients]
    if event.site not in turn.state.sites:
        turn.do(Admit(event.site))
    if new:
        turn.append("registered", event.now, {}, [[event.site, new]])
    if event.site in turn.state.absent:
        turn.append("present", event.now, {}, [event.site])
    move_on(turn, event.now)


def _absences(turn: Turn, now: float) -> None:
    state = turn.state
    gone = sorted(
        site
        for site, at in state.seen.items()
        if at + state.rules.absent_s <= now and site not in state.absent
    )
    if gone:
        turn.append("absent", now, {}, gone)


# --- answers come in


def _answered(turn: Turn, event: Answered) -> None:
    answer = event.answer
    turn.state = take_in(turn.state, event.position)
    verdict = judge(turn.state, answer)
    state = replace(turn.state, decided=event.position, read_from=event.read_from)
    turn.state = counted(state, answer, verdict)
    turn.do(Ruled(answer, verdict))
    if verdict.ruling != "accepted" or answer.work == "evaluate":
        turn.do(Forget(answer))
    if verdict.ruling == "accepted":
        turn.state = _taken(turn.state.answered(answer.id, "accepted"), answer)
    elif verdict.ruling in ("failed", "refused") and verdict.its_own:
        _came_to_nothing(turn, event.now, answer.id, verdict.ruling)
    elif verdict.ruling == "late" and answer.id in turn.state.waiting:
        turn.state = turn.state.answered(answer.id, "accepted")
    _after_answer(turn, event.now)


def _taken(state: State, answer: Answer) -> State:
    if answer.work == "evaluate":
        return replace(state, evaluations=put(state.evaluations, answer.id, answer))
    return replace(state, accepted=put(state.accepted, answer.id, answer))


def _came_to_nothing(turn: Turn, now: float, id_: str, ruling: Literal["failed", "refused"]) -> None:
    """An order was answered with nothing that counts: another client takes its place, if there is one."""
    if turn.state.outcome.get(id_) is None:
        turn.state = turn.state.answered(id_, ruling)
    _refill(turn, now)


def _refill(turn: Turn, now: float) -> None:
    if turn.state.phase is Phase.OPEN and not turn.state.rules.buffered:
        replace_failed(turn, now)


def _died(turn: Turn, event: Died) -> None:
    order = turn.state.waiting.get(event.id)
    if order is None:
        return
    turn.append("failed", event.now, {"id": event.id, "client": order.client, "reason": event.reason})
    _refill(turn, event.now)
    _after_answer(turn, event.now)


def _after_answer(turn: Turn, now: float) -> None:
    """Closes the round if it has what it wants."""
    state, rules = turn.state, turn.state.rules
    if state.phase is Phase.INITIALISING:
        _after_initialise(turn, now)
    elif state.phase is Phase.EVALUATING and not state.waiting:
        conclude(turn, now)
    elif state.phase is Phase.OPEN and rules.buffered:
        if len(state.accepted) >= rules.buffer:
            close(turn, now, tuple(state.accepted.values()))
        else:
            fill(turn, now)
    elif state.phase is Phase.OPEN:
        _close_if_done(turn, now)


def _close_if_done(turn: Turn, now: float) -> None:
    state = turn.state
    # Who rereads the log asks nobody yet, but is to.
    to_come = state.waiting or (state.rereading and replacements(state))
    least = state.target if to_come else state.rules.minimum
    if least is None or len(state.accepted) < least:
        return
    chosen = freshest(state.accepted.values())
    if len(chosen) >= least:
        close(turn, now, chosen)


def _after_initialise(turn: Turn, now: float) -> None:
    state = turn.state
    if state.accepted:
        close(turn, now, tuple(state.accepted.values())[:1])
    elif not state.waiting:
        initialise_elsewhere(turn, now)


# --- time passes


def _tick(turn: Turn, now: float) -> None:
    # What the log still holds was there in time, however late it is read.
    if turn.state.phase is Phase.FINISHED or turn.state.rereading:
        return
    _absences(turn, now)
    state, rules = turn.state, turn.state.rules
    if state.phase is Phase.OPEN and rules.buffered:
        fill(turn, now)
        if not turn.state.waiting and turn.state.deadline_at <= now and rules.on_missing == "stop":
            quorum_lost(turn, now)
    elif state.phase is Phase.EVALUATING and state.deadline_at <= now:
        conclude(turn, now)
    elif state.phase in (Phase.OPEN, Phase.INITIALISING) and state.deadline_at <= now:
        _deadline(turn, now)
    else:
        move_on(turn, now)


def _deadline(turn: Turn, now: float) -> None:
    state, rules = turn.state, turn.state.rules
    if state.phase is Phase.INITIALISING:
        initialise_elsewhere(turn, now)
        return
    chosen = freshest(state.accepted.values())
    if len(chosen) >= rules.minimum:
        close(turn, now, chosen)
    elif rules.on_missing == "stop":
        quorum_lost(turn, now)
    elif rules.on_missing == "skip":
        close(turn, now, (), skipped=True)
    else:
        ask_again(turn, now)


def _folded(turn: Turn, event: Folded) -> None:
    state = turn.state
    if state.phase is not Phase.CLOSING:
        raise ImpossibleEvent(f"a model was folded while the federation is {state.phase}")
    data = {
        **event.notes,
        "round": state.round,
        "parent": state.digest,
        "version": state.version + (not state.skipping),
        "digest": event.digest,
        "skipped": state.skipping,
    }
    turn.append("round-closed", event.now, data)
    move_on(turn, event.now)


# --- a new leader goes on


def _caught_up(turn: Turn, event: CaughtUp) -> None:
    state = turn.state
    if state.phase is Phase.FINISHED:
        return
    seen = {**dict.fromkeys(state.sites, event.now), **state.seen}
    turn.state = take_in(replace(_on_this_clock(state, event.now), seen=seen, rereading=False))
    orders = tuple(o for id_, o in state.orders.items() if id_ in event.unsure - state.outcome.keys())
    if orders:
        turn.do(Issue(orders))
    _refill(turn, event.now)
    _after_answer(turn, event.now)
    move_on(turn, event.now)


def _on_this_clock(state: State, now: float) -> State:
    """The state without what a leader before this one wrote of the future, by a clock that was ahead."""
    orders = {id_: replace(o, issued_at=min(o.issued_at, now)) for id_, o in state.orders.items()}
    waiting = {id_: orders[id_] for id_ in state.waiting}
    deadline_at = min(state.deadline_at, now + state.rules.deadline_s)
    return replace(state, orders=orders, waiting=waiting, deadline_at=deadline_at)
