"""Federations over bad lines: slow ones, ones that break at any byte or freeze, and sites that come back."""

from __future__ import annotations

import random
from urllib.parse import urlsplit

import pytest

from shared.topology import Topology
from tests.e2e.line import Line
from tests.e2e.memory import Peaks

#: Elements of a model of several parts: 10 MB.
SEVERAL_PARTS = 2_500_000
MB = 1_000_000
MODEL_BYTES = 100 * MB


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


def waiting_at(node, queue):
    """How many messages a queue holds."""
    rows = [line.split("\t") for line in node.ctl("list_queues", "name", "messages").splitlines()]
    return next(int(count) for name, count in rows[1:] if name == queue)


def digests(fed):
    return [line["digest"] for line in fed.history()]


def wide_pair(fed):
    return [fed.wide_site("a", SEVERAL_PARTS, clients=2), fed.wide_site("b", SEVERAL_PARTS)]


PAIR = ["a/0", "a/1", "b/0"]


@pytest.fixture(scope="module")
def undisturbed(make_module_fed):
    """The digests of the pair's federation when nothing happens to it."""
    fed = make_module_fed("undisturbed", [])
    finished(fed, fed.start(fed.write(wide_pair(fed), federation={"rounds": 2})))
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
    line = line_to(bytes_per_s=30 * MB)
    coordinator = fed.coordinate(fed.write([site], federation={"rounds": 1}, evaluation={"last": False}))
    fed.worker(site, broker_url=through(line, fed.broker_url))
    finished(fed, coordinator)
    counted_once(fed, ["narrow/0"])
    assert fed.history()[1]["seconds"] >= 2 * 20 / 30
    assert line.breaks == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_worker_s_line_breaks_at_any_byte(fed, line_to, undisturbed, seed):
    rng = random.Random(seed)
    sites = wide_pair(fed)
    cuts = {"up": [seed, *rng.sample(range(60 * MB), 4)], "down": [400, *rng.sample(range(30 * MB), 3)]}
    line = line_to(cuts=cuts)
    coordinator = fed.coordinate(fed.write(sites, federation={"rounds": 2}))
    for site in sites:
        fed.worker(site, broker_url=through(line, fed.broker_url))
    finished(fed, coordinator)
    assert line.breaks == 9
    assert sum(closed["duplicate"] for closed in fed.history()) == 0, "nothing large was carried twice"
    assert digests(fed) == undisturbed
    counted_once(fed, PAIR)


def test_coordinator_s_line_breaks_at_any_byte(fed, line_to, undisturbed):
    rng = random.Random(3)
    sites = wide_pair(fed)
    # Three models of 10 MB go up and seven updates come down, whatever is sent again.
    cuts = {"up": [5, *rng.sample(range(28 * MB), 5)], "down": [300, *rng.sample(range(66 * MB), 5)]}
    line = line_to(cuts=cuts)
    toml = fed.write(sites, federation={"rounds": 2})
    coordinator = fed.coordinate(toml, broker_url=through(line, fed.broker_url))
    for site in sites:
        fed.worker(site)
    finished(fed, coordinator)
    assert line.breaks == 12
    assert digests(fed) == undisturbed
    counted_once(fed, PAIR)


def test_line_that_freezes_for_a_moment_loses_nothing(fed, line_to, undisturbed, wait_for):
    sites = wide_pair(fed)
    line = line_to(bytes_per_s=40 * MB)
    toml = fed.write(sites, federation={"rounds": 1}, evaluation={"last": False})
    coordinator = fed.coordinate(toml)
    workers = [fed.worker(site, broker_url=through(line, fed.broker_url)) for site in sites]
    wait_for(lambda: line.passed["up"] > 3 * MB, timeout_s=30, what="the first model")
    before = [fed.said(worker) for worker in workers]
    line.freeze(0.7)
    wait_for(lambda: line.passed["up"] > 15 * MB, timeout_s=30, what="an update")
    line.freeze(0.7)
    finished(fed, coordinator)
    assert digests(fed) == undisturbed[:2]
    counted_once(fed, PAIR)
    for worker, earlier in zip(workers, before, strict=True):
        assert "lost the connection" not in fed.said(worker).removeprefix(earlier)


def test_lines_that_freeze_for_ever_are_found_dead(fed, line_to, undisturbed, wait_for):
    """One in the middle of the download of the first model, one in the middle of the upload of an update."""
    sites = wide_pair(fed)[::-1]
    lines = {"down": line_to(bytes_per_s=20 * MB), "up": line_to(bytes_per_s=20 * MB)}
    half = {"down": 3 * MB, "up": 13 * MB}
    toml = fed.write(sites, federation={"rounds": 1}, evaluation={"last": False})
    coordinator = fed.coordinate(toml)
    for site, line in zip(sites, lines.values(), strict=True):
        fed.worker(site, broker_url=through(line, fed.broker_url, "?heartbeat=1"))
    for way, line in lines.items():
        wait_for(lambda way=way, line=line: line.passed[way] > half[way], timeout_s=30, what="half a model")
        line.freeze()
    finished(fed, coordinator)
    assert digests(fed) == undisturbed[:2]
    counted_once(fed, PAIR)


def test_order_that_comes_back_after_others_isn_t_trained_again(fed, line_to, wait_for):
    """The broker takes a worker for alive that has connected again, and hands its order out much later."""
    site = fed.wide_site("a", SEVERAL_PARTS // 4, clients=5, pause_s=0.8)
    line = line_to()
    coordinator = fed.coordinate(fed.write([site], federation={"rounds": 1}, evaluation={"last": False}))
    fed.worker(site, broker_url=through(line, fed.broker_url, "?heartbeat=1"))
    wait_for(lambda: any(fed.notes.iterdir()), timeout_s=30, what="a training")
    line.vanish()
    finished(fed, coordinator)
    counted_once(fed, [f"a/{number}" for number in range(5)])
    assert fed.history()[1]["duplicate"] == 0


def test_worker_that_is_there_first_says_what_it_waits_for(fed, rabbit_node, wait_for):
    site = fed.site("early")
    line = Line(rabbit_node.port)
    try:
        worker = fed.worker(site, broker_url=through(line, fed.broker_url))
        wait_for(lambda: f"no broker answers at 127.0.0.1:{line.port}" in fed.said(worker), timeout_s=20)
        line.open()
        wait_for(lambda: f"waiting for federation {fed.name!r}" in fed.said(worker), timeout_s=20)
        finished(fed, fed.coordinate(fed.write([site], federation={"rounds": 2})))
        assert [closed["accepted"] for closed in fed.history()[1:]] == [1, 1]
        assert "Traceback" not in fed.said(worker)
    finally:
        line.close()


@pytest.mark.parametrize("broker", ["embedded", "rabbitmq"])
def test_site_that_was_away_takes_part_at_once(make_fed, federation, urls, rabbit_node, wait_for, broker):
    fed = make_fed(federation, urls if broker == "rabbitmq" else [])
    sites = [fed.site(name, trainer="Slow", pause_s=0.02) for name in ("a", "b", "away")]
    toml = fed.write(sites, federation={"rounds": 45}, cohort={"deadline_s": 0.4, "minimum": 2})
    coordinator = fed.coordinate(toml)

    def after_round(number):
        wait_for(lambda: len(fed.history()) > number, timeout_s=40, what=f"round {number}")

    wait_for(lambda: fed.urls or (fed.out / "log").exists(), timeout_s=20, what="the broker's folder")
    for site in sites[:2]:
        fed.worker(site)
    away = fed.worker(sites[2])
    after_round(5)
    away.kill()
    away.wait()
    left = len(fed.history())
    after_round(left + 8)
    if broker == "rabbitmq":
        assert waiting_at(rabbit_node, Topology(fed.name).assignments_of("away")) <= 2
    back = fed.worker(sites[2])
    wait_for(lambda: "ready with" in fed.said(back), timeout_s=20, what="the site's return")
    returned = len(fed.history())
    finished(fed, coordinator)

    took_part = [
        version["version"]
        for version in fed.versions()
        if "away/0" in [who["client"] for who in version["contributors"]]
    ]
    after = [version for version in took_part if version > left]
    assert after[0] > left + 8
    assert after[0] <= returned + 3, "at once"
    history = fed.history()
    assert sum(closed["late"] + closed["duplicate"] for closed in history[returned:]) <= 2
    assert fed.trainings()[back.pid] <= len(after) + 2
    assert len(after) >= len(history) - after[0] - 2


def test_model_of_100_mb_with_four_workers(fed):
    sites = [fed.wide_site(name, MODEL_BYTES // 4, clients=2) for name in ("a", "b")]
    toml = fed.write(sites, federation={"rounds": 2}, evaluation={"last": False})
    coordinator = fed.coordinate(toml)
    workers = [fed.worker(site) for site in sites for _ in range(2)]
    with Peaks({process.pid for process in (coordinator, *workers)}) as peaks:
        finished(fed, coordinator)
    counted_once(fed, ["a/0", "a/1", "b/0", "b/1"])
    assert len(fed.history()) == 3
    assert peaks.anonymous[coordinator.pid] < 3 * MODEL_BYTES + 100 * MB
    # The trainer's own is one model: the weights that it returns.
    for worker in workers:
        assert peaks.anonymous[worker.pid] - MODEL_BYTES < 4 * MODEL_BYTES


def test_clocks_that_are_an_hour_off_change_nothing(make_fed, federation, urls):
    right = make_fed(federation, [])
    finished(right, right.start(right.write([right.site(name, clients=2) for name in ("a", "b")])))
    fed = make_fed(federation, urls)
    sites = [fed.site(name, clients=2) for name in ("a", "b")]
    coordinator = fed.coordinate(fed.write(sites, cohort={"absent_s": 20.0}))
    for site, off_s in zip(sites, (3600.0, -3600.0), strict=True):
        fed.worker(site, clock_off_s=off_s)
    finished(fed, coordinator)
    assert digests(fed) == digests(right)
    assert all(line["accepted"] == 4 for line in fed.history()[1:])
