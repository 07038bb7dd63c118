"""One seed from its scenario to its verdict."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from random import Random

from shared import codec
from tests.simulation.invariants import check
from tests.simulation.ledger import journal
from tests.simulation.scenario import Scenario, draw
from tests.simulation.world import World

#: With these even a tiny model travels in several parts, in bytes.
SINGLE_PART_BYTES = 64
PART_BYTES = 16


@dataclass
class Result:
    """What came of a seed: `wrong` says what must not be; `faults` counts what was done to it, by kind."""

    seed: int
    wrong: list[str]
    faults: Counter[str] = field(default_factory=Counter)
    leaders: int = 0
    rounds: int = 0
    digest: str = ""


def simulate(
    seed: int,
    *,
    lossy: bool = False,
    say: Callable[[str], None] | None = None,
    scenario: Scenario | None = None,
) -> Result:
    """Runs the seed's scenario, or the given one. `say` takes the trace, a line at a time."""
    scenario = scenario or draw(seed, lossy=lossy)
    with seeded_ids(seed), small_parts() if scenario.in_parts else nullcontext():
        world = World(scenario, seed, say)
        try:
            world.run()
            found = check(world)
            if say is not None:
                _tell(world, say)
        finally:
            world.close()
    return Result(seed, found.wrong, world.faults.counted, found.leaders, found.rounds, found.digest)


def _tell(world: World, say: Callable[[str], None]) -> None:
    """Says what the seed stands for, and the journal entries that count."""
    for name, value in vars(world.scenario).items():
        say(f"{name}: {value}")
    log = world.server.logs.get(world.topology.events_log)
    for line in journal(log) if log is not None else ():
        rows = str(line.rows)
        say(f"{line.at:11.4f} {json.loads(line.token)['process']:<16} {line.kind} {line.data} {rows[:400]}")


@contextmanager
def seeded_ids(seed: int) -> Iterator[None]:
    """Meanwhile ids that are drawn at random are the seed's."""
    before, rng = secrets.token_hex, Random(f"ids {seed}")
    secrets.token_hex = lambda nbytes=32: rng.randbytes(nbytes or 32).hex()
    try:
        yield
    finally:
        secrets.token_hex = before


@contextmanager
def small_parts() -> Iterator[None]:
    """Meanwhile messages of a few bytes are split as large ones are."""
    before = codec.SINGLE_PART_BYTES, codec.split.__defaults__
    codec.SINGLE_PART_BYTES = SINGLE_PART_BYTES
    codec.split.__defaults__ = (b"", PART_BYTES)
    try:
        yield
    finally:
        codec.SINGLE_PART_BYTES, codec.split.__defaults__ = before
