"""A short run of `make chaos` for each kind of broker."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.run import run, verify
from tests.chaos.services import serving
from tests.chaos.setting import Setting

ROUNDS = 10
KILLS = 12
#: Far more than it takes; a federation that is not done by then hangs.
DEADLINE_S = 300.0


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("broker", "pause_s"), [("embedded", 0.3), ("rabbit", 0.6)])
def test_every_update_is_counted_once_whatever_is_killed(broker, pause_s, tmp_path):
    inside = str(tmp_path / "log")
    calm = Setting("calm", tmp_path / "calm", inside, inside, ROUNDS, pause_s=0.0)
    undisturbed = run(calm, {}, 0, 0, DEADLINE_S)
    assert undisturbed.wrong == []
    with serving(broker, tmp_path) as services:
        setting = replace(
            calm, name="chaos", folder=tmp_path / "chaos", broker=services.broker, state=services.state,
            pause_s=pause_s,
        )  # fmt: skip
        disturbed = run(setting, services.phoenixes, KILLS, 1, DEADLINE_S)
        assert disturbed.wrong == []
        assert disturbed.kills.total() == KILLS
        assert disturbed.digest == undisturbed.digest
        assert verify(setting) == []
