"""What the journal says: which of its entries count, and the story that they tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.wire import Key, Message, assignment_id, rows_of


@dataclass(frozen=True)
class Entry:
    """A journal entry that counts."""

    kind: str
    offset: int
    token: str
    number: int
    data: dict[str, Any]
    rows: Any

    def to_json(self) -> dict[str, Any]:
        return vars(self)


@dataclass(frozen=True)
class Order:
    """An assignment that was issued; what lies in the results up to the offset `after` was judged before."""

    id: str
    work: str
    client: str
    round: int
    version: int
    digest: str
    turn: int
    after: int


@dataclass(frozen=True)
class Counted:
    """An update that a closing counts."""

    client: str
    id: str
    version: int
    examples: int
    offset: int
    key: Key
    head: str


@dataclass(frozen=True)
class Closing:
    """How a round ended: on which version, with which updates, having read the results up to `decided`."""

    round: int
    version: int
    decided: int
    skipped: bool
    counts: dict[str, int]
    rows: tuple[Counted, ...]


@dataclass(frozen=True)
class Version:
    """A version that was made, of the closing with the index `closing`."""

    version: int
    digest: str
    parent: str
    closing: int


@dataclass
class Story:
    """The journal's entries, told.

    `changes`: what the last entry was when another leader took over before the end, and how often; `losses`:
    how often a leader found that the broker had lost the end of the results log.
    """

    entries: list[Entry]
    run: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    changes: Counter[str] = field(default_factory=Counter)
    losses: int = 0
    orders: dict[str, Order] = field(default_factory=dict)
    closings: list[Closing] = field(default_factory=list)
    versions: list[Version] = field(default_factory=list)
    code: int | None = None
    round: int = 0
    version: int = -1
    digest: str = ""

    @property
    def decided(self) -> int:
        return self.closings[-1].decided if self.closings else -1


def counting(messages: Iterable[Message]) -> list[Entry]:
    """The entries that count.

    A leader entry names the token of the leader before it and the number that this one's next entry would
    have; it counts if the journal stands there, and nobody who was deposed leads again. Of a leader's other
    entries each number counts once, in the numbers' order, and only until another leads.
    """
    counted: list[Entry] = []
    waiting: dict[int, Entry] = {}
    leader, following = "", 0
    leaders = {""}
    for message in messages:
        entry = _entry(message)
        if entry.kind == "leader":
            if entry.data["after"] == [leader, following] and entry.token not in leaders:
                counted.append(entry)
                waiting.clear()
                leader, following = entry.token, entry.number + 1
                leaders.add(leader)
        elif entry.token == leader and entry.number >= following:
            waiting.setdefault(entry.number, entry)
        while following in waiting:
            counted.append(waiting.pop(following))
            following += 1
    return counted


def _entry(message: Message) -> Entry:
    header = message.header
    return Entry(
        header["kind"], message.starts[0], header["token"], header["number"], header["data"], rows_of(message)
    )


def tell(entries: Iterable[Entry]) -> Story:
    """The story of the entries that count."""
    story = Story(list(entries))
    last = ""
    for entry in story.entries:
        if entry.kind != "leader":
            last = entry.kind
        elif last and story.code is None:
            story.changes[last] += 1
        told = _TELLERS.get(entry.kind)
        if told is not None:
            told(story, entry)
    return story


def _started(story: Story, entry: Entry) -> None:
    story.run, story.config = entry.data["run"], entry.data["config"]


def _opened(story: Story, entry: Entry) -> None:
    story.round = entry.data["round"]
    for client in entry.rows:
        _issue(story, "train", client, 0)
    for client in entry.data["evaluators"]:
        _issue(story, "evaluate", client, 0)


def _assigned(story: Story, entry: Entry) -> None:
    for client, turn, _ in entry.rows:
        _issue(story, entry.data["work"], client, turn)


def _issue(story: Story, work: str, client: str, turn: int) -> None:
    id_ = assignment_id(work, client, story.round, story.digest, turn)
    order = Order(id_, work, client, story.round, story.version, story.digest, turn, story.decided)
    story.orders.setdefault(id_, order)


def _lost(story: Story, entry: Entry) -> None:
    story.losses += 1


def _closing(story: Story, entry: Entry) -> None:
    data = entry.data
    rows = tuple(
        Counted(client, id_, version, examples, offset, (sender, message_id), head)
        for client, id_, version, examples, offset, message_id, sender, head in entry.rows[0]
    )
    closing = Closing(story.round, story.version, data["decided"], data["skipped"], data["counts"], rows)
    story.closings.append(closing)


def _closed(story: Story, entry: Entry) -> None:
    data = entry.data
    if not data["skipped"]:
        made = Version(data["version"], data["digest"], data["parent"], len(story.closings) - 1)
        story.versions.append(made)
    story.version, story.digest = data["version"], data["digest"]


def _finished(story: Story, entry: Entry) -> None:
    story.code = entry.data["code"]


_TELLERS = {
    "federation-started": _started,
    "round-opened": _opened,
    "assigned": _assigned,
    "results-lost": _lost,
    "round-closing": _closing,
    "round-closed": _closed,
    "finished": _finished,
}
