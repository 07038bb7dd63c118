"""Room for payloads on disk: one file without a name, parted into slots that are used again."""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from shared.errors import DiskFull
from shared.retry import retrying
from shared.weights import Buffer

#: The file grows in such steps, so that its one map is seldom made anew.
GROWTH_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in the file."""

    offset: int
    size: int


class Slots:
    """One descriptor and one memory map, however many slots are taken. Not for several threads.

    What finds no room on the disk waits for it, until `stop` is set.
    """

    def __init__(self, folder: Path, stop: threading.Event | None = None) -> None:
        self._folder = folder
        self._stop = stop or threading.Event()
        self._fd = -1
        self._end = 0
        self._size = 0
        self._free: dict[int, list[Slot]] = {}
        self._map: mmap.mmap | None = None

    def take(self, nbytes: int) -> Slot:
        """A slot of at least so many bytes; one of that size which was given back, if there is one."""
        size = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        free = self._free.get(size)
        if free:
            return free.pop()
        slot = Slot(self._end, size)
        self._end += size
        return slot

    def give_back(self, slot: Slot) -> None:
        """The slot may be used again; views of it are valid no more."""
        self._free.setdefault(slot.size, []).append(slot)

    def write(self, slot: Slot, at: int, data: Buffer) -> None:
        """Writes into a slot, `at` bytes behind its begin.

        Raises:
            DiskFull: it was told to stop before there was room.
        """
        try:
            self._write(slot, at, data)
        except DiskFull:
            retrying(DiskFull, stop=self._stop)(self._write, slot, at, data)

    def _write(self, slot: Slot, at: int, data: Buffer) -> None:
        try:
            self._put(slot, at, data)
        except OSError as error:
            raise DiskFull(
                f"updates can't be kept in {self._folder} ({error.strerror}): make room on its disk"
            ) from error

    def _put(self, slot: Slot, at: int, data: Buffer) -> None:
        self._reach(slot)
        view = memoryview(data)
        while len(view):
            written = os.pwrite(self._fd, view, slot.offset + at)
            view, at = view[written:], at + written

    def view(self, slot: Slot, nbytes: int) -> memoryview:
        """The first bytes of a slot, mapped."""
        self._reach(slot)
        if self._map is None or len(self._map) < slot.offset + nbytes:
            # Views of the map before keep it until they go.
            self._map = mmap.mmap(self._fd, self._size, access=mmap.ACCESS_READ)
        return memoryview(self._map)[slot.offset : slot.offset + nbytes]

    def close(self) -> None:
        self._map = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _reach(self, slot: Slot) -> None:
        """Makes the file, and makes it long enough: its end is a hole until it is written to."""
        if self._fd < 0:
            self._fd, path = tempfile.mkstemp(prefix="spool-", dir=self._folder)
            # Without a name: what is held ends with this process, and the log has it all.
            os.unlink(path)
        if slot.offset + slot.size > self._size:
            self._size = max(slot.offset + slot.size, self._size + GROWTH_BYTES)
            os.ftruncate(self._fd, self._size)
