"""Who is asked: cohorts, buffered mode's slots, replacements, second requests, the initial weights."""

from __future__ import annotations

from coordinator.closing import close, finish, last_reason
from coordinator.facts import Phase, State
from coordinator.moves import Issue, Turn
from coordinator.selection import cohort, ranking


def move_on(turn: Turn, now: float) -> None:
    """Opens what can be opened, now that clients or a version have come."""
    state = turn.state
    if state.phase is Phase.OPEN and state.rules.buffered:
        fill(turn, now)
    elif state.phase is Phase.OPEN:
        replace_failed(turn, now)
    elif state.phase is Phase.GATHERING and state.version < 0:
        _initialise(turn, now)
    elif state.phase is Phase.GATHERING and state.round >= state.rules.rounds:
        _all_rounds_done(turn, now)
    elif (
        state.phase is Phase.GATHERING and not missing_sites(state) and len(state.trainable) >= wanted(state)
    ):
        _open(turn, now)


def wanted(state: State) -> int:
    """Clients without whom a round isn't opened: for the first one, all that the user asked to wait for."""
    rules = state.rules
    least = 1 if rules.buffered else rules.minimum
    return max(least, rules.min_clients) if state.round == 0 else least


def missing_sites(state: State) -> list[str]:
    """Sites that the user named and that the first round waits for: those that only evaluate."""
    return sorted(state.rules.evaluators - state.sites) if state.round == 0 else []


def _initialise(turn: Turn, now: float) -> None:
    if not turn.state.rules.initial_from_site:
        close(turn, now, ())
    elif turn.state.trainable:
        client = turn.state.trainable[0]
        turn.assign(now, "initialise", [(client, 0, "")], now + turn.state.rules.deadline_s)


def _open(turn: Turn, now: float) -> None:
    state, rules = turn.state, turn.state.rules
    number = state.round + 1
    there = state.trainable
    chosen = () if rules.buffered else cohort(there, rules.selection, rules.minimum, rules.seed, number)
    data = {
        "round": number,
        "version": state.version,
        "digest": state.digest,
        "deadline_at": now + rules.deadline_s,
        "target": rules.target or rules.selection.target(len(there), rules.minimum),
        "evaluators": [c for c in state.present if state.clients[c] in rules.evaluators],
    }
    before = state.orders.keys()
    turn.append("round-opened", now, data, list(chosen))
    turn.do(Issue(tuple(order for id_, order in turn.state.orders.items() if id_ not in before)))
    if rules.buffered:
        fill(turn, now)


def fill(turn: Turn, now: float) -> None:
    """Buffered mode: keeps `concurrency` assignments out. What is overdue counts as lost, and is replaced."""
    state, rules = turn.state, turn.state.rules
    overdue = {id_: o.client for id_, o in state.waiting.items() if o.issued_at + rules.deadline_s <= now}
    free = rules.concurrency - len(state.waiting) + len(overdue)
    if free <= 0 or state.rereading:
        return
    busy = {order.client for id_, order in state.waiting.items() if id_ not in overdue} | _resting(state, now)
    eligible = [client for client in state.trainable if client not in busy]
    chosen = ranking(eligible, rules.seed, state.draws)[:free]
    if chosen:
        turns = _next_turns(state)
        rows = [(client, turns.get(client, 0), id_) for client, id_ in _stand_ins(chosen, overdue)]
        turn.assign(now, "train", rows, now + rules.deadline_s)


def _resting(state: State, now: float) -> set[str]:
    """Clients whose order on this version came to nothing: they aren't asked again before its deadline."""
    return {
        order.client
        for id_, order in state.orders.items()
        if order.work == "train"
        and order.version == state.version
        and order.issued_at + state.rules.deadline_s > now
        and _failed(state, id_)
    }


def _stand_ins(chosen: list[str], overdue: dict[str, str]) -> list[tuple[str, str]]:
    """Each chosen client with the overdue order whose place it takes ("" if none): its own, if it has one."""
    own = {client: id_ for id_, client in overdue.items()}
    others = [id_ for id_, client in overdue.items() if client not in chosen]
    return [(client, own[client] if client in own else others.pop() if others else "") for client in chosen]


def _next_turns(state: State) -> dict[str, int]:
    """The turn of each client's next order in the open round; one that isn't there begins at 0."""
    turns: dict[str, int] = {}
    for order in state.orders.values():
        if order.round == state.round and order.work == "train":
            turns[order.client] = max(turns.get(order.client, 0), order.turn + 1)
    return turns


def replace_failed(turn: Turn, now: float) -> None:
    """Rounds mode: for each order of the round that came to nothing, asks a client that wasn't asked yet."""
    rows = replacements(turn.state)
    if rows and not turn.state.rereading:
        turn.assign(now, "train", rows, turn.state.deadline_at)


def replacements(state: State) -> list[tuple[str, int, str]]:
    """The rows of those whom the round asks instead of clients that brought nothing."""
    orders = {id_: o for id_, o in state.orders.items() if o.round == state.round and o.work == "train"}
    asked = {order.client for order in orders.values()}
    failed = [id_ for id_ in orders if _failed(state, id_)]
    others = ranking((c for c in state.trainable if c not in asked), state.rules.seed, state.round)
    return [(client, 0, id_) for client, id_ in zip(others, failed, strict=False)]


def _failed(state: State, id_: str) -> bool:
    """Whether the order came to nothing, and nothing stands in for it."""
    if id_ in state.superseded or state.outcome.get(id_) == "accepted":
        return False
    return id_ in state.outcome or id_ in state.dead


def ask_again(turn: Turn, now: float) -> None:
    """`wait`: those who brought nothing are asked once more, with the next turn.

    Another client stands in for one that is absent, if there is one that wasn't asked; else its place stays.
    """
    state = turn.state
    have = {answer.client for answer in state.accepted.values()}
    waiting = {order.client: id_ for id_, order in state.waiting.items()}
    turns = _next_turns(state)
    there = set(state.trainable)
    missing = sorted(client for client in turns if client not in have)
    others = ranking((client for client in there if client not in turns), state.rules.seed, state.round)
    rows = [(client, turns[client], waiting.get(client, "")) for client in missing if client in there]
    gone = [client for client in missing if client not in there]
    rows += [(other, 0, waiting.get(client, "")) for client, other in zip(gone, others, strict=False)]
    turn.assign(now, "train", rows, now + state.rules.deadline_s)


def initialise_elsewhere(turn: Turn, now: float) -> None:
    """Asks the next client for the initial weights; when all were asked, the federation has failed."""
    state = turn.state
    asked = {order.client for order in state.orders.values()}
    others = [client for client in state.trainable if client not in asked]
    if others:
        before = next(iter(state.waiting), "")
        turn.assign(now, "initialise", [(others[0], 0, before)], now + state.rules.deadline_s)
    elif not state.waiting:
        finish(turn, now, 4, f"no client could make the initial weights ({last_reason(state)})")
    else:
        order = next(iter(state.waiting.values()))
        rows = [(order.client, order.turn + 1, order.id)]
        turn.assign(now, "initialise", rows, now + state.rules.deadline_s)


def _all_rounds_done(turn: Turn, now: float) -> None:
    """The last version is evaluated by everyone who is there, if at all; then the federation is finished."""
    state = turn.state
    if state.rules.evaluate_last and state.present:
        rows = [(client, 0, "") for client in state.present]
        turn.assign(now, "evaluate", rows, now + state.rules.deadline_s)
    else:
        finish(turn, now, 0, "all rounds are done")
