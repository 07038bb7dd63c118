"""Federations that outlive their logs: limits bite while they run, and everything goes on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

#: A model of 400 kB, and limits that hold three rounds of two clients.
SIZE = 100_000
MODEL_BYTES = 4 * SIZE
MAX_BYTES = 4_200_000
LIMITS = {"log": {"max_bytes": "4.2MB", "max_age": "2h"}}
ROUNDS = 24


def finished(result):
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture
def is_bounded(fed, request):
    """Tells whether rounds and results hold to their limits on disk, where the whole run is 29 MB."""

    def bounded():
        if not fed.urls:
            # Each of three writers may hold a file with what the logs have dropped.
            return size(Path(fed.broker_url) / "segments") < 2 * 1.2 * MAX_BYTES + 3 * 1_000_000
        root = request.getfixturevalue("rabbit_node").folder
        folders = [f for log in ("rounds", "results") for f in root.rglob(f"*{fed.name}_{log}_log_*")]
        assert len(folders) == 2
        return all(size(folder) < 1.5 * MAX_BYTES for folder in folders)

    return bounded


def size(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def wide(fed, rounds=ROUNDS, pause_s=0.0, **tables):
    sites = [fed.wide_site(name, SIZE, pause_s=pause_s) for name in ("a", "b")]
    return fed.write(sites, federation={"rounds": rounds}, **{**LIMITS, **tables})


def test_a_federation_runs_on_in_bounded_logs_and_says_what_is_kept(fed, is_bounded, wait_for):
    finished(fed.run(wide(fed)))
    assert len(fed.history()) == ROUNDS + 1
    wait_for(is_bounded, what="the limits to hold")
    kept = fed.status()["kept"]
    assert kept["estimated"] == bool(fed.urls)
    assert 0.5 * MAX_BYTES < kept["rounds"]["bytes"] < 1.5 * MAX_BYTES
    assert 0.5 * MAX_BYTES < kept["results"]["bytes"] < 1.5 * MAX_BYTES
    weights, updates = kept["rounds"]["oldest"], kept["results"]["oldest"]
    assert ROUNDS - 14 < weights < ROUNDS - 6
    assert ROUNDS - 8 < updates < ROUNDS - 3
    text = finished(fed.ask("status")).stdout
    assert f"weights from version {weights} on" in text
    assert f"updates from version {updates} on" in text

    early = fed.ask("export", "--version", 1, "--to", fed.folder / "early.npz")
    assert early.returncode == 2
    assert f"version 1 are not in the log any more; it holds versions {weights} to {ROUNDS}" in early.stderr
    finished(fed.ask("export", "--version", weights, "--to", fed.folder / "kept.npz"))
    with np.load(fed.folder / "kept.npz") as arrays:
        assert arrays["weight"].shape == (SIZE,)


def test_killed_after_its_logs_were_cut_it_goes_on(make_fed, federation, urls, wait_for):
    undisturbed = make_fed(federation, [])
    finished(undisturbed.run(wide(undisturbed)))

    fed = make_fed(federation, urls)
    toml = wide(fed, pause_s=0.1)
    history = fed.out / "history.jsonl"
    for kill_at in (13, 17):
        running = fed.start(toml)
        wait_for(
            lambda at=kill_at: history.exists() and len(history.read_text().splitlines()) > at,
            timeout_s=40,
            what=f"round {kill_at}",
        )
        assert running.poll() is None
        running.kill()
        running.wait()
    finished(fed.run(toml))
    assert fed.status()["kept"]["rounds"]["oldest"] > 5
    assert [line["digest"] for line in fed.history()] == [line["digest"] for line in undisturbed.history()]


def test_limits_that_are_too_small_for_the_model_name_the_least_that_would_do(fed):
    toml = wide(fed, rounds=3, log={"max_bytes": "1MB"})
    refused = fed.run(toml)
    assert refused.returncode == 2
    (least,) = re.findall(r'log\.max_bytes is 1000000, .* at least "(\w+\.?\w+)"', refused.stderr)
    assert fed.history() == []

    changed = fed.run(toml, "--set", f"log.max_bytes={least}")
    assert changed.returncode == 2
    assert "started with other settings (log.max_bytes)" in changed.stderr
    finished(fed.run(toml, "--set", f"log.max_bytes={least}", "--fresh"))
    assert len(fed.history()) == 4


def test_limits_are_held_against_weights_from_a_file_too(make_fed, federation):
    fed = make_fed(federation, [])
    np.savez(fed.folder / "initial.npz", weight=np.zeros(SIZE, np.float32))
    refused = fed.run(wide(fed, log={"max_bytes": "1MB"}, model={"initial": str(fed.folder / "initial.npz")}))
    assert refused.returncode == 2
    assert 'set it to at least "4.2MB"' in refused.stderr
    assert not any(fed.notes.iterdir())


def test_changed_limits_are_refused_by_name_and_begun_anew_with_fresh(fed):
    toml = wide(fed, rounds=2)
    finished(fed.run(toml))
    for change in ("log.max_bytes=1GB", "log.max_age=3h"):
        changed = fed.run(toml, "--set", change)
        assert changed.returncode == 2
        assert f"started with other settings ({change.partition('=')[0]})" in changed.stderr
    finished(fed.run(toml, "--set", "log.max_bytes=1GB", "--set", "log.max_age=3h", "--fresh"))
    assert len(fed.history()) == 3


def test_status_without_a_broker_says_so_in_a_line(make_fed, federation, redis_url, rabbit_url):
    fed = make_fed(federation, ["--broker", rabbit_url, "--state", redis_url])
    finished(fed.run(fed.write([fed.site("a")], federation={"rounds": 1})))
    nobody = "amqp://guest:guest@127.0.0.1:9/%2f"
    for broker in (["--broker", nobody], []):
        arguments = ["status", "--federation", fed.name, "--state", redis_url, *broker]
        as_json, as_text = fed.warren(*arguments, "--json"), fed.warren(*arguments)
        known = json.loads(finished(fed.done(as_json)).stdout)
        assert known["round"]["version"] == "1"
        assert known["kept"].keys() == {"unknown"}
        lines = finished(fed.done(as_text)).stdout.splitlines()
        assert [line for line in lines if line.startswith("Kept: not known (")]


def test_status_of_a_federation_that_has_nothing_yet_does_not_wait(fed, wait_for):
    toml = fed.write([fed.site("a")])
    coordinator = fed.coordinate(toml)
    wait_for(lambda: "waiting for clients" in fed.said(coordinator), timeout_s=30, what="the coordinator")
    kept = fed.status()["kept"]
    assert (kept["rounds"]["oldest"], kept["results"]["oldest"]) == (None, None)
    assert "no weights yet, no updates yet" in finished(fed.ask("status")).stdout
