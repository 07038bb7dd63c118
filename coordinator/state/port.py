"""What the coordinator asks of a state store; `redis.py` and `sqlite.py` are the two that answer.

The store is a fast index for people (`status`, `watch`) and for standbys. It decides nothing: if it is
empty or behind, the coordinator writes it again from the logs. Workers never touch it.

A *section* is a map of texts: `round` (the open round), `assigned` (client → assignment id), `accepted`
(client → offset), `clients` and `workers` (who was seen; each value JSON with a time), `refused` (reason →
JSON of the count and some offsets), `floods` (login → JSON: what it sent, how to cut it off). `history` is a
list of closed rounds, oldest first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

Section = Literal["round", "assigned", "accepted", "clients", "workers", "refused", "floods"]
SECTIONS: tuple[Section, ...] = get_args(Section)


@dataclass(frozen=True)
class Changes:
    """One write: sections to set anew, entries to merge into sections, rounds to append to the history.

    `history_from` cuts the history to that many rounds before appending (0 rewrites it), so that a repeated
    write does not repeat rounds; None appends to what is there. A history that has fewer was lost with all
    the rest: then nothing is written.
    """

    replace: Mapping[Section, Mapping[str, str]] = field(default_factory=dict)
    merge: Mapping[Section, Mapping[str, str]] = field(default_factory=dict)
    history: Sequence[str] = ()
    history_from: int | None = None


@dataclass(frozen=True)
class Snapshot:
    """All that the store holds of one federation, read at once."""

    sections: Mapping[Section, Mapping[str, str]]
    history: Sequence[str]
    leader: str | None


class StateStore(Protocol):
    """One federation's state. Usable from any thread.

    Every method raises StateUnreachable when the store does not answer.
    """

    def lease(self, token: str, ttl_s: float, instead_of: str | None = None) -> str:
        """Takes or renews the lease for `ttl_s`; returns the token that holds it now.

        `instead_of`: a holder that is known to be dead; its lease is taken over if it still holds it.
        """

    def release(self, token: str) -> None:
        """Gives the lease back, if `token` holds it."""

    def write(self, token: str, changes: Changes) -> bool:
        """Makes the changes, all or none, if `token` holds the lease and the history is as long as they
        think; returns whether it did."""

    def read(self) -> Snapshot:
        """The whole state."""

    def clear(self) -> None:
        """Removes everything of this federation, the lease too."""

    def close(self) -> None:
        """Gives up the connection."""
