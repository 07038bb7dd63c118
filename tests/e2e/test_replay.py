"""`warren replay` and `warren fork`, on real runs."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest

LIAR = Path(__file__).with_name("lying_trainers.py")


def finished(result):
    assert result.returncode == 0, result.stderr
    return result


def replayed(fed, *arguments):
    """What a replay prints for machines, once the models are in the folder `replayed`."""
    result = finished(fed.ask("replay", "--to", fed.folder / "replayed", "--json", *arguments))
    return json.loads(result.stdout)


def model(path):
    with np.load(path) as arrays:
        return np.concatenate([arrays[name].ravel() for name in sorted(arrays.files)])


def liar(fed):
    return fed.site("liar", trainer=f"{LIAR}:Lying", features=5, classes=3)


def test_nothing_changed_gives_the_recorded_digests(fed):
    toml = fed.write(
        [fed.site(name, clients=2) for name in ("a", "b")],
        federation={"rounds": 4},
        server={"optimizer": "fedadam", "learning_rate": 0.05},
    )
    finished(fed.run(toml))
    found = replayed(fed)
    assert found["same"]
    assert [line["version"] for line in found["versions"]] == [1, 2, 3, 4]
    assert found["files"] == [str(fed.folder / "replayed" / "version-4.npz")]
    assert (model(found["files"][0]) == model(fed.out / "model.npz")).all()
    # From the middle, each round of its own parent: the optimiser's states are the recorded ones.
    found = replayed(fed, "--from-version", 2, "--one-round-ahead", "--every")
    assert found["same"]
    assert [Path(file).name for file in found["files"]] == ["version-3.npz", "version-4.npz"]
    said = finished(fed.ask("replay", "--to", fed.folder / "replayed")).stdout
    assert "The replay gives the recorded digests, bit for bit." in said


@pytest.mark.parametrize("urls", ["embedded"], indirect=True)
def test_a_median_comes_nearer_than_the_mean_that_a_liar_was_in(fed, make_fed):
    names = ("a", "b", "c", "d")
    honest = make_fed(fed.name, [])
    finished(honest.run(honest.write([honest.site(name) for name in names])))
    finished(fed.run(fed.write([*(fed.site(name) for name in names), liar(fed)])))
    truth = model(honest.out / "model.npz")
    misled = np.linalg.norm(model(fed.out / "model.npz") - truth)
    for overrides in (
        ["--set", "aggregation.rule=median"],
        ["--set", "aggregation.rule=trimmed-mean", "--set", "aggregation.trim=0.2"],
    ):
        found = replayed(fed, *overrides)
        assert not any(line["same"] for line in found["versions"])
        assert any("approximation" in note for note in found["notes"])
        assert np.linalg.norm(model(found["files"][0]) - truth) < 0.5 * misled


def test_a_site_left_out_one_round_ahead_was_never_there(fed, make_fed):
    finished(fed.run(fed.write([fed.site(name) for name in ("a", "b", "c")], federation={"rounds": 2})))
    without = make_fed(fed.name, [])
    finished(
        without.run(without.write([without.site(name) for name in ("a", "b")], federation={"rounds": 1}))
    )
    first = replayed(fed, "--without-site", "c")["versions"][0]
    assert first["replayed_clients"] == ["a/0", "b/0"]
    assert first["replayed"] == without.history()[-1]["digest"]
    assert first["digest"] == fed.history()[1]["digest"]
    refused = fed.ask("replay", "--without-site", "x")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "site 'x' took no part; these did: a, b, c" in refused.stderr


@pytest.mark.parametrize("urls", ["embedded"], indirect=True)
def test_a_longer_deadline_counts_who_came_too_late(fed, wait_for):
    begun = fed.folder / "begun"
    begun.mkdir()
    late = fed.site("late", trainer="Gated", gate=str(fed.gate), notes=str(begun))
    sites = [fed.site("a"), fed.site("b"), late]
    running = fed.start(fed.write(sites, federation={"rounds": 5000}, cohort={"deadline_s": 0.5}))
    wait_for(lambda: len(fed.history()) > 2, timeout_s=60, what="rounds without the late site")
    fed.gate.touch()
    # It begins its next training when its first answer is in the log.
    wait_for(lambda: len(list(begun.iterdir())) > 1, timeout_s=60, what="the late site's answer")
    closed = len(fed.history())
    wait_for(lambda: len(fed.history()) > closed + 1, timeout_s=60, what="a round behind it")
    running.send_signal(signal.SIGINT)
    assert fed.done(running).returncode == 130

    found = replayed(fed, "--set", "cohort.deadline_s=3600")
    first = found["versions"][0]
    assert "late/0" not in first["clients"]
    assert first["replayed_clients"] == ["a/0", "b/0", "late/0"]
    assert first["replayed_seconds"] > first["seconds"]
    assert any("estimated" in note for note in found["notes"])
    found = replayed(fed, "--set", "staleness.max=9999")
    assert "late/0" in {client for line in found["versions"] for client in line["replayed_clients"]}
    assert replayed(fed, "--set", "staleness.discount=constant")["same"]
    refused = fed.ask("replay", "--set", "training.epochs=2")
    assert refused.returncode == 2
    assert "training.epochs can't be replayed" in refused.stderr


def test_a_fork_begins_with_the_recorded_version(fed):
    sites = [fed.site("a"), fed.site("b")]
    finished(fed.run(fed.write(sites, federation={"rounds": 3})))
    name, toml = f"{fed.name}-b", fed.folder / "fork.toml"
    arguments = ["--from-version", 2, "--name", name, "--to", toml, "--set", "training.learning_rate=0.05"]
    said = finished(fed.ask("fork", *arguments)).stdout
    assert f"warren run {toml}" in said
    out = fed.folder / "fork"
    finished(fed.done(fed.warren("run", toml, "--out", out, *fed.urls)))
    log = finished(fed.done(fed.warren("log", out, *fed.urls[:2], "--json"))).stdout.splitlines()
    first = json.loads(log[-1])
    assert first["version"] == 0
    assert first["digest"] == fed.history()[2]["digest"]
    assert first["forked_from"].startswith(f"{fed.name}/")
    assert first["forked_from"].endswith(f"@2:{first['digest']}")
    for change, sentence in (
        ([], f"{toml} is there already"),
        (["--name", fed.name], "the federation itself is named"),
        (["--to", fed.folder / "c.toml", "--from-version", 9], "there are 0 to 3"),
    ):
        refused = fed.ask("fork", *arguments, *change)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert sentence in refused.stderr


@pytest.mark.parametrize("urls", ["embedded"], indirect=True)
def test_other_weights_than_the_forked_ones_are_refused_before_anything_is_written(fed):
    finished(fed.run(fed.write([fed.site("a")], federation={"rounds": 1})))
    toml = fed.folder / "fork.toml"
    finished(fed.ask("fork", "--name", "other", "--to", toml))
    weights = fed.folder / "other-initial.npz"
    with np.load(weights) as arrays:
        np.savez(weights, **{name: arrays[name] + 1 for name in arrays.files})
    out = fed.folder / "fork"
    refused = fed.done(fed.warren("run", toml, "--out", out))
    assert refused.returncode == 2
    assert "does not hold what federation.forked_from says" in refused.stderr
    unbegun = fed.done(fed.warren("log", "--federation", "other", "--broker", out / "log"))
    assert "has nothing in its journal" in unbegun.stderr
