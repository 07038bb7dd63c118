"""One process is killed or frozen at one place after another, through a whole federation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from random import Random
from typing import Any

import pytest

from coordinator.config import Config
from shared.errors import LeadershipLost
from tests.simulation.process import Process
from tests.simulation.scenario import Scenario, Site
from tests.simulation.strike import (
    How,
    Run,
    Strike,
    at_any_place,
    at_command,
    at_port_of,
    cut_off,
    dying,
    freezing,
    overtaken,
    run,
)
from tests.simulation.world import World

#: Much more than it takes, also where other things run.
pytestmark = pytest.mark.timeout(900)

#: Long enough for a standby to take over, and to bring the federation to its end.
TAKEN_OVER_S, FINISHED_S = 12.0, 90.0


def scenario(mode: str, coordinators: int, **more: Any) -> Scenario:
    """A small federation whose deadlines are no hurry: all that is lost has to be found again."""
    config = {
        "federation": {"name": "simulated", "rounds": 2, "seed": 7, "mode": mode},
        "cohort": {"min_clients": 3, "deadline_s": 300.0, "absent_s": 300.0},
        "buffered": {"concurrency": 3, "buffer": 2},
        "staleness": {"max": 1},
        "server": {"optimizer": "fedadam", "learning_rate": 0.5},
    }
    sites = (Site("a", 1), Site("b", 2, workers=2))
    return Scenario(Config.model_validate(config), sites, coordinators, **more)


def each_place(given: Scenario, is_meant: Callable[[Process, str], bool], how: How) -> Iterator[Run]:
    """A run for each place that the first victim would pass, after one in which nothing happens."""
    undisturbed = run(given, Strike(is_meant, how))
    assert undisturbed.findings.wrong == []
    for number in count():
        struck = run(given, Strike(is_meant, how, [number]))
        if number >= len(struck.strike.places):
            assert number >= len(undisturbed.strike.places)
            return
        assert struck.findings.wrong == [], f"struck at place {number}: {struck.strike.place}"
        if given.config.federation.mode == "rounds":
            assert struck.findings.digest == undisturbed.findings.digest
        yield struck


@pytest.mark.parametrize("mode", ["rounds", "buffered"])
def test_coordinator_killed_before_and_after_each_command(mode):
    runs = list(each_place(scenario(mode, 1), at_command, dying))
    assert {"before Append", "after Append", "after Issue", "after Fold", "after Admit", "after Finish"} <= {
        each.strike.place for each in runs
    }
    assert all(each.findings.leaders == 2 for each in runs)


@pytest.mark.parametrize("mode", ["rounds", "buffered"])
def test_coordinator_killed_while_updates_are_half_there(mode):
    runs = list(each_place(scenario(mode, 1, in_parts=True, large=0.3), at_command, dying))
    assert len(runs) > 40


@pytest.mark.parametrize("mode", ["rounds", "buffered"])
@pytest.mark.parametrize("coordinators", [1, 2])
def test_coordinator_killed_and_then_its_successors(mode, coordinators):
    given, rng = scenario(mode, coordinators), Random(1)
    undisturbed = run(given, Strike(at_any_place, dying))
    for _ in range(30):
        at = [rng.randrange(len(undisturbed.strike.places)), rng.randrange(40), rng.randrange(20)]
        struck = run(given, Strike(at_any_place, dying, at))
        assert struck.findings.wrong == [], f"struck at {at}"
        if mode == "rounds":
            assert struck.findings.digest == undisturbed.findings.digest, f"struck at {at}"


@pytest.mark.parametrize("mode", ["rounds", "buffered"])
def test_coordinator_killed_at_each_use_of_a_port(mode):
    runs = list(each_place(scenario(mode, 2), at_port_of("coordinator"), dying))
    assert len(runs) > 60


@pytest.mark.parametrize("mode", ["rounds", "buffered"])
@pytest.mark.parametrize("how", [freezing(TAKEN_OVER_S), freezing(FINISHED_S), overtaken])
def test_coordinator_that_is_replaced_at_each_command_writes_nothing_that_counts(mode, how):
    for each in each_place(scenario(mode, 2), at_command, how):
        end = each.ends[each.strike.victim]
        if how is not overtaken:  # it could know that its lease had run out
            assert set(each.shown[each.strike.victim]) <= set(each.findings.digests)
        if each.findings.finished_by == each.strike.victim:
            assert end == 0
        else:
            assert isinstance(end, LeadershipLost), f"replaced at {each.strike.place}: {end!r}"


@pytest.mark.parametrize("mode", ["rounds", "buffered"])
def test_coordinator_s_line_cut_at_each_use_of_a_port(mode):
    for each in each_place(scenario(mode, 1), at_port_of("coordinator"), cut_off):
        assert each.ends[each.strike.victim] == 0


@pytest.mark.parametrize("how", [dying, cut_off])
def test_worker_struck_at_each_use_of_a_port(how):
    runs = list(each_place(scenario("rounds", 1), at_port_of("b-"), how))
    assert {"publish update", "published update"} <= {each.strike.place for each in runs}


def test_mark_that_the_broker_lost_is_published_again():
    def lose_it(world: World, _: Process) -> None:
        world.server.lose(world.server.logs[world.topology.results_log], 1)

    given = scenario("buffered", 1, lossy=True)
    struck = run(given, Strike(lambda _, what: what.startswith("follow") and "results" in what, lose_it, [0]))
    assert struck.findings.wrong == []
    assert struck.ends[struck.strike.victim] == 0
