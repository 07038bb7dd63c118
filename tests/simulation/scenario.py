"""What a seed stands for: a federation's configuration, its sites, and how bad the world is to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from coordinator.config import Config
from tests.simulation.sites import Mood

#: Kinds of faults that come with time, and how many of each a bad minute has.
IN_TIME = {
    "kill coordinator": 3.0,
    "kill worker": 4.0,
    "stop coordinator": 1.0,
    "stop worker": 1.0,
    "freeze coordinator": 2.0,
    "freeze worker": 2.0,
    "cut coordinator": 4.0,
    "cut worker": 4.0,
    "cut store": 3.0,
    "wipe store": 2.0,
    "restart broker": 1.0,
    "move clock": 2.0,
}
#: Kinds that strike where a port is used, and how many of a thousand uses they strike.
AT_STEPS = {"die": 8.0, "freeze": 4.0, "cut": 15.0}
HOUR_S = 3600.0


@dataclass(frozen=True)
class Site:
    """A site: its partitions, its workers, and how it behaves."""

    name: str
    partitions: int = 1
    workers: int = 1
    mood: Mood = "honest"

    @property
    def clients(self) -> list[str]:
        return [f"{self.name}/{number}" for number in range(self.partitions)]


@dataclass(frozen=True)
class Scenario:
    """One federation to simulate.

    `rates`: by kind of fault, how many come in a second of true time, until `calm_at`; `at_steps`: by kind,
    the part of the uses of a port at which one comes, until then. `slow`: the part of messages that take up
    to `slowest_s`; `large`: that of publishes that take long, each part. `worst_clock_s`, `drift`: how far
    clocks may be off, and how much faster or slower. `in_parts`: even small messages travel in several
    parts. `atomic`: the broker is one of a folder, without lines that break. `vandal`: somebody publishes
    what is no honest worker's. `lossy`: a broker that restarts loses the ends of its logs.
    """

    config: Config
    sites: tuple[Site, ...]
    coordinators: int = 1
    size: int = 4
    rates: Mapping[str, float] = field(default_factory=dict)
    at_steps: Mapping[str, float] = field(default_factory=dict)
    calm_at: float = 0.0
    slow: float = 0.0
    slowest_s: float = 5.0
    large: float = 0.0
    worst_clock_s: float = 0.0
    drift: float = 0.0
    in_parts: bool = False
    atomic: bool = False
    vandal: bool = False
    lossy: bool = False

    @property
    def is_honest(self) -> bool:
        """Whether nobody lies, and nobody fails."""
        return not self.vandal and all(site.mood in ("honest", "slow") for site in self.sites)


def draw(seed: int, *, lossy: bool = False) -> Scenario:
    """The scenario of a seed."""
    rng = Random(f"scenario {seed}")
    sites = tuple(_site(rng, name) for name in "abcd"[: rng.randint(1, 4)])
    atomic = not lossy and rng.random() < 0.25
    # Each seed has some kinds of faults only, so that each kind is met without the others too.
    kinds = [kind for kind in IN_TIME if rng.random() < 0.4 and not (atomic and _is_of_lines(kind))]
    if lossy and "restart broker" not in kinds:
        kinds.append("restart broker")
    worse = rng.choice((0.3, 1.0, 2.0))
    return Scenario(
        config=_config(rng, seed, sites),
        sites=sites,
        coordinators=rng.choice((1, 2, 2, 3)),
        size=rng.choice((1, 4, 40)),
        rates={kind: IN_TIME[kind] * worse / 60 for kind in kinds},
        at_steps={kind: AT_STEPS[kind] * worse / 1000 for kind in AT_STEPS if rng.random() < 0.5},
        calm_at=rng.uniform(20.0, 120.0),
        slow=rng.choice((0.0, 0.0, 0.02, 0.1)),
        slowest_s=rng.choice((2.0, 20.0)),
        large=rng.choice((0.0, 0.03, 0.2)),
        worst_clock_s=rng.choice((0.0, 5.0, 3 * HOUR_S)),
        drift=rng.choice((0.0, 0.001, 0.1)),
        in_parts=rng.random() < 0.3,
        atomic=atomic,
        vandal=rng.random() < 0.15,
        lossy=lossy,
    )


def _site(rng: Random, name: str) -> Site:
    mood: Mood = rng.choice(("honest",) * 8 + ("slow",) * 3 + ("failing", "lying"))
    return Site(name, rng.choice((1, 1, 2, 3)), rng.choice((1, 1, 2)), mood)


def _config(rng: Random, seed: int, sites: tuple[Site, ...]) -> Config:
    clients = sum(site.partitions for site in sites)
    evaluators = [sites[-1].name] if len(sites) > 1 and rng.random() < 0.15 else []
    training = clients - sum(site.partitions for site in sites if site.name in evaluators)
    return Config.model_validate(
        {
            "federation": {
                "name": "simulated",
                "rounds": rng.randint(1, 4),
                "seed": seed,
                "mode": rng.choice(("rounds", "rounds", "buffered")),
            },
            "training": {"epochs": 1},
            "cohort": _cohort(rng, training),
            "buffered": {
                "concurrency": rng.randint(1, 5),
                "buffer": rng.randint(1, 4),
                "normalise": rng.choice(("count", "weights")),
            },
            "staleness": {"max": rng.choice((0, 0, 1, 2)), "exponent": rng.choice((0.0, 0.5))},
            "server": {"optimizer": rng.choice(("fedavg", "fedavg", "fedadam")), "learning_rate": 0.5},
            "evaluation": {
                "each_round": rng.random() < 0.5,
                "last": rng.random() < 0.5,
                "sites": evaluators,
            },
            "security": {"attest": rng.random() < 0.5},
        }
    )


def _cohort(rng: Random, training: int) -> dict[str, Any]:
    cohort: dict[str, Any] = {
        "minimum": rng.randint(1, training),
        "deadline_s": rng.choice((8.0, 20.0, 60.0)),
        "on_missing": rng.choice(("wait", "wait", "wait", "skip", "stop")),
        "min_clients": rng.choice((1, training)),
        "absent_s": rng.choice((12.0, 60.0)),
    }
    if rng.random() < 0.3:
        cohort |= {"select": "random", "over_select": rng.choice((1.0, 1.5))}
        cohort |= {"size": rng.randint(cohort["minimum"], training)}
    elif rng.random() < 0.2:
        cohort["target"] = rng.randint(cohort["minimum"], training)
    return cohort


def _is_of_lines(kind: str) -> bool:
    """Whether it takes a line between machines."""
    return kind in ("cut coordinator", "cut worker", "restart broker")
