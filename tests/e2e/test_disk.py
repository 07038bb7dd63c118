"""Full disks: what a process may write is limited in mid-run, and later no more."""

from __future__ import annotations

import json
import resource

import numpy as np
import pytest

from tests.e2e.test_trouble import outlast

ROUNDS = 12
KIB = 1024
#: Elements of a model that is spooled on disk and too large for the embedded broker's database: 400 kB.
SIZE = 100_000
UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def fill(process, nbytes):
    """From now on a process can't write a file beyond so many bytes."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (nbytes, resource.RLIM_INFINITY))


def make_room(processes):
    for process in processes:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, UNLIMITED)


@pytest.fixture
def run(fed, wait_for):
    """A federation in its second round or later: its coordinator and its workers."""
    sites = [fed.wide_site(name, SIZE, pause_s=0.2) for name in ("a", "b")]
    coordinator = fed.coordinate(fed.write(sites, federation={"rounds": ROUNDS}))
    wait_for(lambda: fed.urls or (fed.out / "log").exists(), timeout_s=60, what="the broker's folder")
    workers = [fed.worker(site) for site in sites]
    wait_for(lambda: len(fed.history()) >= 2, timeout_s=60, what="a round")
    return [coordinator, *workers]


def finished(fed, processes):
    result = fed.done(processes[0])
    assert result.returncode == 0, result.stderr
    history = fed.history()
    assert [line["round"] for line in history] == list(range(ROUNDS + 1))
    assert all(closed["accepted"] == 2 for closed in history[1:])
    assert set(fed.repeats()) == {1}, "nothing was trained twice"
    for process in processes:
        assert "Traceback" not in fed.said(process)
    for process in processes[1:]:
        assert process.poll() is None, "a worker outlives it"


@pytest.mark.parametrize("urls", ["services"], indirect=True)
def test_full_spool_is_waited_for(fed, run, wait_for):
    fill(run[0], 64 * KIB)
    wait_for(lambda: "updates can't be kept in" in fed.said(run[0]), timeout_s=60)
    outlast(run, wait_for)
    make_room(run)
    finished(fed, run)


@pytest.mark.parametrize("urls", ["embedded"], indirect=True)
@pytest.mark.parametrize("whose", ["coordinator", "workers", "everybody"])
def test_full_disk_of_the_embedded_broker_is_waited_for(fed, run, wait_for, whose):
    hit = {"coordinator": run[:1], "workers": run[1:], "everybody": run}[whose]
    for process in hit:
        fill(process, 64 * KIB)
    wait_for(lambda: any("trying again" in fed.said(process) for process in hit), timeout_s=60)
    outlast(run, wait_for)
    make_room(run)
    finished(fed, run)


@pytest.mark.parametrize("urls", ["services"], indirect=True)
def test_folder_that_is_full_is_made_up_for(fed, wait_for):
    site = fed.site("a", clients=2, trainer="Gated", gate=str(fed.gate))
    toml = fed.write([site], federation={"rounds": 8})
    coordinator = fed.coordinate(toml)
    worker = fed.worker(site)
    wait_for(lambda: any(fed.notes.iterdir()), timeout_s=60, what="a training")
    fill(coordinator, 2 * KIB)  # less than the history, and more than what it says
    history = fed.out / "history.jsonl"
    before = history.read_text()
    fed.gate.touch()
    result = fed.done(coordinator)
    assert result.returncode == 3
    assert result.stderr.count("can't be written") == 2, "once when it begins, once at the end"
    assert "make room" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert history.read_text().startswith(before)

    again = fed.done(fed.coordinate(toml))
    assert again.returncode == 0, again.stderr
    assert [json.loads(line)["round"] for line in history.read_text().splitlines()] == list(range(9))
    with np.load(fed.out / "model.npz") as model:
        assert model.files
    assert worker.poll() is None
