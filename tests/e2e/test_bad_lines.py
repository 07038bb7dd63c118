"""Federations over bad lines: slow ones, ones that break at any byte or freeze, and sites that come back."""

from __future__ import annotations

import random
from urllib.parse import urlsplit

import pytest

from tests.e2e.line import Line

#: Elements of a model of several parts: 10 MB.
SEVERAL_PARTS = 2_500_000
MB = 1_000_000


@pytest.fixture
def urls(rabbit_url, redis_url):
    return ["--broker", rabbit_url, "--state", redis_url]


@pytest.fixture
def line_to(rabbit_node):
    """`line_to(**settings)` makes a line to the shared node, and opens it."""
    made = []

    def make(**settings):
        made.append(Line(rabbit_node.port, **settings))
        made[-1].open()
        return made[-1]

    yield make
    for line in made:
        line.close()


def through(line, url, query=""):
    """The broker's URL by way of a line."""
    return url.replace(f":{urlsplit(url).port}", f":{line.port}") + query


def finished(fed, process):
    result = fed.done(process)
    assert result.returncode == 0, result.stderr
    return result


def counted_once(fed, clients):
    """Every version was made of one update of each client, and nothing was trained twice by one process."""
    versions = fed.versions()[1:]
    assert versions
    for version in versions:
        assert sorted(who["client"] for who in version["contributors"]) == sorted(clients)
    assert set(fed.repeats()) == {1}


def digests(fed):
    return [line["digest"] for line in fed.history()]


def wide_pair(fed):
    return [fed.wide_site("a", SEVERAL_PARTS, clients=2), fed.wide_site("b", SEVERAL_PARTS)]


PAIR = ["a/0", "a/1", "b/0"]


@pytest.fixture(scope="module")
def undisturbed(make_module_fed):
    """The digests of the pair's federation when nothing happens to it."""
    fed = make_module_fed("undisturbed", [])
    finished(fed, fed.start(fed.write(wide_pair(fed), federation={"rounds": 3})))
    return digests(fed)


def test_a_long_line_costs_its_delay_and_no_more(fed, line_to):
    sites = [fed.site("far"), fed.site("near")]
    line = line_to(delay_s=0.2)
    coordinator = fed.coordinate(fed.write(sites, federation={"rounds": 4}))
    fed.worker(sites[0], broker_url=through(line, fed.broker_url))
    fed.worker(sites[1])
    finished(fed, coordinator)
    history = fed.history()[1:]
    assert all(round_["accepted"] == 2 for round_ in history)
    # There with the assignment and the task, back with the update; the first round also attaches.
    assert all(0.4 <= round_["seconds"] < 2.0 for round_ in history[1:])


def test_a_narrow_line_takes_its_time(fed, line_to):
    site = fed.wide_site("narrow", 5 * MB)
    line = line_to(bytes_per_s=15 * MB)
    coordinator = fed.coordinate(fed.write([site], federation={"rounds": 1}, evaluation={"last": False}))
    fed.worker(site, broker_url=through(line, fed.broker_url))
    finished(fed, coordinator)
    counted_once(fed, ["narrow/0"])
    assert fed.history()[1]["seconds"] >= 2 * 20 / 15
    assert line.breaks == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_worker_s_line_breaks_at_any_byte(fed, line_to, undisturbed, seed):
    rng = random.Random(seed)
    sites = wide_pair(fed)
    cuts = {"up": [seed, *rng.sample(range(60 * MB), 4)], "down": [400, *rng.sample(range(30 * MB), 3)]}
    line = line_to(cuts=cuts)
    coordinator = fed.coordinate(fed.write(sites, federation={"rounds": 3}))
    for site in sites:
        fed.worker(site, broker_url=through(line, fed.broker_url))
    finished(fed, coordinator)
    assert line.breaks == 9
    assert digests(fed) == undisturbed
    counted_once(fed, PAIR)


def test_coordinator_s_line_breaks_at_any_byte(fed, line_to, undisturbed):
    rng = random.Random(3)
    sites = wide_pair(fed)
    cuts = {"up": [5, *rng.sample(range(40 * MB), 5)], "down": [300, *rng.sample(range(100 * MB), 5)]}
    line = line_to(cuts=cuts)
    toml = fed.write(sites, federation={"rounds": 3})
    coordinator = fed.coordinate(toml, broker_url=through(line, fed.broker_url))
    for site in sites:
        fed.worker(site)
    finished(fed, coordinator)
    assert line.breaks == 12
    assert digests(fed) == undisturbed
    counted_once(fed, PAIR)
