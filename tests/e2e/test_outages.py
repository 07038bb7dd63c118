"""Outages of the services while a federation runs: it waits, says for what, and goes on."""

from __future__ import annotations

import time

import pytest

from shared.errors import UnroutableError
from tests.e2e.puppet import Puppet

#: RabbitMQ 3.10 does not recover a quorum queue that is killed in the first seconds of its life.
QUEUE_AGE_S = 5.0


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


def was_routed(site, order):
    """Answers an order; returns whether a queue took it."""
    try:
        site.answer(order)
    except UnroutableError:
        return False
    return True


@pytest.mark.timeout(300)
def test_answers_published_as_soon_as_a_broker_is_back_count_once(fed, own_rabbit_node, wait_for):
    toml = fed.write(
        [fed.site("a"), fed.site("b")], federation={"rounds": 3}, cohort={"deadline_s": 100.0, "minimum": 2}
    )
    coordinator = fed.coordinate(toml, "--set", "evaluation.last=false")
    sites = [Puppet(fed.broker_url, fed.name, name) for name in ("a", "b")]
    for site in sites:
        site.appear()
    born = time.monotonic()
    sites[0].answer(sites[0].order("initialise", 0))
    for site in sites:
        site.answer(site.order("train", 1))
    orders = [site.order("train", 2) for site in sites]
    wait_for(lambda: time.monotonic() - born > QUEUE_AGE_S, what="the queues to be some seconds old")
    own_rabbit_node.kill()
    own_rabbit_node.start()
    # A new connection is not kept by pauses, and finds a broker that may not route to its streams yet.
    fresh = Puppet(fed.broker_url, fed.name, "a")
    wait_for(lambda: was_routed(fresh, orders[0]), timeout_s=60, what="the results log")
    fresh.close()
    sites[1].answer(orders[1])
    for site in sites:
        site.answer(site.order("train", 3))
        site.close()
    result = fed.done(coordinator)
    assert result.returncode == 0, result.stderr
    assert [(line["accepted"], line["duplicate"]) for line in fed.history()[1:]] == [(2, 0)] * 3
