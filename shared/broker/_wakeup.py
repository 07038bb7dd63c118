"""Wake-ups between processes: an empty datagram to each socket that waits for a queue.

The sockets lie in a temporary folder, for their paths must be short; the database knows which. A subfolder
for each queue name holds one socket per subscription. All of it is a courtesy: without it, subscriptions
find what is new when they poll.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import socket
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from shared.broker._database import Database

#: The longest path that is sure to be taken for a socket (macOS; Linux takes 4 more), and ours below the
#: temporary folder.
_MAX_PATH = 103
_OUR_PATH = len("/warren-bells-abcdefgh/0123456789/01234567")

log = logging.getLogger(__name__)


class Bell:
    """A subscription's socket. Rung by `Bells.ring`, from any process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        try:
            self.socket.bind(str(path))
        except OSError:
            self.socket.close()
            raise

    def quiet(self) -> None:
        """Takes in all that was rung."""
        with suppress(BlockingIOError):
            while True:
                self.socket.recv(1)

    def close(self) -> None:
        self.socket.close()
        self.path.unlink(missing_ok=True)


class Bells:
    """All bells of one broker folder."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._folder = self._stored()
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sender.setblocking(False)

    def hang(self, queue: str) -> Bell | None:
        """A new bell for a queue; None where there can be none."""
        try:
            return self._hang(queue)
        except OSError as error:
            log.info("no wake-ups for %s, polling instead: %s", queue, error)
            return None

    def ring(self, queues: Iterable[str]) -> None:
        """Wakes all who wait for one of these queues."""
        for queue in queues:
            for path in self._waiting(queue):
                self._wake(path)

    def close(self) -> None:
        """Clears away what dead processes left, and the folders if nobody else waits here."""
        base = self._stored()
        if base is not None:
            folders = _inside(base)
            for path in (path for folder in folders for path in _inside(folder)):
                self._wake(path)
            # Others may wait there, or be clearing it away at the same time.
            for folder in (*folders, base):
                with suppress(OSError):
                    folder.rmdir()
        self._sender.close()

    def _wake(self, path: Path) -> None:
        try:
            self._sender.sendto(b"", str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)  # its process is dead
        except BlockingIOError:
            pass  # it has not taken in the last one yet, and is going to
        except OSError as error:
            log.debug("no wake-up to %s: %s", path, error)

    def _hang(self, queue: str) -> Bell:
        folder = self._made() / _short(queue)
        folder.mkdir(mode=0o700, exist_ok=True)
        return Bell(folder / secrets.token_hex(4))

    def _waiting(self, queue: str) -> list[Path]:
        """The sockets to send to; looks up anew where they lie if they aren't where they were."""
        for _ in range(2):
            if self._folder is not None:
                with suppress(FileNotFoundError):
                    return list((self._folder / _short(queue)).iterdir())
            stored = self._stored()
            if stored == self._folder:
                break
            self._folder = stored
        return []

    def _made(self) -> Path:
        """The folder of all bells, made again if it is gone."""
        with self._database.writing() as db:
            folder = self._stored()
            if folder is None or not folder.is_dir():
                base = tempfile.gettempdir()
                base = base if len(base) + _OUR_PATH <= _MAX_PATH else "/tmp"
                folder = Path(tempfile.mkdtemp(prefix="warren-bells-", dir=base))
                db.execute("REPLACE INTO meta VALUES ('bells', ?)", (str(folder),))
            self._folder = folder
        return folder

    def _stored(self) -> Path | None:
        rows = self._database.read("SELECT value FROM meta WHERE key = 'bells'")
        return Path(rows[0][0]) if rows else None


def _inside(folder: Path) -> list[Path]:
    """What lies in a folder: nothing, if another process has cleared it away."""
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def _short(queue: str) -> str:
    return hashlib.sha256(queue.encode()).hexdigest()[:10]
