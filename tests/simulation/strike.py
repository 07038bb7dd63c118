"""One fault at one place, chosen by its number: for going through all of them in turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from coordinator.moves import Command
from coordinator.service import Coordinator
from tests.simulation.invariants import Findings, check
from tests.simulation.process import Process
from tests.simulation.scenario import Scenario
from tests.simulation.world import World


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
    """Strikes a process at its place number `at`; or at none, and only counts them.

    The victim is the first whose place passes `is_meant`. `places` are those that it passed.
    """

    is_meant: Callable[[Process, str], bool]
    how: Callable[[Process], None] = Process.die_here
    at: int = -1
    victim: str = ""
    places: list[str] = field(default_factory=list)

    def __call__(self, process: Process, what: str) -> None:
        if not self.is_meant(process, what) or self.victim not in ("", process.name):
            return
        self.victim = process.name
        self.places.append(what)
        if len(self.places) - 1 == self.at:
            self.how(process)


@dataclass
class Run:
    """What came of a run with a strike."""

    strike: Strike
    findings: Findings
    ends: dict[str, BaseException | int | None]


def run(scenario: Scenario, strike: Strike) -> Run:
    """The scenario with that one fault."""
    world = World(scenario, 1, on_step=strike, make=Commanded)
    try:
        world.run()
        return Run(strike, check(world), world.ends)
    finally:
        world.close()


def at_command(process: Process, what: str) -> bool:
    """Before and after each command of a coordinator's."""
    return process.name.startswith("coordinator") and what.startswith(("before ", "after "))


def at_port_of(role: str) -> Callable[[Process, str], bool]:
    """Wherever the first process of that name uses a port: also between a publish's effect and its return."""
    return lambda process, what: process.name.startswith(role) and not what.startswith(("before ", "after "))


def freezing(seconds: float) -> Callable[[Process], None]:
    """A strike that stops a process for so long."""

    def strike(process: Process) -> None:
        process.freeze(seconds)
        process.wait(0.0)

    return strike
