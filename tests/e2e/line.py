"""A bad TCP line in front of a service: it delays, throttles, freezes, and breaks at any byte."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping
from math import inf
from typing import Literal

from tests.services import free_port

Direction = Literal["up", "down"]
CHUNK_BYTES = 64 * 1024
#: What a long line holds under way, in chunks.
UNDER_WAY = 64
#: A throttled line lets through what it may in so many pieces a second.
PIECES_A_SECOND = 50


class Line:
    """Forwards a port of its own to `port` on this machine; "up" is towards the service.

    `delay_s`: one way. `bytes_per_s`: in each direction, all connections together. `cuts`: positions in
    bytes that passed in a direction since the line was made; at each one every connection breaks: what is
    before it has passed, what is behind it is lost. Nothing listens before `open`. Usable from any thread.
    """

    def __init__(
        self,
        port: int,
        *,
        delay_s: float = 0.0,
        bytes_per_s: float = 0.0,
        cuts: Mapping[Direction, Iterable[int]] | None = None,
    ) -> None:
        self.port = free_port()
        self.passed: dict[Direction, int] = {"up": 0, "down": 0}
        self.connections = 0
        self.breaks = 0
        self.delay_s = delay_s
        self._target = port
        self._bytes_per_s = bytes_per_s
        self._cuts = {way: sorted(positions) for way, positions in (cuts or {}).items()}
        self._free_at: dict[Direction, float] = {"up": 0.0, "down": 0.0}
        self._links: set[_Link] = set()
        self._connecting = 0
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="line", daemon=True)
        self._thread.start()

    def open(self) -> None:
        """Begins to listen."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    def cut(self) -> None:
        """Breaks the connections there are."""
        self._loop.call_soon_threadsafe(self.break_now)

    def vanish(self) -> None:
        """The clients' ends of the connections there are break, and the service is not told."""
        self._loop.call_soon_threadsafe(self._vanish)

    def freeze(self, seconds: float = inf) -> None:
        """For a while nothing passes on the connections there are, and they stay open. New ones are fine."""
        self._loop.call_soon_threadsafe(self._freeze, seconds)

    def close(self) -> None:
        """Breaks everything, and ends its thread."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _vanish(self) -> None:
        for link in self._links:
            link.flowing.clear()
            link.near.transport.abort()

    def _freeze(self, seconds: float) -> None:
        for link in self._links:
            link.flowing.clear()
            if seconds < inf:
                self._loop.call_later(seconds, link.flowing.set)

    def break_now(self) -> None:
        """`cut`, on the line's thread."""
        self.breaks += 1
        for link in tuple(self._links):
            link.abort()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        while self._connecting or self._links:
            self.break_now()
            await asyncio.sleep(0.01)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connecting += 1
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        finally:
            self._connecting -= 1
        self.connections += 1
        link = _Link(self, writer, far_writer)
        self._links.add(link)
        ways = (link.carry("up", reader, far_writer), link.carry("down", far_reader, writer))
        await asyncio.wait([asyncio.ensure_future(way) for way in ways])
        self._links.discard(link)

    async def admit(self, way: Direction, nbytes: int) -> tuple[int, bool]:
        """Waits until some of so many bytes may pass; returns how many, and whether the line breaks then."""
        if self._bytes_per_s:
            nbytes = min(nbytes, max(int(self._bytes_per_s / PIECES_A_SECOND), 1))
            start = max(self._loop.time(), self._free_at[way])
            self._free_at[way] = start + nbytes / self._bytes_per_s
            await asyncio.sleep(self._free_at[way] - self._loop.time())
        cuts = self._cuts.get(way)
        left = cuts[0] - self.passed[way] if cuts else nbytes + 1
        self.passed[way] += min(nbytes, left)
        if nbytes < left:
            return nbytes, False
        del self._cuts[way][0]
        return left, True


class _Link:
    """One connection through a line, with an end here and one at the service. Of the line's thread only."""

    def __init__(self, line: Line, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.near = near
        self._far = far
        self._line = line
        for end in (near, far):
            end.transport.set_write_buffer_limits(0)  # `drain` then waits until all is out

    def abort(self) -> None:
        self.flowing.set()
        for end in (self.near, self._far):
            end.transport.abort()

    async def carry(self, way: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Passes on what comes, after the line's delay, until either end is gone; then so is the other."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(UNDER_WAY)
        taking = asyncio.ensure_future(self._take(reader, under_way))
        try:
            while data := await self._arrived(under_way):
                await self._pass_on(way, data, writer)
        except ConnectionError:
            pass  # the end that it was for is gone
        finally:
            taking.cancel()
            self.abort()

    async def _take(
        self, reader: asyncio.StreamReader, under_way: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        data = b"-"
        while data:
            try:
                data = await reader.read(CHUNK_BYTES)
            except ConnectionError:
                data = b""
            await under_way.put((asyncio.get_running_loop().time() + self._line.delay_s, data))

    async def _arrived(self, under_way: asyncio.Queue[tuple[float, bytes]]) -> bytes:
        due, data = await under_way.get()
        await asyncio.sleep(due - asyncio.get_running_loop().time())
        await self.flowing.wait()  # also for an end: a frozen line doesn't tell
        return data

    async def _pass_on(self, way: Direction, data: bytes, writer: asyncio.StreamWriter) -> None:
        while data:
            await self.flowing.wait()
            count, breaks = await self._line.admit(way, len(data))
            try:
                writer.write(data[:count])
                await writer.drain()
            finally:
                if breaks:
                    self._line.break_now()
            data = data[count:]
