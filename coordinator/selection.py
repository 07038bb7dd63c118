"""Who trains next: pure functions of seed, round number and who is there."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Selection:
    """How large a cohort is: all who are there, or at random a fraction or a fixed size of them.

    `over_select` asks that much more than needed (1.3: 30 % more), so that a round can close early.
    """

    fraction: float | None = None
    size: int | None = None
    over_select: float = 1.0

    def needed(self, available: int, minimum: int) -> int:
        """Clients that a round wants, of those available: max(floor(C·K), 1), McMahan et al. 2017, alg. 1.

        Never fewer than the `minimum` without which it can't close.
        """
        wanted = available
        if self.size is not None:
            wanted = self.size
        elif self.fraction is not None:
            wanted = math.floor(self.fraction * available)
        return min(max(wanted, minimum, 1), available)

    def asked(self, available: int, minimum: int) -> int:
        """Clients that are assigned so that the needed ones answer."""
        return min(math.ceil(self.needed(available, minimum) * self.over_select), available)

    def target(self, available: int, minimum: int) -> int | None:
        """Updates that close a round early; None: only the whole cohort's do."""
        return self.needed(available, minimum) if self.over_select > 1 else None


def ranking(clients: Iterable[str], seed: int, draw: int) -> list[str]:
    """The clients in the random order of this draw; the first m of it are a uniform sample of m."""
    prefix = f"{seed}:{draw}:".encode()
    return sorted(
        clients, key=lambda client: hashlib.blake2b(prefix + client.encode(), digest_size=16).digest()
    )


def cohort(
    clients: Collection[str], selection: Selection, minimum: int, seed: int, round_number: int
) -> tuple[str, ...]:
    """The round's cohort, sorted by name."""
    asked = selection.asked(len(clients), minimum)
    if asked == len(clients):
        return tuple(sorted(clients))
    return tuple(sorted(ranking(clients, seed, round_number)[:asked]))
