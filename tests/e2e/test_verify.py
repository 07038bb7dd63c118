"""`warren verify`, `log` and `export` on real runs: untouched, trimmed, and with single bits flipped."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest

from tests.e2e.tampering import bodies, flipped, rewrite_results
from worker.trainers.softmax import SoftmaxRegression

ROUNDS = 4
ADAM = {"server": {"optimizer": "fedadam", "learning_rate": 0.05}}
SOFTMAX = {"features": 5, "classes": 3}
#: Elements of a model of 400 kB, whose parts lie in segment files.
WIDE = 100_000


def finished(result, code=0):
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return result


def found(result):
    """What `verify --json` printed: the findings, and the summary."""
    *findings, summary = [json.loads(line) for line in result.stdout.splitlines()]
    return findings, summary


def arrays_of(path):
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def test_a_run_verifies_and_its_log_and_models_can_be_had(fed):
    sites = [fed.site(name, clients=n) for name, n in (("a", 1), ("b", 2))]
    refused = fed.site("c", trainer="NotFinite")
    rules = {"minimum": 3, "deadline_s": 60.0}
    finished(fed.run(fed.write([*sites, refused], federation={"rounds": ROUNDS}, cohort=rules, **ADAM)))

    findings, summary = found(finished(fed.ask("verify", "--json")))
    assert summary == {"verified": list(range(ROUNDS + 1)), "journal": []}
    assert [finding["digest"] for finding in findings] == [line["digest"] for line in fed.history()]
    lines = finished(fed.ask("verify")).stdout.splitlines()
    assert lines[1] == f"version 1 {fed.history()[1]['digest'][:12]}: verified, made again of 3 updates"
    assert lines[-1] == f"Versions: {ROUNDS + 1} verified (0 to {ROUNDS})"

    (newest,) = [json.loads(line) for line in fed.ask("log", "-n", 1, "--json").stdout.splitlines()]
    assert newest["version"] == ROUNDS
    shares = {who["client"]: who["share"] for who in newest["contributors"]}
    assert shares == {client: pytest.approx(1 / 3) for client in ("a/0", "b/0", "b/1")}
    text = finished(fed.ask("log", "--version", 2)).stdout
    assert text.startswith(f"version 2 {fed.history()[2]['digest']}\nParent: {fed.history()[1]['digest']}\n")
    assert "    b/1: 40 examples, 33.3%\n" in text
    assert re.search(r"    1 × refused: tensor '\w+' holds values that are not finite.* \(at \d+\)\n", text)
    beyond = finished(fed.ask("log", "--version", 99), code=2)
    assert f"version 99 is not in the log; there are 0 to {ROUNDS}" in beyond.stderr

    for version in (1, ROUNDS):
        out = fed.folder / f"{version}.npz"
        said = json.loads(finished(fed.ask("export", "--version", version, "--to", out, "--json")).stdout)
        assert said["digest"] == fed.history()[version]["digest"]
        assert said["made_again"] == ""
    last, left = arrays_of(fed.folder / f"{ROUNDS}.npz"), arrays_of(fed.out / "model.npz")
    assert all((last[name] == left[name]).all() for name in left)


def test_a_running_federation_is_verified_as_far_as_it_has_closed(fed, wait_for):
    np.savez(fed.folder / "initial.npz", **SoftmaxRegression(**SOFTMAX).initial_weights(0))
    site = fed.site("a", trainer="Gated", gate=str(fed.gate))
    model = {"model": {"initial": str(fed.folder / "initial.npz")}}
    running = fed.start(
        fed.write([site], federation={"rounds": 1}, evaluation={"last": False}, **model, **ADAM)
    )
    wait_for(lambda: any(fed.notes.iterdir()), timeout_s=60, what="a training")
    findings, summary = found(finished(fed.ask("verify", "--json")))
    assert summary == {"verified": [0], "journal": []}
    assert (findings[0]["origin"], findings[0]["lacks"]) == ("a file", [])
    fed.gate.touch()
    finished(fed.done(running))
    assert found(finished(fed.ask("verify", "--json")))[1] == {"verified": [0, 1], "journal": []}


def test_logs_that_were_trimmed_are_verified_as_far_as_they_go_back(fed, wait_for):
    sites = [fed.wide_site(name, WIDE) for name in ("a", "b")]
    limits = {"log": {"max_bytes": "4.2MB", "max_age": "2h"}}
    rounds = 20
    finished(fed.run(fed.write(sites, federation={"rounds": rounds}, **limits, **ADAM)))

    def trimmed():
        kept = fed.status()["kept"]
        return min(kept["rounds"]["oldest"], kept["results"]["oldest"]) > 1

    wait_for(trimmed, timeout_s=60, what="retention")
    findings, summary = found(finished(fed.ask("verify", "--json")))
    results = [finding["result"] for finding in findings]
    # What is lost is lost from the begin on, and each log loses what it has too much.
    order = {"unverifiable": 0, "recorded": 1, "verified": 2}
    assert results == sorted(results, key=order.__getitem__)
    assert results[0] == "unverifiable"
    assert results[-1] == "verified"
    oldest = fed.status()["kept"]["rounds"]["oldest"]
    assert min(summary["recorded"] + summary["verified"]) <= oldest
    assert all(findings[version]["lacks"] for version in summary["recorded"])
    lacks = {lack for finding in findings for lack in finding["lacks"]}
    assert {lack.rpartition(" ")[2] for lack in lacks} == {"trimmed"}
    assert {"updates trimmed", "weights trimmed"} <= set(findings[0]["lacks"])
    text = finished(fed.ask("verify")).stdout
    assert re.match(r"versions 0 to \d+: can't be verified any more \(updates trimmed, ", text)
    early = finished(fed.ask("export", "--version", 1), code=2)
    assert f"it holds versions {oldest} to {rounds}" in early.stderr


# --- bits flipped in an embedded broker's folder


@pytest.fixture(scope="module")
def untouched(make_module_fed):
    """Finished runs: one whose messages are small, one whose are not."""
    runs = {}
    for name in ("small", "large"):
        fed = make_module_fed(name, [])
        sites = [fed.wide_site(s, WIDE) if name == "large" else fed.site(s) for s in ("a", "b")]
        finished(fed.run(fed.write(sites, federation={"rounds": ROUNDS}, **ADAM)))
        runs[name] = fed
    return runs


@pytest.fixture
def copied(untouched, tmp_path):
    """A copy of a run; returns its broker's folder, the messages of version 2, and a way to ask about it."""

    def copy(name):
        fed = untouched[name]
        out = tmp_path / "out"
        shutil.copytree(fed.out, out)
        (version,) = [version for version in fed.versions() if version["version"] == 2]
        offsets = {who["client"]: who["offset"] for who in version["contributors"]}
        return out / "log", offsets, lambda command, *more: fed.done(fed.warren(command, out, *more))

    return copy


def behind(all_bodies, offset, parts):
    """The parts of the message that begins at the offset."""
    return [body for body in all_bodies if body.offset >= offset][:parts]


@pytest.mark.parametrize(
    ("run", "part", "at", "repair", "said"),
    [
        ("small", 0, -1, False, "can't be read: part 0 of 1: the part's checksum does not match its bytes"),
        ("small", 0, -1, True, "has a payload without the SHA-256 that it claims"),
        ("small", 0, "worker", True, "has another header than the one that was accepted"),
        ("large", 1, 123_456, False, "can't be read: part 1 of 2: the part's checksum does not match"),
        ("large", 1, 123_456, True, "has a payload without the SHA-256 that it claims"),
    ],
)
def test_a_flipped_bit_of_an_update_is_found_and_named(copied, run, part, at, repair, said):
    folder, offsets, ask = copied(run)
    body = behind(bodies(folder, "results.log"), offsets["b/0"], 2)[part]
    assert (body.segment is not None) == (part == 1)
    body.flip(at, repair)
    result = finished(ask("verify", "--json"), code=5)
    assert f"version 2 differs: the update of b/0 at offset {offsets['b/0']} " in result.stderr
    assert re.search(said, result.stderr)
    findings, summary = found(result)
    assert summary["differs"] == [2]
    assert summary["verified"] == [0, 1, 3, 4]
    assert len(findings[2]["differences"]) == 1


@pytest.mark.parametrize(
    ("repair", "how"), [(False, "can't be read"), (True, "has another header than the one that was accepted")]
)
def test_a_flipped_bit_of_the_last_evaluation_is_found_and_named(copied, repair, how):
    folder, _, ask = copied("small")
    body = bodies(folder, "results.log")[-1]
    body.flip("sha256", repair)
    result = finished(ask("verify"), code=5)
    assert re.search(
        rf"version {ROUNDS} differs: the update of ./0 at offset {body.offset} {how}", result.stderr
    )


@pytest.mark.parametrize("run", ["small", "large"])
@pytest.mark.parametrize("repair", [False, True])
def test_a_flipped_bit_of_a_round_task_is_found_and_named(copied, run, repair):
    folder, _, ask = copied(run)
    parts = 1 if run == "small" else 2
    task = bodies(folder, "rounds.log")[2 * parts : 3 * parts]
    task[-1].flip(-5, repair)
    result = finished(ask("verify"), code=5)
    how = "holds weights of digest" if repair else "can't be read"
    assert f"version 2 differs: the round task of version 2 at offset {task[0].offset} {how}" in result.stderr
    assert "it can't" not in result.stdout.splitlines()[1]
    # Another version's file must not be made of it either; what it was made of is all there.
    exported = finished(ask("export", "--version", 2, "--to", folder / "2.npz")).stdout
    assert "made again: the round task of version 2" in exported


@pytest.mark.parametrize("run", ["small", "large"])
@pytest.mark.parametrize("repair", [False, True])
def test_a_flipped_bit_of_an_optimiser_state_is_found_and_named(copied, run, repair):
    folder, _, ask = copied(run)
    parts = 1 if run == "small" else 2
    state = bodies(folder, "checkpoints.log")[2 * parts : 3 * parts]
    state[-1].flip(-5, repair)
    result = finished(ask("verify"), code=5)
    if repair:
        assert (
            "version 2 differs: made again it has another optimiser state than the recorded" in result.stderr
        )
    else:
        where = f"the optimiser state of version 2 at offset {state[0].offset} can't be read"
        assert f"version 2 differs: {where}" in result.stderr


def test_a_flipped_bit_of_the_journal_is_found_and_named(copied):
    folder, _, ask = copied("small")
    entry = bodies(folder, "events.log")[-1]
    entry.flip(-5, repair=False)
    result = finished(ask("verify"), code=5)
    assert f"the journal's entry at offset {entry.offset} can't be read" in result.stderr


def test_an_update_that_is_gone_from_the_middle_of_a_log_was_not_trimmed(copied):
    folder, offsets, ask = copied("small")
    (update,) = behind(bodies(folder, "results.log"), offsets["a/0"], 1)
    update.remove()
    result = finished(ask("verify"), code=5)
    assert f"the update of a/0 at offset {offsets['a/0']} is missing from the log" in result.stderr


def test_a_segment_file_that_is_gone_is_told_at_once(copied):
    folder, _, ask = copied("large")
    for segment in (folder / "segments").iterdir():
        segment.unlink()
    result = finished(ask("verify"), code=5)
    assert "the folder that holds the logs is damaged: segment" in result.stderr


def test_a_version_whose_weights_never_got_into_the_log_is_made_again(copied, untouched):
    folder, _, ask = copied("small")
    bodies(folder, "rounds.log")[-1].remove()
    said = finished(ask("export", "--to", folder / "last.npz")).stdout
    assert f"version {ROUNDS} (digest {untouched['small'].history()[-1]['digest'][:12]})" in said
    assert f"made again: the round task of version {ROUNDS} is missing from the log" in said
    made, left = arrays_of(folder / "last.npz"), arrays_of(untouched["small"].out / "model.npz")
    assert all((made[name] == left[name]).all() for name in left)


# --- and at a RabbitMQ


@pytest.mark.parametrize("urls", ["services"], indirect=True)
@pytest.mark.parametrize("repair", [False, True])
def test_a_flipped_bit_of_an_update_at_a_rabbitmq_is_found_and_named(fed, repair):
    finished(fed.run(fed.write([fed.site("a"), fed.site("b")], federation={"rounds": 2})))
    (first,) = [version for version in fed.versions() if version["version"] == 1]
    offset = first["contributors"][1]["offset"]

    def change(part):
        return flipped(part, -1, repair) if part.offset == offset else part

    rewrite_results(fed.broker_url, fed.name, change)
    result = finished(fed.ask("verify"), code=5)
    assert f"version 1 differs: the update of b/0 at offset {offset} " in result.stderr
