"""Which process is killed when: drawn from a seed, before anything runs."""

from __future__ import annotations

import random
from dataclasses import dataclass

#: Of so many kills, one is RabbitMQ's, and one is Redis'; the coordinators' share of the others.
EVERY = 6
COORDINATORS = 0.4
#: RabbitMQ takes up to 10 s to come back.
MAX_RABBIT_KILLS = 15
#: Kills are drawn over this share of the trainings, so that there is something left to go on with.
SPREAD = 0.6
#: The share of kills that come right upon the one before.
AT_ONCE = 0.2
#: The share of the others that come right upon the end of a training, or another moment that matters: the
#: journal says that a round closes, or that its orders go out; or all that a round waits for is trained.
SHARP = 0.6
TRAINED = "trained"
UPON = ("round-closing", "round-opened", TRAINED, TRAINED)
#: How long after that moment, at the most: what comes of it takes some milliseconds.
MOMENT_S = 0.02
#: The longest that the rest wait beyond that, and that a victim stays away, in seconds.
JITTER_S = 0.3
REST_S = 1.5


#: A kill that is none: a coordinator is stopped, and wakes up when another leads.
FREEZE = "freeze"


@dataclass(frozen=True)
class Kill:
    """One kill: of what kind of process, and when.

    It is due `gap` trainings after the kill before, then at the next moment of the kind `upon`, if there is
    one, and `jitter_s` later. The victim, which `pick` in [0, 1) chooses among those of its kind, is
    started again after `rest_s`.
    """

    kind: str
    gap: int
    upon: str
    jitter_s: float
    rest_s: float
    pick: float


def draw(seed: int, kills: int, freezes: int, trainings: int, services: bool) -> list[Kill]:
    """The kills and freezes in order; `trainings` is how many the federation takes undisturbed."""
    rng = random.Random(seed)
    of_services = kills // EVERY if services else 0
    kinds = ["rabbitmq"] * min(of_services, MAX_RABBIT_KILLS) + ["redis"] * of_services
    others = kills - len(kinds)
    kinds += ["coordinator"] * round(others * COORDINATORS)
    kinds += ["worker"] * (kills - len(kinds)) + [FREEZE] * freezes
    rng.shuffle(kinds)
    mean = SPREAD * trainings / max(kills, 1) / (1 - AT_ONCE)
    return [_kill(rng, kind, mean) for kind in kinds]


def _kill(rng: random.Random, kind: str, mean: float) -> Kill:
    at_once = rng.random() < AT_ONCE
    sharp = at_once or rng.random() < SHARP
    gap = 0 if at_once else round(rng.uniform(0, 2 * mean))
    upon = rng.choice(UPON) if not at_once and kind != "worker" and rng.random() < SHARP else ""
    jitter_s = rng.uniform(0, MOMENT_S if upon else 0.0 if sharp else JITTER_S)
    rest_s = rng.choice([0.0, 0.0, rng.uniform(0, REST_S)])
    return Kill(kind, gap, upon, jitter_s, rest_s, rng.random())
