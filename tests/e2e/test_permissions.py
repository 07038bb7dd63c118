"""Logins of sites at a real RabbitMQ: what a worker needs is little, and more it can't do."""

from __future__ import annotations

import pytest

from shared import codec
from shared.broker import rabbit
from shared.broker.port import FIRST, Part, Publication
from shared.errors import RefusedError
from shared.messages import Presence
from shared.topology import Topology


@pytest.fixture
def urls(rabbit_url, redis_url):
    return ["--broker", rabbit_url, "--state", redis_url]


def test_sites_with_the_least_permissions_train_and_an_impostor_does_not(fed, login_of, wait_for):
    suffix = fed.name.removeprefix("f-")
    names = [f"{letter}-{suffix}" for letter in "abc"]
    sites = [fed.site(name) for name in names]
    toml = fed.write(sites[:2], federation={"rounds": 3}, security={"attest": True})
    coordinator = fed.warren("coordinate", toml, "--out", fed.out, *fed.urls)
    logins = {site["name"]: login_of(site["name"]) for site in sites}
    for site in sites[:2]:
        fed.worker(site, broker_url=logins[site["name"]])
    # The third login says that it is the first site, and may not.
    impostor = fed.worker(sites[0], broker_url=logins[names[2]])
    result = fed.done(coordinator)
    assert result.returncode == 0, result.stderr
    assert [line["accepted"] for line in fed.history()[1:]] == [2, 2, 2]
    refused = fed.done(impostor)
    assert refused.returncode == 3
    assert "Traceback" not in refused.stderr
    assert names[0] in refused.stderr


def test_a_site_can_neither_declare_nor_read_what_is_not_its_own(fed, login_of, wait_for):
    suffix = fed.name.removeprefix("f-")
    site = fed.site(f"a-{suffix}")
    fed.done(fed.start(fed.write([site], federation={"rounds": 1})))
    topology = Topology(fed.name)
    broker = rabbit.connect(login_of(site["name"]), patience_s=10)
    try:
        for log in (topology.results_log, topology.events_log, topology.checkpoints_log):
            with pytest.raises(RefusedError):
                broker.follow(log, FIRST, lambda _: None)
        with pytest.raises(RefusedError):
            broker.declare((), [topology.site_queue(site["name"])])
        presence = Presence(fed.name, "other", "w", ["0"], "waiting", 0)

        part = Part.single(Presence.KIND, codec.encode(presence.to_header()))
        for exchange in (topology.rounds, topology.events, topology.assignments, topology.dead):
            with pytest.raises(RefusedError):
                broker.publish([Publication(exchange, site["name"], part)])
    finally:
        broker.close()
