"""Logs read forward once, on demand, and what they hold of a ledger's versions."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import cast

from coordinator.ledger import Ledger, Round
from coordinator.reading import read_log
from coordinator.shelf import Broken, Message, Shelf
from shared.broker.port import FIRST, Broker, Part
from shared.errors import JournalError
from shared.weights import Buffer


class NotRecorded(JournalError):
    """Raised when a log does not hold what was asked for, which need not be there (yet)."""


class Trimmed(NotRecorded):
    """Raised when retention has dropped what was asked for."""


class Damaged(NotRecorded):
    """Raised when a log does not hold what was once written to it, and retention has not dropped it."""


class Tape:
    """A log from `start` to where it ends at the first look; what is read may be put on the tape's shelf.

    `first` is the offset of its first part, `position` that of the last one read.
    """

    def __init__(self, broker: Broker, exchange: str, federation: str, start: int, folder: Path) -> None:
        parts = read_log(broker, exchange, federation, start)
        self._parts = cast("Generator[Part, None, None]", parts)
        self.shelf = Shelf(folder)
        self.first: int | None = None
        self.position = -1

    def next(self) -> Part | None:
        """The next part; None at the end."""
        part = next(self._parts, None)
        if part is not None:
            self.position = part.offset
            self.first = part.offset if self.first is None else self.first
        return part

    def close(self) -> None:
        self._parts.close()
        self.shelf.close()


class Snapshots:
    """Messages that carry a version's digest, in order of versions: round tasks, or optimiser states.

    Deposed leaders may have published others, and a crash the same ones twice. A version that changed no bit
    of the one before has no round task of its own; it may have an optimiser state of its own, under the same
    digest, behind the other's.
    """

    def __init__(
        self, tape: Tape, ledger: Ledger, what: str, kind: str, place: Callable[[Round], int], has_last: bool
    ) -> None:
        """`what` they are, for people; `kind`: the type of their parts; `place`: where a round says that its
        parent's lies, or something before it; `has_last`: the last version's must be there too.
        """
        self._tape = tape
        self._ledger = ledger
        self._what = what
        self._kind = kind
        self._place = place
        self._has_last = has_last
        self._held: dict[int, Message] = {}
        self._broken: dict[int, Broken] = {}
        self._nameless: list[Broken] = []
        self._untrimmed = False
        self._oldest: int | None = None
        self._newest = -1

    def of(self, version: int) -> Message:
        """A version's message; ask in ascending order. Only the version before it stays at hand too.

        Raises:
            NotRecorded: the log does not hold it: see its subclasses.
        """
        self._drop_before(version)
        while version not in self._held and self._newest <= version:
            part = self._tape.next()
            if part is None:
                break
            if part.kind == self._kind:
                self._take(part)
        for same in range(version, self._ledger.unchanged_since(version) - 1, -1):
            if same in self._held:
                return self._held[same]
        raise self._missing(version)

    def payload(self, message: Message) -> Buffer:
        """A message's payload, while it is at hand."""
        return self._tape.shelf.payload(message)

    def close(self) -> None:
        """Ends the reading; what was handed out is valid no more."""
        self._held.clear()
        self._tape.close()

    def _drop_before(self, version: int) -> None:
        first = self._ledger.unchanged_since(max(version - 1, 0))
        for old in [old for old in self._held if old < first]:
            self._tape.shelf.discard(self._held.pop(old))

    def _take(self, part: Part) -> None:
        taken = self._tape.shelf.take(part)
        if taken is None:
            return
        version = self._version_of(taken)
        if taken.header is not None and taken.header.get("version") == 0:
            self._untrimmed = True
        if version is not None:
            self._newest = version
            self._oldest = version if self._oldest is None else self._oldest
        if isinstance(taken, Message):
            if version is None:
                self._tape.shelf.discard(taken)
            else:
                self._held[version] = taken
        elif version is not None:
            self._broken[version] = taken
        elif taken.header is None:
            self._nameless.append(taken)

    def _version_of(self, taken: Message | Broken) -> int | None:
        """The version that a message is the next copy of; None if it is of none, or one that is at hand."""
        digest = taken.header.get("digest") if taken.header else None
        known = self._ledger.known_as.get(digest, ()) if isinstance(digest, str) else ()
        version = next((version for version in known if version >= self._newest), None)
        held = self._held.get(version) if version is not None else None
        if version is None or held is None:
            return version
        if isinstance(taken, Broken) or taken.sha256 == held.sha256 or version + 1 not in known:
            return None
        return version + 1

    def _missing(self, version: int) -> NotRecorded:
        what = f"the {self._what} of version {version}"
        near = self._oldest is None or version >= self._oldest - 1
        if version in self._broken or (self._nameless and near):
            broken = self._broken.get(version) or self._nameless.pop(0)
            return Damaged(f"{what} at offset {broken.offset} can't be read: {broken.reason}")
        if self._must_be_there(version):
            return Damaged(f"{what} is missing from the log")
        if self._oldest is None or version < self._oldest:
            return Trimmed(f"{what} is not in the log any more")
        return NotRecorded(f"{what} is not in the log")

    def _must_be_there(self, version: int) -> bool:
        """Whether the log goes back to before the version's place, and on to behind it."""
        following = self._ledger.versions.get(version + 1)
        place = self._place(following) if following else FIRST
        begins = self._tape.first
        reaches_back = (
            self._untrimmed
            or (self._oldest is not None and self._oldest < version)
            or (place > FIRST and begins is not None and begins <= place)
        )
        return reaches_back and (following is not None or self._has_last)
