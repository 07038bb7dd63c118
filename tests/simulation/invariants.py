"""What must hold after a simulation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from coordinator.aggregation import Contribution, aggregate
from coordinator.config import Config
from coordinator.optimizers import make as make_optimizer
from coordinator.rules import make as make_rule
from shared.errors import MessageError
from shared.messages import Update, order_id, seed_of
from shared.weights import Weights
from tests.simulation.ledger import Message, journal, messages
from tests.simulation.reckoning import Reckoning, Remains
from tests.simulation.sites import initial_weights, trained
from tests.simulation.world import World

#: Why a federation may end before its last round.
NAMED_REASONS = ("no client could make the initial weights", " had ")


@dataclass(frozen=True)
class Findings:
    """What is wrong with what a world left behind, and what became of the federation.

    `finished_by`: the process whose coordinator ended it.
    """

    wrong: list[str]
    leaders: int = 0
    rounds: int = 0
    digests: Sequence[str] = ()
    finished_by: str = ""

    @property
    def digest(self) -> str:
        """The last version's."""
        return self.digests[-1] if self.digests else ""


def check(world: World) -> Findings:
    """Reckons everything again that the logs tell."""
    if world.bugs:
        return Findings(world.bugs)
    kind = Remains if world.scenario.lossy else Reckoning
    arrivals = None if world.scenario.vandal else _arrivals(world)
    reckoning = kind(world.scenario.config, list(_updates(world)), arrivals)
    lines = journal(world.server.logs[world.topology.events_log])
    for line in lines:
        reckoning.feed(line)
    wrong = reckoning.faults
    wrong += [f"assignment {id_} was counted {n} times" for id_, n in reckoning.counted.items() if n > 1]
    if not world.scenario.lossy:
        wrong += _end(world, reckoning)
        wrong += _outcomes(world, reckoning)
    leaders = sum(line.kind == "leader" for line in lines)
    last = json.loads(reckoning.finished.token)["process"] if reckoning.finished else ""
    return Findings(wrong, leaders, len(reckoning.digests), reckoning.digests, last)


def _end(world: World, reckoning: Reckoning) -> Iterator[str]:
    """How the journal ends."""
    config = world.scenario.config
    if reckoning.finished is None:
        yield "the journal has no end"
        return
    code, reason = reckoning.finished.data["code"], reckoning.finished.data["reason"]
    if code == 0 and len(reckoning.digests) != config.federation.rounds + 1:
        yield f"{len(reckoning.digests) - 1} rounds were closed"
    if code and not any(named in reason for named in NAMED_REASONS):
        yield f"the federation failed for a reason without a name: {reason}"
    undisturbed = config.federation.mode == "rounds" and config.cohort.on_missing == "wait"
    same = reckoning.all_answered and len(reckoning.cohorts) == 1
    if code == 0 and undisturbed and world.scenario.is_honest and same:
        expected = undisturbed_digest(config, sorted(*reckoning.cohorts), world.scenario.size)
        if reckoning.digest != expected:
            yield "the last version is not that of the undisturbed run"


def _outcomes(world: World, reckoning: Reckoning) -> Iterator[str]:
    """What each coordinator left behind is what the journal says."""
    for machine in world.coordinators:
        ended = machine.ended
        assert ended is not None
        digest = ended.model.digest if ended.model is not None else ""
        if digest != reckoning.digest:
            yield f"{machine.name} left another model than the last version"
        if [line["digest"] for line in ended.history] != reckoning.digests:
            yield f"{machine.name} left another history than the journal's"


def _arrivals(world: World) -> list[tuple[int, bool]]:
    """Where the results log had a whole update, and whether it must have had a verdict of its own.

    A copy need not, nor one in several parts: what is begun and can only be late is not read again.
    """
    seen: set[str] = set()
    arrivals: list[tuple[int, bool]] = []
    for part in world.server.logs[world.topology.results_log].parts:
        if part.kind == Update.KIND and part.part == part.parts - 1:
            arrivals.append((part.offset, part.parts == 1 and part.message_id not in seen))
            seen.add(part.message_id)
    return arrivals


def undisturbed_digest(config: Config, clients: Sequence[str], size: int) -> str:
    """The last version where every client answers its first assignment of every round."""
    seed, optimizer = config.federation.seed, make_optimizer(config.server)
    weights = Weights.from_arrays(initial_weights(seed_of(seed, "initialise"), size))
    slots = optimizer.initial_state(weights.layout)
    for number in range(1, config.federation.rounds + 1):
        contributions = []
        for client in clients:
            id_ = order_id("train", client, number, weights.digest, 0)
            new, examples = trained(weights.arrays, seed_of(seed, id_))
            delta = {name: new[name] - weights.arrays[name] for name in new}
            payload = Weights.from_arrays(delta).payload
            contributions.append(Contribution(client, number - 1, float(examples), payload, id_))
        weights, slots = aggregate(
            weights,
            contributions,
            normalise="weights",
            rule=make_rule(config.aggregation),
            optimizer=optimizer,
            state=slots,
        )
    return weights.digest


def _updates(world: World) -> Iterator[tuple[Message, Update]]:
    """What can be read as an update in the results log."""
    for message in messages(world.server.logs[world.topology.results_log]):
        try:
            yield message, Update.from_header(message.header)
        except MessageError:
            continue
