"""The state store in Redis: one hash a section, a list, and the lease as a key that expires by itself.

Every change runs as one script at the server, so that it is fenced by the lease and made whole or not at all.
A command that is repeated after a lost connection does no harm: leases and sections are set, not counted,
and `history_from` tells a repeated round from a new one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from coordinator.state.port import SECTIONS, Changes, Snapshot
from shared.errors import ConfigError, StateUnreachable
from shared.topology import check_slug

CONNECT_TIMEOUT_S = 1.0
ANSWER_TIMEOUT_S = 1.0
RETRIES = 1
RETRY_PAUSE_S = 0.1

#: KEYS: lease. ARGV: token, milliseconds, the holder to take it from ("" for none).
LEASE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] and holder ~= ARGV[3] then
    return holder
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
"""

#: KEYS: lease. ARGV: token.
RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
    redis.call('DEL', KEYS[1])
end
"""

#: KEYS: lease, history, all sections. ARGV: token, the changes as JSON. Fields are set one by one, for a
#: call from Lua takes some thousand arguments at most.
WRITE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return 0
end
local changes = cjson.decode(ARGV[2])
if redis.call('LLEN', KEYS[2]) < changes.history_from then
    return 0
end
for _, key in ipairs(changes.emptied) do
    redis.call('DEL', key)
end
for key, entries in pairs(changes.entries) do
    for field, value in pairs(entries) do
        redis.call('HSET', key, field, value)
    end
end
if changes.history_from == 0 then
    redis.call('DEL', KEYS[2])
elseif changes.history_from > 0 then
    redis.call('LTRIM', KEYS[2], 0, changes.history_from - 1)
end
for _, round in ipairs(changes.history) do
    redis.call('RPUSH', KEYS[2], round)
end
return 1
"""


class RedisStore:
    """One federation's state at `url`; connects when first used.

    Raises:
        ConfigError: the URL is none of Redis, or the federation's name no slug.
    """

    def __init__(self, url: str, federation: str) -> None:
        prefix = f"warren:{check_slug('federation', federation)}:"
        self._lease_key, self._history_key = prefix + "lease", prefix + "history"
        self._sections = {section: prefix + section for section in SECTIONS}
        self._keys = [self._lease_key, self._history_key, *self._sections.values()]
        self._client = _client(url)
        self._where = _where(self._client)
        self._lease = self._client.register_script(LEASE)
        self._release = self._client.register_script(RELEASE)
        self._write = self._client.register_script(WRITE)

    def lease(self, token: str, ttl_s: float, instead_of: str | None = None) -> str:
        with self._reaching():
            milliseconds = max(1, round(ttl_s * 1000))
            return str(self._lease([self._lease_key], [token, milliseconds, instead_of or ""]))

    def release(self, token: str) -> None:
        with self._reaching():
            self._release([self._lease_key], [token])

    def write(self, token: str, changes: Changes) -> bool:
        with self._reaching():
            arguments = [token, json.dumps(self._script_changes(changes))]
            return bool(self._write(self._keys, arguments))

    def read(self) -> Snapshot:
        with self._reaching(), self._client.pipeline(transaction=True) as pipeline:
            for key in self._sections.values():
                pipeline.hgetall(key)
            pipeline.lrange(self._history_key, 0, -1)
            pipeline.get(self._lease_key)
            *sections, history, leader = pipeline.execute()
        return Snapshot(dict(zip(SECTIONS, sections, strict=True)), history, leader)

    def clear(self) -> None:
        with self._reaching():
            self._client.delete(*self._keys)

    def close(self) -> None:
        self._client.close()

    def _script_changes(self, changes: Changes) -> dict[str, Any]:
        entries: dict[str, dict[str, str]] = {}
        for sections in (changes.replace, changes.merge):
            for section, fields in sections.items():
                entries.setdefault(self._sections[section], {}).update(fields)
        return {
            "emptied": [self._sections[section] for section in changes.replace],
            "entries": entries,
            "history": list(changes.history),
            "history_from": -1 if changes.history_from is None else changes.history_from,
        }

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except RedisError as error:
            reason = str(error).rstrip(".") or type(error).__name__
            answered = isinstance(error, ResponseError)
            advice = "see to its memory, disk and role" if answered else "start it, or mend the state URL"
            raise StateUnreachable(
                f"Redis at {self._where} does not do its work ({reason}): {advice}"
            ) from error


def _client(url: str) -> Redis:
    retry = Retry(ConstantBackoff(RETRY_PAUSE_S), RETRIES)
    try:
        return Redis.from_url(
            url,
            decode_responses=True,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=ANSWER_TIMEOUT_S,
            retry=retry,
        )
    except ValueError:
        # Neither the URL nor what the parser says of it is shown: a password may be in there.
        raise ConfigError("the state URL is no address of Redis: write it as redis://HOST:PORT/0") from None


def _where(client: Redis) -> str:
    settings = client.connection_pool.connection_kwargs
    return str(settings.get("path") or f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}")
