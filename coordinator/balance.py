"""A login's balance: what its orders allow it to write to the results log, and what came. Pure."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from shared.codec import SINGLE_PART_BYTES

#: What a login may send whatever it was asked, in bytes; no more than this share of a small log.
FREE_BYTES = 4 << 20
FREE_SHARE = 16
#: What an answer may have beside the model's payload, and what a part takes beside its body, in bytes.
HEADER_BYTES = SINGLE_PART_BYTES
PART_COST = 1024
#: How often each order may be answered; answers beyond the first few may take this share of the log at most.
ANSWERS = 8
FEW = 3
SHARE = 8
#: Sooner it is only said: every order answered so often, and this share of the log on top.
SAID_ANSWERS = 2
SAID_SHARE = 20
#: While no model is known, an answer may be this share of the log: larger ones are refused (`retention.py`).
UNKNOWN_SHARE = 6


@dataclass
class Slot:
    """The orders of one version to a login, and the bytes that came from it since."""

    version: int
    orders: int = 0
    came: int = 0


@dataclass(eq=False)
class Account:
    """A login's balance: its last slots, each of a version that asked it, and their sums.

    `sent` and `messages` are all that came from it, `dropped` the whole messages among them that were not
    read, `said_at` what was sent when something was last said of it.
    """

    login: str
    slots: deque[Slot]
    orders: int = 0
    came: int = 0
    flooding: bool = False
    sent: int = 0
    messages: int = 0
    dropped: int = 0
    dropped_bytes: int = 0
    said_at: int = 0
    senders: Counter[str] = field(default_factory=Counter)

    def credit(self, version: int, orders: int) -> None:
        """Adds a version's orders; if that is one version too many, the oldest goes with what came then."""
        if not self.slots or self.slots[-1].version != version:
            if len(self.slots) == self.slots.maxlen:
                self.orders -= self.slots[0].orders
                self.came -= self.slots[0].came
            self.slots.append(Slot(version))
        self.slots[-1].orders += orders
        self.orders += orders

    def charge(self, nbytes: int) -> None:
        """Adds bytes that came; a negative number is an allowance."""
        if not self.slots:
            self.slots.append(Slot(-1))
        self.slots[-1].came += nbytes
        self.came += nbytes


@dataclass
class Bounds:
    """What balances may come to, in bytes, by the log's `max_bytes` and, once it is known, the model's."""

    max_bytes: int
    payload_bytes: int | None = None

    @property
    def answer(self) -> int:
        """The largest answer."""
        if self.payload_bytes is None:
            return self.max_bytes // UNKNOWN_SHARE
        return self.payload_bytes + HEADER_BYTES

    def allowed(self, account: Account) -> int:
        """What may come for the orders that the account has; beyond that is a flood."""
        asked = account.orders * self.answer
        return self._free + FEW * asked + min((ANSWERS - FEW) * asked, self.max_bytes // SHARE)

    def much(self, account: Account) -> int:
        """What is said to be too much, since it makes the log lose older updates sooner."""
        return self._free + SAID_ANSWERS * account.orders * self.answer + self.max_bytes // SAID_SHARE

    @property
    def _free(self) -> int:
        return min(FREE_BYTES, self.max_bytes // FREE_SHARE)
