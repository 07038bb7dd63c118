"""A federation on a cluster of three nodes outlives the death of any of them."""

from __future__ import annotations

import pytest

from shared.topology import Topology
from tests.cluster import Cluster
from tests.services import ServiceFailed, ServiceMissing

ROUNDS = 40
#: Whatever RabbitMQ takes to find new leaders, and a confirm that was lost on the way.
DEADLINE_S = 150
SITES = ("a", "b")


@pytest.fixture
def cluster():
    made = Cluster()
    try:
        made.start()
    except (ServiceMissing, ServiceFailed) as error:
        pytest.fail(str(error), pytrace=False)
    yield made
    made.stop()


@pytest.fixture
def urls(cluster, redis_url):
    return ["--broker", cluster.url, "--state", redis_url]


def digests(fed):
    return [line["digest"] for line in fed.history()]


@pytest.fixture
def undisturbed(make_fed):
    """The digests of the same federation when nothing happens to it."""
    fed = make_fed("undisturbed", [])
    result = fed.run(fed.write([fed.site(name) for name in SITES], federation={"rounds": ROUNDS}))
    assert result.returncode == 0, result.stderr
    return digests(fed)


@pytest.mark.timeout(300)
def test_nodes_that_lead_are_killed_one_after_another(fed, cluster, undisturbed, wait_for):
    sites = [fed.site(name, trainer="Gated", gate=str(fed.gate), pause_s=0.2) for name in SITES]
    tables = {"federation": {"rounds": ROUNDS}, "cohort": {"deadline_s": DEADLINE_S}}
    toml = fed.write(sites, **tables, log={"copies": 3})
    topology = Topology(fed.name)
    coordinator = fed.coordinate(toml)
    workers = [fed.worker(site) for site in sites]

    def after_rounds(count):
        fed.gate.touch()
        goal = len(fed.history()) + count
        wait_for(lambda: len(fed.history()) >= goal, timeout_s=DEADLINE_S, what="more rounds")
        fed.gate.unlink()

    after_rounds(2)
    for queue in (topology.events_log, topology.results_log, topology.assignments_of("a")):
        cluster.wait_until_whole()
        leader = cluster.leader_of(queue)
        leader.kill()
        after_rounds(3)
        leader.start()
    fed.gate.touch()
    result = fed.done(coordinator, DEADLINE_S)
    assert result.returncode == 0, result.stderr
    assert digests(fed) == undisturbed
    assert all(closed["accepted"] == 2 for closed in fed.history()[1:])
    for process in (coordinator, *workers):
        assert "Traceback" not in fed.said(process)

    changed = fed.done(fed.coordinate(fed.write(sites, **tables, log={"copies": 1})))
    assert changed.returncode == 2
    assert "other settings (log.copies)" in changed.stderr
