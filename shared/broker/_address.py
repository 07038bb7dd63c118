"""A broker's URL that names several hosts, taken apart: one URL for each."""

from __future__ import annotations

import re

from shared.errors import ConfigError

_URL = re.compile(r"(amqps?://)(?:([^/?#]*)@)?([^@/?#]*)([/?#][^@]*)?", re.DOTALL)
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[^\s:\[\]]+)(?::([0-9]+))?")
_FORM = "give amqp://user:password@host:port/vhost, with special characters as %XX"


def each_host(url: str) -> tuple[str, ...]:
    """A URL of one host for each host of `amqp://user:password@h1:5672,h2:5672/vhost`, in that order.

    Raises:
        ConfigError: it is malformed. Nothing that may be a piece of the password is repeated.
    """
    found = _URL.fullmatch(url)
    if found is None or not found[3]:
        raise _malformed(_FORM)
    scheme, login, hosts, rest = found[1], found[2], found[3].split(","), found[4] or ""
    if login is None and not all(map(_HOST.fullmatch, hosts)):
        raise _malformed(_FORM)  # this may be user:password
    for host in hosts:
        _check(host)
    user = "" if login is None else f"{login}@"
    return tuple(f"{scheme}{user}{host}{rest}" for host in dict.fromkeys(hosts))


def _check(host: str) -> None:
    found = _HOST.fullmatch(host)
    if not host:
        raise _malformed("a host is missing before or behind a comma")
    if found is None:
        raise _malformed(f"{host!r} is neither a host nor host:port")
    if found[1] and not 0 < int(found[1]) < 65_536:
        raise _malformed(f"the port of {host!r} is none from 1 to 65535")


def _malformed(what: str) -> ConfigError:
    return ConfigError(f"the broker's URL is malformed: {what}")
