"""A short run of `make chaos` for each kind of broker."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.plan import draw
from tests.chaos.run import run, verify
from tests.chaos.services import serving
from tests.chaos.setting import Setting

ROUNDS = 8
KILLS = 12
#: Far more than it takes; a federation that is not done by then hangs.
DEADLINE_S = 300.0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same federation when nothing is killed, in a hurry: neither pauses nor the broker change a bit."""
    folder = tmp_path_factory.mktemp("undisturbed")
    inside = str(folder / "log")
    done = run(Setting("calm", folder / "run", inside, inside, ROUNDS, pause_s=0.0), {}, (), DEADLINE_S)
    assert done.wrong == []
    return done


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("broker", "pause_s"), [("embedded", 0.2), ("rabbit", 0.5)])
def test_every_update_is_counted_once_whatever_is_killed(broker, pause_s, undisturbed, tmp_path):
    with serving(broker, tmp_path) as services:
        setting = replace(
            undisturbed.setting, name="chaos", folder=tmp_path / "chaos", pause_s=pause_s,
            broker=services.broker, state=services.state,
        )  # fmt: skip
        plan = draw(1, KILLS, 0, setting.trainings, bool(services.phoenixes))
        disturbed = run(setting, services.phoenixes, plan, DEADLINE_S)
        assert disturbed.wrong == []
        assert disturbed.kills.total() == KILLS
        assert disturbed.digest == undisturbed.digest
        assert verify(setting) == []
