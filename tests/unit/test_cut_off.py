"""The commands that shut a login out, for any broker URL."""

from __future__ import annotations

import shlex

import pytest

from shared.broker.cut_off import cut_off


@pytest.mark.parametrize(
    ("url", "vhost"),
    [
        ("amqp://u:p@host/%2f", "/"),
        ("amqp://u:p@host:5672", "/"),
        ("amqps://u:p@one,two/med%20vhost", "med vhost"),
        ("amqp://u:p@host/fed?heartbeat=1", "fed"),
    ],
)
@pytest.mark.parametrize("login", ["charite", "o'hara; rm -rf /"])
def test_a_login_loses_its_permissions_and_its_connections(url, vhost, login):
    permissions, connections = (shlex.split(command) for command in cut_off(url, login))
    assert permissions == ["rabbitmqctl", "set_permissions", "-p", vhost, login, "^$", "^$", "^$"]
    assert connections[:3] == ["rabbitmqctl", "close_all_user_connections", login]
    assert len(connections) == 4


def test_who_gives_no_name_is_looked_for():
    assert cut_off("amqp://u:p@host/", "") == ["rabbitmqctl list_connections user peer_host recv_oct"]


def test_the_embedded_broker_has_no_logins_to_shut_out():
    assert "end the process" in cut_off("runs/f/log", "a")[0]
