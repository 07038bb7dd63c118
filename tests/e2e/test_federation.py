"""What a user runs, as processes: whole federations, on both brokers."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest


def finished(result):
    assert result.returncode == 0, result.stderr
    return result


def started(fed, wait_for, what="a training"):
    wait_for(lambda: any(fed.notes.iterdir()), timeout_s=30, what=what)


def alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_federation_runs_to_its_end_and_leaves_what_it_promises(fed):
    toml = fed.write([fed.site(name) for name in ("a", "b", "c")])
    finished(fed.run(toml))
    history = fed.history()
    assert [line["round"] for line in history] == [0, 1, 2, 3, 4, 5]
    assert all(line["accepted"] == 3 for line in history[1:])
    assert history[-1]["metrics"]["accuracy"] > history[1]["metrics"]["accuracy"] > 0.2
    with np.load(fed.out / "model.npz") as model:
        assert {name: model[name].shape for name in model.files} == {"weight": (5, 3), "bias": (3,)}
        last = {name: model[name] for name in model.files}
    exported = fed.folder / "three.npz"
    finished(fed.ask("export", "--version", 5, "--to", exported))
    with np.load(exported) as model:
        assert all((model[name] == last[name]).all() for name in model.files)
    again = finished(fed.run(toml))
    assert "finished already" in again.stderr


def test_evaluate_only_site_and_best_model(fed):
    sites = [fed.site(name, trainer="Slow", pause_s=0.3) for name in ("a", "b")]
    sites.append(fed.site("outside"))
    toml = fed.write(sites, evaluation={"sites": ["outside"], "best": "-loss"}, cohort={"min_clients": 2})
    finished(fed.run(toml))
    history = fed.history()[1:]
    assert all(line["assigned"] == line["accepted"] == 2 for line in history)
    assert any("outside/0" in line["evaluated"] for line in history)
    last = json.loads((fed.out / "evaluation.json").read_text())
    assert last["version"] == 5
    assert sorted(last["clients"]) == ["a/0", "b/0", "outside/0"]
    scores = [client["accuracy"] * client["examples"] for client in last["clients"].values()]
    assert last["metrics"]["accuracy"] == pytest.approx(sum(scores) / 120)
    with np.load(fed.out / "best.npz") as best, np.load(fed.out / "model.npz") as model:
        assert all((best[name] == model[name]).all() for name in model.files)


def test_same_seed_gives_the_same_bits_on_every_broker(make_fed, federation, rabbit_url, redis_url):
    services = ["--broker", rabbit_url, "--state", redis_url]
    digests = []
    for urls in ([], services, services):
        fed = make_fed(federation, urls)
        toml = fed.write([fed.site(name, clients=2) for name in ("a", "b")])
        finished(fed.run(toml, "--fresh"))
        digests.append(fed.history()[-1]["digest"])
    assert len(set(digests)) == 1


def test_replicas_share_a_site_and_every_client_counts_once(fed):
    sites = [fed.site("a", clients=12, workers=3, trainer="Slow", pause_s=0.03)]
    finished(fed.run(fed.write(sites)))
    versions = fed.versions()[1:]
    for version in versions:
        clients = [who["client"] for who in version["contributors"]]
        assert sorted(clients) == sorted(f"a/{n}" for n in range(12))
    counts = fed.trainings()
    assert sum(counts.values()) == 60
    assert len(counts) == 3
    assert min(counts.values()) >= 5


def test_killed_worker_s_assignment_goes_to_a_replica(fed, wait_for):
    site = fed.site("a", clients=2, trainer="Gated", gate=str(fed.gate))
    toml = fed.write([site], federation={"rounds": 2})
    coordinator = fed.warren("coordinate", toml, "--out", fed.out, *fed.urls)
    wait_for(lambda: fed.urls or (fed.out / "log").exists(), timeout_s=20, what="the broker's folder")
    victim = fed.worker(site)
    started(fed, wait_for)
    fed.worker(site)
    victim.kill()
    fed.gate.touch()
    finished(fed.done(coordinator))
    assert all(line["accepted"] == 2 for line in fed.history()[1:])


def test_killed_coordinator_goes_on_where_it_was(make_fed, federation, urls, wait_for):
    undisturbed = make_fed(federation, [])
    sites = [undisturbed.site(name, clients=2) for name in ("a", "b")]
    finished(undisturbed.run(undisturbed.write(sites)))

    fed = make_fed(federation, urls)
    names = [fed.site(name, clients=2, trainer="Gated", gate=str(fed.gate)) for name in ("a", "b")]
    toml = fed.write(names)
    first = fed.start(toml)
    started(fed, wait_for)
    first.kill()
    first.wait()
    fed.gate.touch()
    finished(fed.run(toml))
    assert [line["digest"] for line in fed.history()] == [line["digest"] for line in undisturbed.history()]
    assert all(line["accepted"] == 4 for line in fed.history()[1:])


def test_a_site_that_never_answers_costs_its_deadline_only(fed):
    sites = [fed.site("a"), fed.site("b"), fed.site("mute", trainer="Gated", gate=str(fed.gate))]
    toml = fed.write(sites, federation={"rounds": 2}, cohort={"deadline_s": 1.0, "minimum": 2})
    finished(fed.run(toml))
    assert [line["accepted"] for line in fed.history()[1:]] == [2, 2]
    assert all(1.0 <= line["seconds"] < 3.0 for line in fed.history()[1:])


@pytest.mark.parametrize(("staleness", "outcome"), [(0, "late"), (5, "accepted")])
def test_a_late_answer_is_recorded_or_discounted(fed, staleness, outcome):
    sites = [fed.site("a", trainer="Slow", pause_s=0.1), fed.site("late", trainer="Slow", pause_s=1.0)]
    toml = fed.write(
        sites,
        federation={"rounds": 12},
        cohort={"deadline_s": 0.4, "minimum": 1, "absent_s": 60.0},
        staleness={"max": staleness},
    )
    finished(fed.run(toml))
    versions = fed.versions()[1:]
    stale = [
        who
        for version in versions
        for who in version["contributors"]
        if who["version"] < version["version"] - 1
    ]
    late = sum(version["late"] for version in versions)
    if outcome == "late":
        assert late >= 1
        assert not stale
    else:
        assert {who["client"] for who in stale} == {"late/0"}


def test_buffered_mode_counts_a_slow_site_with_its_staleness(fed):
    sites = [fed.site(name, trainer="Slow", pause_s=0.05) for name in ("a", "b", "c")]
    sites.append(fed.site("slow", trainer="Slow", pause_s=0.5))
    toml = fed.write(
        sites,
        federation={"mode": "buffered", "rounds": 30},
        buffered={"concurrency": 4, "buffer": 2},
        staleness={"max": 30},
    )
    finished(fed.run(toml))
    versions = fed.versions()[1:]
    assert all(version["accepted"] == 2 for version in versions)
    lags = [
        version["version"] - 1 - who["version"]
        for version in versions
        for who in version["contributors"]
        if who["client"] == "slow/0"
    ]
    assert lags
    assert max(lags) >= 3


def test_broken_trainers_are_named_and_the_others_go_on(fed):
    broken = {
        "nan": "NotFinite", "shape": "OtherShape", "raises": "Raising", "minus": "Negative",
    }  # fmt: skip
    sites = [fed.site("a"), fed.site("b"), *(fed.site(name, trainer=how) for name, how in broken.items())]
    finished(fed.run(fed.write(sites, federation={"rounds": 2})))
    assert [line["accepted"] for line in fed.history()[1:]] == [2, 2]
    reasons = " | ".join(fed.status()["refused"])
    for reason in (
        "not finite",
        "tensor 'weight' is float32",
        "the scanner's driver is missing",
        "-5 examples",
    ):
        assert reason in reasons
    assert "-5 examples" in fed.ask("status").stdout


def test_ctrl_c_leaves_no_process_and_the_next_run_goes_on(fed, wait_for):
    sites = [fed.site(name, trainer="Slow", pause_s=0.2) for name in ("a", "b")]
    toml = fed.write(sites, federation={"rounds": 6})
    first = fed.start(toml)
    wait_for(lambda: len(list(fed.notes.iterdir())) >= 3, timeout_s=30, what="some trainings")
    pids = set(fed.trainings())
    first.send_signal(signal.SIGINT)
    result = fed.done(first)
    assert result.returncode == 130
    assert "go on" in result.stdout
    assert not any(alive(pid) for pid in pids)
    done_before = len(fed.history())
    assert done_before >= 1
    finished(fed.run(toml))
    assert [line["round"] for line in fed.history()] == list(range(7))


def test_stopped_worker_gives_its_assignment_back(fed, wait_for):
    site = fed.site("a", trainer="Gated", gate=str(fed.gate))
    toml = fed.write([site], federation={"rounds": 1})
    coordinator = fed.warren("coordinate", toml, "--out", fed.out, *fed.urls)
    wait_for(lambda: fed.urls or (fed.out / "log").exists(), timeout_s=20, what="the broker's folder")
    first = fed.worker(site, "--grace", "0.1")
    started(fed, wait_for)
    os.kill(first.pid, signal.SIGTERM)
    stopped = fed.done(first)
    assert stopped.returncode == 0
    assert "back" in stopped.stderr
    fed.gate.touch()
    fed.worker(site)
    finished(fed.done(coordinator))


def test_changed_settings_are_refused_with_their_keys(fed):
    toml = fed.write([fed.site("a")], federation={"rounds": 1})
    finished(fed.run(toml))
    result = fed.run(toml, "--set", "training.learning_rate=0.5")
    assert result.returncode == 2
    assert "training.learning_rate" in result.stderr
    assert "Traceback" not in result.stderr
    finished(fed.run(toml, "--set", "training.learning_rate=0.5", "--fresh"))


def test_federation_fails_with_its_reason_when_the_quorum_is_lost(fed):
    sites = [fed.site("a"), fed.site("b", trainer="Raising")]
    toml = fed.write(sites, cohort={"minimum": 2, "deadline_s": 1.0, "on_missing": "stop"})
    result = fed.run(toml)
    assert result.returncode == 4
    assert "1 of at least 2" in result.stderr
    assert "driver is missing" in result.stderr
