"""Outages of the services while a federation runs: it waits, says for what, and goes on."""

from __future__ import annotations

import pytest


@pytest.fixture
def urls(own_rabbit_node, own_redis_server):
    return ["--broker", own_rabbit_node.url, "--state", own_redis_server.url]


def test_broker_killed_and_store_lost_in_mid_run(fed, own_rabbit_node, own_redis_server, wait_for):
    sites = [fed.site(name, trainer="Slow", pause_s=0.5) for name in ("a", "b")]
    toml = fed.write(sites, federation={"rounds": 14})
    run = fed.start(toml)
    # RabbitMQ 3.10 does not recover a quorum queue that is killed in the first seconds of its life.
    wait_for(lambda: len(list(fed.notes.iterdir())) >= 18, timeout_s=30, what="some rounds")
    own_redis_server.kill()
    own_rabbit_node.kill()
    own_rabbit_node.start()
    own_redis_server.start()
    result = fed.done(run)
    assert result.returncode == 0, result.stderr
    assert [line["accepted"] for line in fed.history()[1:]] == [2] * 14
    assert "goes on without it" in result.stderr
    assert "Traceback" not in result.stderr
    assert fed.status()["round"]["state"] == "finished"
    assert len(fed.status()["history"]) == 15
