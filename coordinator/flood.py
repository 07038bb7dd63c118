"""Floods: logins that write far more to the results log than their orders ask for. No I/O, no clock.

Each login has a *balance*: what its site's orders of the last versions allow, against what has come from it.
Sending again after lost connections, replicas and orders that are asked twice are within it. One over its
balance is *flooding*: what it sends is dropped unread, until new orders allow more. So nobody is shut out for
ever, and an honest answer that is dropped meanwhile is asked for again at its deadline.

Where logins aren't held to their sites (security.attest is off) any of them may answer for any site: then all
are weighed together, and what is too much is only said, for honest answers can't be told from the rest.

Decisions follow from the journal's entries and the results log's parts, in their order: a coordinator that
reads the log again knows no fewer orders, and drops no more. Not for several threads.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from coordinator.balance import FEW, PART_COST, Account, Bounds
from coordinator.facts import Entry
from coordinator.output import megabytes
from shared.broker.port import Part
from shared.messages import Mark

#: Logins that are told apart; a broker's own are few.
MAX_LOGINS = 10_000
#: How many versions' orders count, beyond `staleness.max`.
VERSIONS = 2
#: The account of all logins together.
ALL = ""

#: Why a dropped message is refused.
REFUSAL = "its login floods the results log"

#: The commands that shut a login out.
CutOff = Callable[[str], list[str]]


class Floods:
    """All logins' balances; `own` is the coordinator's login, whose marks are weighed by nobody.

    `entry` takes every journal entry that counts, `take` every part of the results log.
    """

    def __init__(self, max_bytes: int, max_staleness: int, attest: bool, cut_off: CutOff) -> None:
        self.bounds = Bounds(max_bytes)
        self._versions = max_staleness + VERSIONS
        self._attest = attest
        self._cut_off = cut_off
        self._accounts: dict[str, Account] = {}
        self._version = -1
        self._last: Counter[str] = Counter()
        self._unsaid: list[Account] = []
        self.own: str | None = None

    # --- what is allowed

    def entry(self, entry: Entry) -> None:
        """Takes in what a journal entry orders."""
        if entry.kind == "round-closed":
            self._version = entry.data["version"]
        elif entry.kind == "round-opened":
            self._ordered([*entry.rows, *entry.data["evaluators"]])
        elif entry.kind == "assigned":
            self._ordered(client for client, *_ in entry.rows)
        elif entry.kind == "leader":
            # It may publish the last orders once more, and they may be answered once more.
            self._credit(self._last)

    def _ordered(self, clients: Iterable[str]) -> None:
        self._last = Counter(client.partition("/")[0] if self._attest else ALL for client in clients)
        self._credit(self._last)

    def _credit(self, orders: Counter[str]) -> None:
        for login, count in orders.items():
            account = self._account(login)
            account.credit(self._version, count)
            # Whatever came before it, an order has room for its answers.
            least = FEW * count * self.bounds.answer
            account.charge(-max(account.came + least - self.bounds.allowed(account), 0))
            account.flooding = False

    # --- what comes

    def take(self, part: Part) -> bool:
        """Takes in a part; returns whether it is to be read at all."""
        if part.kind == Mark.KIND and part.user_id == self.own:
            return True
        account = self._account(part.user_id if self._attest else ALL)
        nbytes = len(part.body) + PART_COST
        account.sent += nbytes
        account.messages += part.part == 0
        if not account.flooding:
            account.charge(nbytes)
            account.flooding = self._attest and account.came > self.bounds.allowed(account)
        if not self._attest:
            account.senders[part.user_id if len(account.senders) < MAX_LOGINS else ALL] += nbytes
        if account.flooding or account.came > self.bounds.much(account):
            self._note(account)
        if account.flooding:
            account.dropped += part.part == part.parts - 1
            account.dropped_bytes += nbytes
        return not account.flooding

    def _account(self, login: str) -> Account:
        account = self._accounts.get(login)
        if account is None:
            login = login if len(self._accounts) < MAX_LOGINS else ALL
            account = self._accounts.setdefault(login, Account(login, deque(maxlen=self._versions)))
        return account

    # --- what is said

    def _note(self, account: Account) -> None:
        """Is to be said now, and again at each doubling."""
        if account.sent >= 2 * account.said_at:
            account.said_at = account.sent
            if account not in self._unsaid:
                self._unsaid.append(account)

    def news(self) -> Iterator[str]:
        """What an operator ought to know by now, a sentence a login."""
        while self._unsaid:
            yield self._text(self._unsaid.pop(0))

    def shown(self) -> dict[str, dict[str, Any]]:
        """All that was said something of, by login, for `status`."""
        return {
            self._named(account): {
                "flooding": account.flooding,
                "sent": account.sent,
                "messages": account.messages,
                "dropped": account.dropped,
                "dropped_bytes": account.dropped_bytes,
                "to_cut_it_off": self._cut_off(self._named(account)),
            }
            for account in self._accounts.values()
            if account.said_at
        }

    def _named(self, account: Account) -> str:
        """The account's login; of all together the one that sent most."""
        return account.login if self._attest else account.senders.most_common(1)[0][0]

    def _text(self, account: Account) -> str:
        name = self._named(account)
        share = 100 * account.sent / self.bounds.max_bytes
        sent = (
            f"{megabytes(account.sent)} in {account.messages} messages, {share:.1f} % of log.max_bytes, "
            f"where its last orders ask for {megabytes(account.orders * self.bounds.answer)}"
        )
        how = f"to cut it off: {'; '.join(self._cut_off(name))}"
        if not self._attest:
            return (
                f"the results log was sent {sent}, most by login {name!r}; nothing is dropped, since "
                f"security.attest is off and honest answers can't be told from the rest; {how}"
            )
        if account.flooding:
            return (
                f"login {name!r} floods the results log and is not read until its next order: {sent}; {how}"
            )
        return f"login {name!r} sends more than it was asked for, and older updates make room: {sent}; {how}"


def unnamed(login: str) -> list[str]:
    """For a broker that nobody knows the commands of."""
    return [f"shut login {login!r} out at the broker"]
