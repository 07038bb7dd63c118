"""Faults: which strikes whom and when, drawn from the seed, and counted by kind."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING

from tests.simulation.process import Process

if TYPE_CHECKING:
    from tests.simulation.world import World

#: A line that nothing passes for so long is given up by the broker, in seconds.
HEARTBEATS_S = 45.0


class Faults:
    """Strikes a world until its scenario says that it is calm."""

    def __init__(self, world: World, rng: Random) -> None:
        self.counted: Counter[str] = Counter()
        self._world = world
        self._scenario = world.scenario
        self._scheduler = world.scheduler
        self._rng = rng

    def begin(self) -> None:
        for kind in self._scenario.rates:
            self._next(kind)

    @property
    def is_calm(self) -> bool:
        return self._scheduler.now >= self._scenario.calm_at

    def at_step(self, process: Process, _what: str) -> None:
        """Called wherever a process uses a port, by the strand that does."""
        if self.is_calm:
            return
        for kind, share in self._scenario.at_steps.items():
            if self._rng.random() < share:
                self._strike_here(process, kind)

    def _strike_here(self, process: Process, kind: str) -> None:
        self.counted[f"{kind} at a step"] += 1
        if kind == "die":
            process.die_here()
        elif kind == "freeze":
            self._freeze(process)
            process.wait(0.0)
        else:
            # Somewhere on the way of what it is about to send.
            self._scheduler.after(self._rng.expovariate(100.0), lambda: self._cut(process, self._moment()))

    def _next(self, kind: str) -> None:
        self._scheduler.after(self._rng.expovariate(self._scenario.rates[kind]), lambda: self._strike(kind))

    def _strike(self, kind: str) -> None:
        if self.is_calm:
            return
        what, _, whom = kind.partition(" ")
        if whom in ("coordinator", "worker"):
            processes = [p for p in self._world.processes(whom) if p.alive]
            if processes:
                self._strike_one(what, self._rng.choice(processes))
        else:
            self._strike_service(kind)
        self._next(kind)

    def _strike_one(self, what: str, process: Process) -> None:
        self.counted[what] += 1
        match what:
            case "kill":
                process.kill()
            case "stop":
                self._world.stop(process)
            case "freeze":
                self._freeze(process)
            case "cut":
                self._cut(process, self._while())

    def _strike_service(self, kind: str) -> None:
        self.counted[kind] += 1
        self._scheduler.note("world", kind)
        match kind:
            case "cut store":
                machine = self._rng.choice(self._world.machines)
                if machine.store is not None:
                    machine.store.cut(self._while())
            case "wipe store":
                self._world.shelf.wipe()
            case "restart broker":
                self._world.restart_broker(self._moment() + self._rng.uniform(0.0, 10.0))
            case "move clock":
                machine = self._rng.choice(self._world.machines)
                machine.move_clock(self._rng.uniform(-1.0, 1.0) * self._scenario.worst_clock_s)

    def _freeze(self, process: Process) -> None:
        if process.frozen:
            return
        seconds = self._while()
        process.freeze(seconds)
        if seconds > HEARTBEATS_S:
            self._scheduler.after(HEARTBEATS_S, lambda: self._cut(process, seconds - HEARTBEATS_S))

    def _cut(self, process: Process, seconds: float) -> None:
        broker = self._world.broker_of(process)
        if broker is not None:
            broker.cut(seconds)

    def _moment(self) -> float:
        return self._rng.expovariate(2.0)

    def _while(self) -> float:
        """Often short, at times longer than leases, deadlines and heartbeats."""
        return self._rng.choice((1.0, 5.0, 20.0, 90.0)) * self._rng.random()
