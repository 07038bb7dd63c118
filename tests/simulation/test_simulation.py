"""Whole federations under faults: every one ends, or stops for a named reason, and its logs add up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.config import Config
from tests.simulation.__main__ import again
from tests.simulation.invariants import undisturbed_digest
from tests.simulation.run import simulate
from tests.simulation.scenario import Scenario, Site

#: Much more than it takes, also where other things run.
pytestmark = pytest.mark.timeout(900)

SEEDS = 500
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("first", range(0, SEEDS, 50))
def test_federations_survive_their_seeds_faults(first):
    wrong = {seed: simulate(seed).wrong for seed in range(first, first + 50)}
    assert not any(wrong.values()), [(again(seed, False), w) for seed, w in wrong.items() if w]


def test_seeds_meet_every_kind_of_fault():
    faults = sum((simulate(seed).faults for seed in range(60)), start=simulate(0).faults)
    kinds = {"kill", "stop", "freeze", "cut", "cut store", "wipe store", "restart broker", "move clock"}
    assert kinds | {"die at a step", "freeze at a step", "cut at a step"} == faults.keys()


@pytest.mark.parametrize("optimizer", ["fedavg", "fedadam"])
def test_without_faults_the_last_version_is_what_the_trainings_make(optimizer):
    config = Config.model_validate(
        {
            "federation": {"name": "simulated", "rounds": 4, "seed": 3},
            "cohort": {"min_clients": 3},
            "server": {"optimizer": optimizer},
        }
    )
    result = simulate(1, scenario=Scenario(config, (Site("a", 2), Site("b", 1))))
    assert result.wrong == []
    assert result.digest == undisturbed_digest(config, ["a/0", "a/1", "b/0"], 4)


def test_a_seed_gives_the_same_run_whatever_pythons_hashes_are():
    def trace(hash_seed: str) -> str:
        command = [sys.executable, "-m", "tests.simulation", "--seed", "11", "--trace"]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        ).stdout

    first = trace("1")
    assert first.count("\n") > 100
    assert trace("2") == first
