"""One fault at one place, chosen by its number: for going through all of them in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

from coordinator.moves import Command
from coordinator.service import Coordinator
from tests.simulation.invariants import Findings, check
from tests.simulation.process import Process
from tests.simulation.run import small_parts
from tests.simulation.scenario import Scenario
from tests.simulation.server import Log
from tests.simulation.world import World

#: Does something to a process, called by a strand of its own.
How = Callable[[World, Process], None]


class Commanded(Coordinator):
    """A coordinator for whom the begin and the end of each command is a place where faults may strike."""

    def _obey(self, command: Command) -> None:
        process = self._runtime
        assert isinstance(process, Process)
        process.step(f"before {type(command).__name__}")
        super()._obey(command)
        process.step(f"after {type(command).__name__}")


@dataclass
class Strike:
    """Strikes the first process that is meant at its place number `at[0]`, the next one at `at[1]`, ….

    `passed` are the places of each of them. With no `at` it strikes nobody, and counts the first's places.
    """

    is_meant: Callable[[Process, str], bool]
    how: How
    at: Sequence[int] = ()
    world: World | None = None
    passed: dict[str, list[str]] = field(default_factory=dict)

    @property
    def victim(self) -> str:
        """The first process."""
        return next(iter(self.passed))

    @property
    def places(self) -> list[str]:
        """Those that the first process passed."""
        return self.passed[self.victim]

    @property
    def place(self) -> str:
        """Where the first was struck."""
        return self.places[self.at[0]]

    def __call__(self, process: Process, what: str) -> None:
        if not self.is_meant(process, what):
            return
        if process.name not in self.passed:
            if len(self.passed) >= max(len(self.at), 1):
                return
            self.passed[process.name] = []
        places = self.passed[process.name]
        places.append(what)
        number = list(self.passed).index(process.name)
        if number < len(self.at) and len(places) - 1 == self.at[number]:
            assert self.world is not None
            self.how(self.world, process)


@dataclass
class Run:
    """What came of a run with a strike."""

    strike: Strike
    findings: Findings
    ends: dict[str, BaseException | int | None]
    shown: dict[str, list[str]]


def run(scenario: Scenario, strike: Strike) -> Run:
    """The scenario with that one fault."""
    with small_parts() if scenario.in_parts else nullcontext():
        strike.world = world = World(scenario, 1, on_step=strike, make=Commanded)
        try:
            world.run()
            return Run(strike, check(world), world.ends, world.shown)
        finally:
            world.close()


def at_command(process: Process, what: str) -> bool:
    """Before and after each command of a coordinator's."""
    return process.name.startswith("coordinator") and what.startswith(("before ", "after "))


def at_any_place(process: Process, _what: str) -> bool:
    """At each command of a coordinator's, and at each use of a port."""
    return process.name.startswith("coordinator")


def at_port_of(role: str) -> Callable[[Process, str], bool]:
    """Wherever the first process of that name uses a port: also between a publish's effect and its return."""
    return lambda process, what: process.name.startswith(role) and not what.startswith(("before ", "after "))


def dying(_: World, process: Process) -> None:
    process.die_here()


def freezing(seconds: float) -> How:
    """Stops the process for so long."""

    def strike(_: World, process: Process) -> None:
        process.freeze(seconds)
        process.wait(0.0)

    return strike


def overtaken(world: World, process: Process) -> None:
    """The store forgets the lease, and the process stands still just until a standby leads: it is not aware
    that it lost time."""
    log = world.server.logs[world.topology.events_log]
    leaders = _leaders(log)

    def look() -> None:
        if _leaders(log) > leaders:
            process.thaw()
        else:
            world.scheduler.after(0.001, look)

    world.shelf.wipe()
    process.freeze(60.0)
    look()
    process.wait(0.0)


def cut_off(world: World, process: Process) -> None:
    """The process's line to the broker breaks while it sends what it is about to send."""
    broker = world.broker_of(process)
    if broker is not None:
        world.scheduler.after(0.004, lambda: broker.cut(0.0))


def _leaders(log: Log) -> int:
    return sum(part.kind == "journal" and b"leader" in bytes(part.body) for part in log.parts)
