"""The state as the store shows it to people: written often, trusted never."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from coordinator.facts import State
from coordinator.lease import LEASE_S
from coordinator.state.port import Changes, Section, StateStore
from shared.errors import StateUnreachable

log = logging.getLogger(__name__)

#: Workers shown, the length of what they say of themselves, and when one that is gone is forgotten (seconds).
MAX_WORKERS = 2000
MAX_CHARS = 150
FORGET_S = 120.0
Sections = Mapping[Section, Mapping[str, str]]


class Mirror:
    """Writes what changed since the last write, in one round trip; all of it after the store was away."""

    def __init__(self, store: StateStore, token: str) -> None:
        self._store = store
        self._token = token
        self._known: State | None = None
        self._rounds = 0
        self._sections: dict[Section, Mapping[str, str]] = {}
        self._workers: dict[str, tuple[float, str]] = {}
        self._new_workers: set[str] = set()

    def behind(self, state: State) -> bool:
        """Whether there is something to write."""
        return state is not self._known or bool(self._new_workers)

    def worker(self, name: str, seen_at: float, doing: str, answered: int) -> None:
        """Notes that a worker was seen. Names are sites' own words: only so many, and so long, are kept."""
        name = name[:MAX_CHARS]
        self._workers.pop(name, None)
        about = {"seen": seen_at, "doing": doing[:MAX_CHARS], "answered": answered}
        self._workers[name] = seen_at, json.dumps(about)
        self._new_workers.add(name)
        while len(self._workers) > MAX_WORKERS:
            del self._workers[next(iter(self._workers))]

    def write(
        self,
        state: State,
        history: Sequence[Mapping[str, Any]],
        waiting_for: str = "",
        floods: Mapping[str, Any] | None = None,
    ) -> None:
        """Brings the store up to date. A store that was away, or lost what it had, is told everything."""
        self._known = state
        sections = _sections(state, waiting_for, floods or {})
        try:
            if self._written(sections, history):
                return
            # It lost what it had, or the lease ran out while it was away or this process was paused.
            self._store.lease(self._token, LEASE_S)
            self._rounds, self._sections = 0, {}
            if self._written(sections, history):
                return
        except StateUnreachable as error:
            log.debug("state not written: %s", error)
        self._known, self._rounds, self._sections = None, 0, {}

    def _written(self, wanted: Sections, history: Sequence[Mapping[str, Any]]) -> bool:
        changes = self._changes(wanted, history)
        if changes is None:
            return True
        if not self._store.write(self._token, changes):
            return False
        self._sections.update(changes.replace)
        self._new_workers.clear()
        self._rounds = len(history)
        return True

    def _changes(self, wanted: Sections, history: Sequence[Mapping[str, Any]]) -> Changes | None:
        replace = {name: texts for name, texts in wanted.items() if self._sections.get(name) != texts}
        merge: dict[Section, Mapping[str, str]] = {}
        if "workers" not in self._sections or self._forget_workers():
            replace["workers"] = {name: text for name, (_, text) in self._workers.items()}
        elif self._new_workers:
            merge["workers"] = {
                name: self._workers[name][1] for name in self._new_workers & self._workers.keys()
            }
        if not replace and not merge and self._rounds == len(history):
            return None
        lines = [json.dumps(line) for line in history[self._rounds :]]
        return Changes(replace=replace, merge=merge, history=lines, history_from=self._rounds)

    def _forget_workers(self) -> bool:
        """Drops workers that were not seen for long; returns whether there were any."""
        newest = max((seen for seen, _ in self._workers.values()), default=0.0)
        stale = [name for name, (seen, _) in self._workers.items() if seen < newest - FORGET_S]
        for name in stale:
            del self._workers[name]
        return bool(stale)


def _sections(state: State, waiting_for: str, floods: Mapping[str, Any]) -> Sections:
    round_: dict[str, Any] = {
        "number": state.round,
        "version": state.version,
        "digest": state.digest,
        "state": state.phase.value,
        "opened_at": state.opened_at,
        "deadline_at": state.deadline_at,
        "read_from": state.read_from,
        "rounds": state.rules.rounds,
        "run": state.run,
        "waiting_for": waiting_for,
        "code": "" if state.outcome_code is None else state.outcome_code,
        "reason": state.outcome_reason,
    }
    sites = {site: [0, site in state.absent, state.seen.get(site, 0.0)] for site in state.sites}
    for site in state.clients.values():
        sites[site][0] += 1
    return {
        "round": {key: str(value) for key, value in round_.items()},
        "assigned": {order.client: id_ for id_, order in state.waiting.items()},
        "accepted": {answer.client: str(answer.offset) for answer in state.accepted.values()},
        "clients": {
            site: json.dumps({"clients": count, "absent": absent, "seen": seen})
            for site, (count, absent, seen) in sites.items()
        },
        "refused": {
            reason: json.dumps([count, offsets]) for reason, (count, offsets) in state.refusals.items()
        },
        "floods": {login: json.dumps(about) for login, about in floods.items()},
    }
