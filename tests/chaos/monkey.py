"""Who kills: looks at how far the federation is, and carries out the plan."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from tests.chaos.crew import Crew, Member
from tests.chaos.plan import FREEZE, TRAINED, Kill
from tests.chaos.services import Phoenix
from tests.chaos.setting import Setting
from tests.chaos.tail import Tail

#: From this share of the rounds on, kills that are left over come without waiting for trainings.
HURRY = 0.8


class Monkey:
    """Carries out a plan, a look at a time. `done` counts the kills by kind, and the freezes."""

    def __init__(
        self, plan: Sequence[Kill], crew: Crew, tail: Tail, services: Mapping[str, Phoenix], setting: Setting
    ) -> None:
        self._plan = list(plan)
        self._crew = crew
        self._tail = tail
        self._services = services
        self._hurry_from = HURRY * setting.rounds
        self._size = setting.trainings // setting.rounds
        self._trained_before = 0
        self._opened = 0
        self._full_at = 0
        self._moments: Counter[str] = Counter()
        self._moments_before: dict[Kill, int] = {}
        self._due_at: dict[Kill, float] = {}
        self._queues_since: float | None = None
        self.done: Counter[str] = Counter()

    @property
    def is_done(self) -> bool:
        return not self._plan

    def look(self) -> None:
        """Kills what is due now."""
        trained, rounds = self._crew.trained(), self._crew.rounds()
        self._note_moments(trained)
        while (kill := next(filter(self._possible, self._plan), None)) is not None:
            if rounds < self._hurry_from and not self._has_come(kill, trained):
                return
            if time.monotonic() < self._due_at.setdefault(kill, time.monotonic() + kill.jitter_s):
                return
            self._carry_out(kill)
            self._trained_before = trained

    def _note_moments(self, trained: int) -> None:
        """Counts what kills may be due upon."""
        self._moments |= self._tail.seen
        if self._tail.seen["round-opened"] > self._opened:
            self._opened, self._full_at = self._tail.seen["round-opened"], trained + self._size
        if 0 < self._full_at <= trained:
            self._moments[TRAINED] += 1
            self._full_at = 0
        # By then every site has a queue.
        if self._queues_since is None and trained >= self._size:
            self._queues_since = time.monotonic()

    def _has_come(self, kill: Kill, trained: int) -> bool:
        """Whether the federation is where the plan wants it for this kill."""
        if trained < self._trained_before + kill.gap:
            return False
        now = self._moments[kill.upon]
        return not kill.upon or now > self._moments_before.setdefault(kill, now)

    def _possible(self, kill: Kill) -> bool:
        if kill.kind not in self._services:
            return self._victim(kill) is not None
        service = self._services[kill.kind]
        aged = self._queues_since is not None and time.monotonic() - self._queues_since > service.lives_s
        return service.up_s > service.lives_s and (aged or kill.kind != "rabbitmq")

    def _carry_out(self, kill: Kill) -> None:
        self._plan.remove(kill)
        if kill.kind in self._services:
            self._services[kill.kind].kill(kill.rest_s)
        elif (victim := self._victim(kill)) is not None:
            if kill.kind == FREEZE:
                victim.freeze()
            else:
                victim.kill(kill.rest_s)
        self.done[kill.kind] += 1

    def _victim(self, kill: Kill) -> Member | None:
        if kill.kind == FREEZE:
            return self._crew.victim("coordinator", 0.0)
        return self._crew.victim(kill.kind, kill.pick)
