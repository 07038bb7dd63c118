"""Calls of `publish` on their way: what is still to be sent, and what was sent and not confirmed yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from shared.broker._amqp import Channel
from shared.broker.port import Publication
from shared.errors import RefusedError

#: How much may be sent and not confirmed yet: with 32 MiB from each of ten workers a round takes a tenth
#: longer, since the processor's caches hold nothing any more of what passes; with less, a long line idles.
WINDOW_BYTES = 8 * 1024 * 1024
WINDOW_PARTS = 4096
#: AMQP's bound for names, keys and ids.
SHORT_TEXT_BYTES = 255


@dataclass(eq=False)
class Job:
    """One call of `publish`, which `then` follows. `unsent` and `returned` hold indices of publications."""

    publications: Sequence[Publication]
    then: Callable[[], None] | None = None
    done: Future[None] = field(default_factory=Future)
    unsent: deque[int] = field(default_factory=deque)
    tries: int = 0
    returned: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.unsent.extend(range(len(self.publications)))

    def send_again(self, missing: Iterable[int]) -> None:
        """These are to be sent again. A message of which the broker has taken a part behind a missing one is
        sent again whole: readers put parts together in their order.
        """
        unsent = {*missing, *self.unsent}
        first = {_message(self.publications[index]): index for index in sorted(unsent, reverse=True)}
        torn = {
            _message(publication)
            for index, publication in enumerate(self.publications)
            if index not in unsent and index > first.get(_message(publication), index)
        }
        unsent |= {index for index, each in enumerate(self.publications) if _message(each) in torn}
        self.unsent = deque(sorted(unsent))


class Line:
    """A channel with confirms on, and what was sent on it and not confirmed yet."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.unconfirmed: dict[int, tuple[int, int]] = {}
        self._nbytes = 0
        self._tag = 0

    def has_room(self, nbytes: int) -> bool:
        """Whether a part of so many bytes may be sent now; alone, any may."""
        waiting = len(self.unconfirmed)
        return not waiting or (waiting < WINDOW_PARTS and self._nbytes + nbytes <= WINDOW_BYTES)

    def sent(self, index: int, nbytes: int) -> None:
        """Notes a part under the tag that its confirm will have."""
        self._tag += 1
        self._nbytes += nbytes
        self.unconfirmed[self._tag] = index, nbytes

    @property
    def under_way(self) -> int:
        """Bytes of the part that is to be confirmed next."""
        return next(iter(self.unconfirmed.values()))[1] if self.unconfirmed else 0

    def settle(self, tag: int, multiple: bool) -> None:
        """Strikes out what a confirm is about."""
        tags = [each for each in self.unconfirmed if each <= tag] if multiple else [tag]
        for each in tags:
            self._nbytes -= self.unconfirmed.pop(each)[1]


def _message(publication: Publication) -> tuple[str, str, str]:
    """What the parts of one message have in common, in one log."""
    return publication.exchange, publication.key, publication.part.message_id


def check_names(publications: Sequence[Publication]) -> None:
    """Whether AMQP has room for the names.

    Raises:
        RefusedError: one is too long.
    """
    for publication in publications:
        part = publication.part
        for text in (publication.exchange, publication.key, part.message_id, part.kind):
            if len(text.encode()) > SHORT_TEXT_BYTES:
                raise RefusedError(f"{text[:40]!r}… is too long: names have at most {SHORT_TEXT_BYTES} bytes")
