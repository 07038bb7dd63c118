"""A federation of simulated machines: real coordinators and workers, on ports that misbehave.

Each machine has a clock and runs one program, which is started again when it was killed or gave up. The
simulation is over when every coordinator has said that the federation has ended, and all is quiet.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from coordinator.facts import Answer, State
from coordinator.lifecycle import Leading
from coordinator.models import GlobalModel
from coordinator.optimizers import make as make_optimizer
from coordinator.output import Output
from coordinator.service import Coordinator
from coordinator.spool import Spool
from coordinator.validation import Verdict
from shared.errors import BrokerUnreachable, FederationFailed, JournalError, LeadershipLost, StateUnreachable
from shared.topology import Topology
from shared.weights import Weights
from tests.simulation.broker import Lags, SimBroker
from tests.simulation.faults import Faults
from tests.simulation.process import Process
from tests.simulation.scenario import Scenario, Site
from tests.simulation.scheduler import Scheduler, Strand
from tests.simulation.server import Server
from tests.simulation.sites import SimTrainer
from tests.simulation.store import Shelf, SimStore
from tests.simulation.vandal import Vandal
from worker.service import Worker

#: Errors after which a coordinator is started again, as a supervisor does.
PASSING = (LeadershipLost, StateUnreachable, BrokerUnreachable)
#: How long a calm federation may take to its end, and then its last orders to be gone: seconds a round.
PATIENCE_S = 3600.0
#: How long a machine takes to start a program again.
RESTART_S = 8.0


class Nowhere:
    """A folder that takes everything and keeps nothing: it would be lost with its machine."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_, **__: None


class Shown(Output):
    """What a coordinator shows to people: closed rounds by digest, and the model that it left at its end."""

    model: Weights | None = None

    def __init__(self, digests: list[str], best: str) -> None:
        super().__init__(Nowhere(), [self], best, "")  # type: ignore[arg-type, list-item]
        self._digests = digests

    def closed(self, line: Mapping[str, Any]) -> None:
        self._digests.append(line["digest"])

    def changed(self, state: State) -> None: ...

    def ruled(self, answer: Answer, verdict: Verdict) -> None: ...

    def ended(self, weights: Weights | None) -> None:
        self.model = weights
        super().ended(weights)


@dataclass
class Ended:
    """How a coordinator that had nothing more to do ended: its reason, if the federation failed."""

    reason: str
    model: Weights | None
    history: list[Any]


@dataclass
class Machine:
    """Where a program runs. `offset` and `rate` are its clock's."""

    name: str
    role: str
    offset: float
    rate: float
    boot: Callable[[Machine], None]
    site: Site | None = None
    boots: int = 0
    process: Process | None = None
    program: Any = None
    broker: SimBroker | None = None
    store: SimStore | None = None
    shown: Shown | None = None
    ended: Ended | None = None

    def move_clock(self, seconds: float) -> None:
        """Its clock of the day jumps."""
        self.offset += seconds
        if self.process is not None:
            self.process.offset += seconds


class World:
    """One run of a scenario."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        say: Callable[[str], None] | None = None,
        on_step: Callable[[Process, str], None] | None = None,
        make: type[Coordinator] = Coordinator,
    ) -> None:
        """`on_step` is called where a process uses a port; `make` makes coordinators.

        `ends` will say how each process ended: with an error, an exit code, or killed (None); `shown` are the
        versions that it said it made.
        """
        self.scenario = scenario
        self.rng = Random(f"world {seed}")
        self.scheduler = Scheduler(self.rng, say)
        self.topology = Topology(scenario.config.name)
        self.server = Server(self.scheduler, self.rng, gaps=not scenario.atomic, shared=scenario.atomic)
        self.shelf = Shelf(self.scheduler)
        self.lags = Lags(self.scheduler, scenario.slow, scenario.slowest_s, scenario.calm_at, scenario.large)
        self.faults = Faults(self, Random(f"faults {seed}"))
        self.machines: list[Machine] = []
        self.bugs: list[str] = []
        self.ends: dict[str, BaseException | int | None] = {}
        self.shown: dict[str, list[str]] = {}
        self._tokens = 0
        self._leading = scenario.coordinators
        self._on_step = on_step or self.faults.at_step
        self._make = make
        self._spools = Path(tempfile.gettempdir())
        for number in range(scenario.coordinators):
            self._add(f"coordinator-{number}", "coordinator", self._lead)
        for site in scenario.sites:
            for number in range(site.workers):
                self._add(f"{site.name}-{number}", "worker", self._work, site)

    def run(self) -> None:
        """Runs to the end; what the programs did that they may not is in `bugs`."""
        for machine in self.machines:
            self.scheduler.after(self.rng.uniform(0.0, 3.0), lambda m=machine: m.boot(m))
        if self.scenario.vandal:
            Vandal(self).begin()
        self.faults.begin()
        limit = self.scenario.calm_at + PATIENCE_S * (self.scenario.config.federation.rounds + 1)
        if not self.scheduler.run(lambda: not self._leading or bool(self.bugs), limit):
            self.bugs.append(f"the federation has not ended after {self.scheduler.now:.0f} s")
        config = self.scenario.config
        quiet_at = self.scheduler.now + 2 * config.assignment_expiry_s() + PATIENCE_S
        if not self.bugs and not self.scheduler.run(self._is_quiet, quiet_at):
            self.bugs.append("orders of the federation that has ended still keep somebody busy")

    def close(self) -> None:
        """Ends what still runs."""
        for machine in self.machines:
            machine.boots = -1
            if machine.process is not None:
                machine.process.kill()

    # --- who is there

    @property
    def coordinators(self) -> list[Machine]:
        return [machine for machine in self.machines if machine.role == "coordinator"]

    def processes(self, role: str) -> list[Process]:
        return [m.process for m in self.machines if m.role == role and m.process is not None]

    def machine_of(self, process: Process) -> Machine:
        return next(machine for machine in self.machines if machine.process is process)

    def broker_of(self, process: Process) -> SimBroker | None:
        return next((machine.broker for machine in self.machines if machine.process is process), None)

    def stop(self, process: Process) -> None:
        """Asks a program to stop, as a signal does."""
        program = self.machine_of(process).program
        if program is not None:
            self.scheduler.note(process.name, "told to stop")
            program.stop()

    def restart_broker(self, seconds: float) -> None:
        """All lines break. A lossy broker loses the ends of some logs, though it confirmed them."""
        for log in self.server.logs.values() if self.scenario.lossy else ():
            self.server.lose(log, min(self.rng.choice((0, 0, 1, 2, 5)), len(log.parts)))
        for machine in self.machines:
            if machine.broker is not None:
                machine.broker.cut(seconds)

    # --- machines and their programs

    def _add(self, name: str, role: str, program: Callable[[Machine], Any], site: Site | None = None) -> None:
        worst, drift = self.scenario.worst_clock_s, self.scenario.drift
        offset, rate = self.rng.uniform(-worst, worst), 1 + self.rng.uniform(-drift, drift)

        def boot(machine: Machine) -> None:
            machine.boots += 1
            machine.process = process = Process(
                self.scheduler, f"{name}.{machine.boots}", offset=machine.offset, rate=machine.rate,
                on_step=self._on_step, on_end=lambda _, main: self._on_end(machine, main),
            )  # fmt: skip
            self.scheduler.note(process.name, "starts")
            machine.program = machine.broker = machine.store = None
            process.start(lambda: program(machine), "main")

        self.machines.append(Machine(name, role, offset, rate, boot, site))

    def _lead(self, machine: Machine) -> int:
        process, scenario = machine.process, self.scenario
        assert process is not None
        lossy = 0.05 if "cut store" in scenario.rates else 0.0
        machine.broker = self._connect(process, "coordinator")
        machine.store = SimStore(self.shelf, process, self.rng, self.lags, lossy)
        machine.program = Leading(lambda: self._coordinator(machine, process))
        code: int = machine.program.run()
        return code

    def _coordinator(self, machine: Machine, process: Process) -> Coordinator:
        config = self.scenario.config
        assert machine.broker is not None
        assert machine.store is not None
        model = GlobalModel(
            config, machine.broker, self.topology, make_optimizer(config.server), 1, runtime=process
        )
        machine.shown = Shown(self.shown.setdefault(process.name, []), config.evaluation.best)
        self._tokens += 1
        token = json.dumps({"host": machine.name, "pid": self._tokens, "process": process.name})
        spool = Spool(self._spools)
        return self._make(
            config, machine.broker, machine.store, model, machine.shown, spool, token, runtime=process
        )

    def _work(self, machine: Machine) -> None:
        process, site = machine.process, machine.site
        assert process is not None
        assert site is not None
        machine.broker = self._connect(process, site.name)
        trainer = SimTrainer(process, self.rng, self.scenario.size, site.mood, 30.0)
        partitions = {str(number): None for number in range(site.partitions)}
        machine.program = Worker(
            self.scenario.config.name, site.name, machine.broker, trainer, partitions,
            runtime=process, name=process.name,
        )  # fmt: skip
        machine.program.run()

    def _connect(self, process: Process, login: str) -> SimBroker:
        return SimBroker(self.server, process, login, self.rng, self.lags, atomic=self.scenario.atomic)

    def _on_end(self, machine: Machine, main: Strand) -> None:
        """A program has ended: by itself, by an error, or killed."""
        if machine.boots < 0:
            return
        error = main.error
        assert machine.process is not None
        self.ends[machine.process.name] = main.value if error is None else error
        self.scheduler.note(machine.process.name, f"ended: {main.value if error is None else error!r}")
        lost = self.scenario.lossy and isinstance(error, JournalError) and "no longer holds" in str(error)
        if machine.role == "coordinator" and (main.value == 0 or lost or isinstance(error, FederationFailed)):
            assert machine.shown is not None
            machine.ended = Ended(str(error or ""), machine.shown.model, list(machine.shown.history))
            self._leading -= 1
            return
        if error is not None and not isinstance(error, PASSING):
            self.bugs.append(f"{machine.name} ended with {told(error)}")
            return
        self.scheduler.after(self.rng.uniform(0.0, RESTART_S), lambda: machine.boot(machine))

    def _is_quiet(self) -> bool:
        """Whether nobody has anything to do any more, or will have."""
        boxes = self.server.boxes
        assignments = [boxes[name] for name in boxes if ".assignments." in name]
        return all(not box.ready and not box.held for box in assignments)


def told(error: BaseException) -> str:
    """An error with the place where it was raised."""
    frames: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return f"{type(error).__name__}: {error} ({' < '.join(reversed(frames[-6:]))})"
