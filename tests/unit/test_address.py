"""A broker's URL with one host or several."""

from __future__ import annotations

import pytest

from shared.broker._address import each_host
from shared.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "urls"),
    [
        ("amqp://h", ["amqp://h"]),
        ("amqp://u:p@h:5672/%2F", ["amqp://u:p@h:5672/%2F"]),
        (
            "amqp://u:p@h1:5672,h2,h3:1/v?heartbeat=3",
            ["amqp://u:p@h1:5672/v?heartbeat=3", "amqp://u:p@h2/v?heartbeat=3", "amqp://u:p@h3:1/v?heartbeat=3"],
        ),
        ("amqps://u:p@[::1]:5671,[fe80::1%eth0]/v", ["amqps://u:p@[::1]:5671/v", "amqps://u:p@[fe80::1%eth0]/v"]),
        ("amqp://u:p@h1,h2,h1/", ["amqp://u:p@h1/", "amqp://u:p@h2/"]),
        ("amqp://u:p,q@x@h1,h2", ["amqp://u:p,q@x@h1", "amqp://u:p,q@x@h2"]),
    ],
)  # fmt: skip
def test_each_host_has_a_url(url: str, urls: list[str]) -> None:
    assert list(each_host(url)) == urls


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("amqp://u:hush@h1:5672,,h3/v", "a host is missing"),
        ("amqp://u:hush@h1,/v", "a host is missing"),
        ("amqp://u:hush@h1:5672,h2:port/v", "'h2:port' is neither"),
        ("amqp://u:hush@h1,h 2/v", "'h 2' is neither"),
        ("amqp://u:hush@h1:5672,h2:70000/v", "the port of 'h2:70000'"),
        ("amqp://u:hush@h1:0/v", "the port of 'h1:0'"),
        ("amqp://u:hush@/v", "give amqp://"),
        ("amqp://u:hu/sh@h1,h2/v", "give amqp://"),
        ("amqp://u:hu#sh@h1:5672/v", "give amqp://"),
        ("amqp://u:hu?sh@h1:5672/v", "give amqp://"),
        ("amqp://user:hush", "give amqp://"),
        ("amqp://user:hush,h2", "give amqp://"),
        ("redis://h", "give amqp://"),
    ],
)
def test_what_is_wrong_is_named_without_the_password(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match="malformed") as malformed:
        each_host(url)
    assert said in str(malformed.value)
    assert "hu" not in str(malformed.value)
