"""Trouble with the services while a federation runs: it says what it waits for, rests, and goes on."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.services import RabbitNode, RedisServer, ask

#: How long trouble lasts once it is noticed, in seconds, and what part of that a process may be busy.
OUTAGE_S = 2.0
BUSY = 0.25
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@contextmanager
def running(service):
    service.start()
    try:
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="module")
def node():
    with running(RabbitNode()) as node:
        yield node


@pytest.fixture(scope="module")
def redis():
    with running(RedisServer()) as redis:
        yield redis


@pytest.fixture
def urls(node, redis):
    return ["--broker", node.url, "--state", redis.url]


@pytest.fixture
def rounds():
    return 8


@pytest.fixture
def run(fed, wait_for, rounds):
    """A federation in its second round or later: its coordinator and its workers."""
    sites = [fed.site(name, trainer="Slow", pause_s=0.15) for name in ("a", "b")]
    coordinator = fed.coordinate(fed.write(sites, federation={"rounds": rounds}))
    workers = [fed.worker(site) for site in sites]
    wait_for(lambda: len(fed.history()) >= 2, timeout_s=60, what="a round")
    return [coordinator, *workers]


def cpu_s(process):
    """The processor time that a process has taken."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


def said(fed, processes, *texts):
    """Whether each text was said by one of the processes at least."""
    return all(any(text in fed.said(process) for process in processes) for text in texts)


def outlast(processes, wait_for):
    """Lets trouble last for a while, in which nobody is busy."""
    before = [cpu_s(process) for process in processes]
    end = time.monotonic() + OUTAGE_S
    wait_for(lambda: time.monotonic() > end, timeout_s=60)
    took = time.monotonic() - end + OUTAGE_S
    for process, earlier in zip(processes, before, strict=True):
        assert cpu_s(process) - earlier < BUSY * took, process.args


def finished(fed, processes, rounds):
    result = fed.done(processes[0])
    assert result.returncode == 0, result.stderr
    history = fed.history()
    assert len(history) == rounds + 1
    assert all(closed["accepted"] == 2 for closed in history[1:])
    for process in processes:
        assert "Traceback" not in fed.said(process)
    for process in processes[1:]:
        assert process.poll() is None, "a worker outlives it all"


def test_broker_that_is_short_of_memory_is_waited_for(fed, run, node, rounds, wait_for):
    node.ctl("set_vm_memory_high_watermark", "0.00001")
    try:
        wait_for(lambda: said(fed, run, "takes no messages for now (low on memory): waiting"), timeout_s=60)
        outlast(run, wait_for)
    finally:
        node.ctl("set_vm_memory_high_watermark", "0.4")
    finished(fed, run, rounds)
    assert said(fed, run, "the broker takes messages again")


def test_broker_that_stands_still_for_a_moment_is_waited_for(fed, run, node, rounds, wait_for):
    os.kill(node.pid, signal.SIGSTOP)
    try:
        outlast(run, wait_for)
    finally:
        os.kill(node.pid, signal.SIGCONT)
    finished(fed, run, rounds)


def test_who_waits_for_a_broker_that_is_gone_can_be_told_to_stop(fed, run, node, wait_for):
    node.kill()
    try:
        for process in run:
            wait_for(lambda process=process: "no broker answers at" in fed.said(process), timeout_s=60)
        outlast(run, wait_for)
        for process in run:
            process.send_signal(signal.SIGINT)
        results = [fed.done(process) for process in run]
    finally:
        node.start()
    assert results[0].returncode == 130
    assert "run the same command again to go on" in results[0].stdout
    for result in results:
        assert "Traceback" not in result.stderr


# Longer than the lease is renewed in.
@pytest.mark.parametrize("rounds", [40])
@pytest.mark.parametrize(
    ("trouble", "end", "because"),
    [
        (b"CONFIG SET maxmemory 1", b"CONFIG SET maxmemory 0", "used memory > 'maxmemory'"),
        (b"REPLICAOF 127.0.0.1 1", b"REPLICAOF NO ONE", "read only replica"),
    ],
)
def test_store_that_takes_no_writes_is_done_without(fed, run, redis, rounds, wait_for, trouble, end, because):
    assert ask(redis.port, trouble + b"\r\n").startswith(b"+OK")
    try:
        wait_for(lambda: said(fed, run[:1], because), timeout_s=60)
        assert "the federation goes on without it" in fed.said(run[0])
        finished(fed, run, rounds)
    finally:
        assert ask(redis.port, end + b"\r\n").startswith(b"+OK")
    again = fed.done(fed.coordinate(fed.folder / "federation.toml"))
    assert again.returncode == 0, again.stderr
    assert len(fed.status()["history"]) == rounds + 1


def test_store_that_stands_still_is_done_without(fed, run, redis, rounds):
    os.kill(redis.pid, signal.SIGSTOP)
    try:
        finished(fed, run, rounds)
    finally:
        os.kill(redis.pid, signal.SIGCONT)
