"""Two coordinators of one federation: the leader hangs past its lease, a standby goes on, the old wakes."""

from __future__ import annotations

import signal

import pytest


@pytest.mark.timeout(300)
def test_standby_takes_over_from_a_leader_that_hangs(fed, make_fed, wait_for):
    tables = {"federation": {"rounds": 16}, "server": {"optimizer": "fedadam", "learning_rate": 0.05}}
    calm = make_fed(fed.name, [])
    assert calm.run(calm.write([calm.site(name) for name in ("a", "b")], **tables)).returncode == 0

    sites = [fed.site(name, trainer="Slow", pause_s=0.2) for name in ("a", "b")]
    toml = fed.write(sites, **tables)
    leader = fed.coordinate(toml)
    wait_for(lambda: fed.out.exists(), timeout_s=60, what="the leader")
    for site in sites:
        fed.worker(site)
    wait_for(lambda: len(fed.history()) > 3, timeout_s=60, what="some rounds")
    standby = fed.coordinate(toml)
    wait_for(lambda: "standing by" in fed.said(standby), timeout_s=60, what="the standby")

    leader.send_signal(signal.SIGSTOP)
    rounds = len(fed.history())
    wait_for(lambda: len(fed.history()) > rounds + 1, timeout_s=60, what="rounds of the standby's")
    leader.send_signal(signal.SIGCONT)

    old = fed.done(leader)
    assert old.returncode == 4, old.stderr
    assert "leads this federation now" in old.stderr
    new = fed.done(standby)
    assert new.returncode == 0, new.stderr
    assert "Traceback" not in old.stderr + new.stderr
    assert [line["digest"] for line in fed.history()] == [line["digest"] for line in calm.history()]
    assert [line["accepted"] for line in fed.history()[1:]] == [2] * 16


@pytest.mark.timeout(300)
def test_started_twice_at_once_and_once_more_afterwards(fed, make_fed, wait_for):
    tables = {"federation": {"rounds": 4}}
    calm = make_fed(fed.name, [])
    assert calm.run(calm.write([calm.site(name) for name in ("a", "b")], **tables)).returncode == 0

    toml = fed.write([fed.site(name, trainer="Slow", pause_s=0.2) for name in ("a", "b")], **tables)
    runs = [fed.start(toml), fed.start(toml)]
    wait_for(lambda: any("standing by" in fed.said(run) for run in runs), timeout_s=60, what="the second")
    results = [fed.done(run) for run in runs]
    results.append(fed.run(toml))
    for result in results:
        assert result.returncode == 0, result.stderr
        assert "Traceback" not in result.stderr
    assert ["finished already" in result.stderr for result in results].count(True) == 2
    assert "finished already" in results[-1].stderr
    assert [line["digest"] for line in fed.history()] == [line["digest"] for line in calm.history()]
    assert [line["accepted"] for line in fed.history()[1:]] == [2] * 4
