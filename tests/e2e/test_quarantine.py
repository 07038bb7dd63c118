"""What was refused is listed, looked into, and let in by an operator: whole federations, on both brokers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from coordinator import journal
from shared import codec
from shared.broker.connect import connect
from shared.broker.port import Part, Publication
from shared.messages import Readmit
from shared.topology import Topology

#: A loaded machine takes its time for ten commands and two runs.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def quarantine(fed):
    """Asks `warren quarantine …` about the federation; returns the finished process."""

    def ask(command, *arguments):
        return fed.done(fed.warren("quarantine", command, *arguments, fed.out, *fed.urls))

    return ask


@pytest.fixture
def broker(fed):
    """The coordinator's login at the federation's broker."""
    made = connect(fed.broker_url, "coordinator", patience_s=60)
    yield made
    made.close()


def told(broker, topology):
    """The run, and the decisions on requests, as the journal has them."""
    entries = [record.entry for record in journal.read(broker, topology)]
    (run,) = [entry.data["run"] for entry in entries if entry.kind == "federation-started"]
    return run, [entry.data for entry in entries if entry.kind == "readmitted"]


def test_a_refused_update_is_listed_looked_into_and_let_in_once(fed, quarantine, wait_for, request):
    sites = [
        fed.site("a"),
        fed.site("huge", trainer="Huge"),
        fed.site("nan", trainer="NotFinite"),
        fed.site("slow", trainer="Gated", gate=str(fed.gate)),
    ]
    rules = {"minimum": 3, "deadline_s": 600.0, "on_missing": "wait"}
    toml = fed.write(sites, federation={"rounds": 1}, cohort=rules, evaluation={"last": False})
    running = fed.start(toml)
    wait_for(lambda: fed.said(running).count("update refused") >= 2, timeout_s=100, what="two refusals")

    def listed():
        made = {case["client"]: case for case in json.loads(quarantine("list", "--json").stdout)["cases"]}
        return made if len(made) == 2 else None

    cases = wait_for(listed, timeout_s=60, what="two cases in the store")
    huge, bad = cases["huge/0"], cases["nan/0"]
    assert "absurdly large" in huge["reason"]
    assert huge["out"] == ""
    assert "not finite" in bad["out"]
    shown = json.loads(quarantine("show", huge["id"][:12], "--json").stdout)["message"]
    assert shown["offset"] == huge["offset"]
    assert [tensor["high"] for tensor in shown["tensors"]] == pytest.approx([1e25, 1e25])

    never = quarantine("readmit", bad["offset"])
    assert never.returncode == 2
    assert "not finite" in never.stderr
    let_in = quarantine("readmit", huge["offset"], "--reason", "they count in nanometres")
    assert let_in.returncode == 0, let_in.stderr
    assert "counts in round 1" in let_in.stdout

    running.kill()
    running.wait()
    nobody = quarantine("readmit", huge["offset"])
    assert nobody.returncode == 4
    assert "no coordinator" in nobody.stderr
    # The request had been decided, and its message not yet acked: the broker delivers it again.
    broker, topology = request.getfixturevalue("broker"), Topology(fed.name)
    run, decided = told(broker, topology)
    assert [bool(data["refused"]) for data in decided] == [True, False]
    update = decided[-1]["update"]
    again = Readmit(fed.name, run, update["offset"], update["message_id"], update["sender"], "", "ann")
    part = Part.single(Readmit.KIND, codec.encode(again.to_header()))
    broker.publish([Publication(topology.dead, "", replace(part, message_id=decided[-1]["request"]))])
    fed.gate.touch()
    result = fed.run(toml)
    assert result.returncode == 0, result.stderr
    assert told(broker, topology) == (run, decided)
    version = fed.versions()[-1]
    who = {each["client"]: each for each in version["contributors"]}
    assert set(who) == {"a/0", "huge/0", "slow/0"}
    assert who["huge/0"]["readmitted"]["reason"] == "they count in nanometres"
    assert (version["accepted"], version["readmitted"]) == (3, 1)
    with np.load(fed.out / "model.npz") as model:
        assert all((model[name] > 1e24).all() for name in model.files)
    verified = fed.ask("verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
