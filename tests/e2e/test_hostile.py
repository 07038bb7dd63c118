"""A federation under attack: ten thousand hostile messages in its results log, while it runs."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.flood import REFUSAL
from coordinator.reading import read_log
from shared.broker.connect import connect
from shared.broker.port import FIRST, Publication
from shared.messages import Update
from shared.topology import Topology
from shared.weights import Weights
from tests.e2e.hostile import NUMBER, Target, messages
from tests.e2e.memory import Peaks, anonymous

MB = 1_000_000
ROUNDS = 6
CHUNK = 500
VERDICTS = ("late", "duplicate", "rejected", "failed")
#: Some of what messages are refused for, whoever sent them.
REASONS = (
    "does not begin with WRN1", "malformed msgpack", "is no part", "work is 'xxx", "is not registered",
    "names no client", "at most 1099511627776 bytes",
)  # fmt: skip
#: And where nothing tells that they aren't of the client they speak for.
DEEP_REASONS = (
    "another layout", "not finite", "absurdly large", "examples", "another run", "SHA-256",
    "contradicts its own assignment", "was not assigned", "no version of this model", "the layout 72",
)  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(make_module_fed):
    """The federation when nobody attacks it."""
    fed = make_module_fed("undisturbed", [])
    result = fed.run(fed.write([fed.site("a"), fed.site("b")], federation={"rounds": ROUNDS}))
    assert result.returncode == 0, result.stderr
    return fed


@pytest.fixture(params=["embedded", "services"])
def place(request, make_fed, federation):
    """A federation, and what makes its sites' logins: at RabbitMQ real ones."""
    if request.param == "embedded":
        fed = make_fed(federation, [])
        return fed, lambda site: fed.broker_url
    rabbit_url, redis_url = (request.getfixturevalue(name) for name in ("rabbit_url", "redis_url"))
    fed = make_fed(federation, ["--broker", rabbit_url, "--state", redis_url])
    return fed, request.getfixturevalue("login_of")


def held_round(fed):
    """The open round that nothing is missing in but the answer which waits at the gate; None: not yet."""
    before, now = fed.status(), fed.status()
    held = before["round"] == now["round"] and now["round"]["state"] == "open" and now["accepted"] == 1
    return now["round"] if held else None


def target_of(fed, undisturbed, round_):
    """What one who has broken in everywhere may know: the open round, and all that lies in the log."""
    broker = connect(fed.broker_url, "reader")
    log = read_log(broker, Topology(fed.name).results, fed.name, FIRST)
    real = [part for part in log if part.kind == Update.KIND and part.parts == 1]
    broker.close()
    with np.load(undisturbed.out / "model.npz") as arrays:
        layout = Weights.from_arrays(dict(arrays)).layout
    return Target(
        fed.name, round_["run"], int(round_["number"]), int(round_["version"]), round_["digest"], "b/0",
        layout.digest, layout.nbytes, real,
    )  # fmt: skip


def attack(url, target):
    """Publishes it all; returns how many of the messages are to get a verdict."""
    broker = connect(url, "mallory")
    made = list(messages(7, target))
    assert len(made) == NUMBER
    for start in range(0, NUMBER, CHUNK):
        parts = [part for message in made[start : start + CHUNK] for part in message.parts]
        broker.publish([Publication(Topology(target.federation).results, "mallory", part) for part in parts])
    broker.close()
    return sum(message.is_judged for message in made)


@pytest.mark.timeout(500)
def test_ten_thousand_hostile_messages_change_nothing(place, undisturbed, wait_for):
    fed, url_of = place
    attested = bool(fed.urls)
    sites = [fed.site("a"), fed.site("b", trainer="Gated", gate=str(fed.gate))]
    toml = fed.write(
        sites,
        federation={"rounds": ROUNDS},
        cohort={"minimum": 2, "deadline_s": 300.0, "absent_s": 300.0},
        security={"attest": attested},
    )
    fed.gate.touch()
    coordinator = fed.coordinate(toml)
    wait_for(lambda: fed.urls or (fed.out / "log").exists(), timeout_s=60, what="the broker")
    for site in sites:
        fed.worker(site, broker_url=url_of(site["name"]))
    wait_for(lambda: len(fed.history()) >= 2, timeout_s=100, what="a round")
    fed.gate.unlink()

    held = wait_for(lambda: held_round(fed), timeout_s=100, what="a round that is held")
    target = target_of(fed, undisturbed, held)
    before = anonymous(coordinator.pid)
    with Peaks([coordinator.pid]) as peaks:
        judged = attack(url_of("mallory"), target)
        fed.gate.touch()
        wait_for(lambda: coordinator.poll() is not None, timeout_s=200, what="the federation's end")
    result = fed.done(coordinator)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert peaks.anonymous[coordinator.pid] - before < 32 * MB
    assert len(result.stderr.splitlines()) < 300

    history = fed.history()
    assert [line["digest"] for line in history] == [line["digest"] for line in undisturbed.history()]
    assert all(line["accepted"] == 2 for line in history[1:])
    assert sum(line[verdict] for line in history for verdict in VERDICTS) == judged
    reasons = " | ".join(reason for line in history for reason in line["reasons"])
    for reason in (*REASONS, *(() if attested else DEEP_REASONS)):
        assert reason in reasons
    assert (REFUSAL in reasons) == attested
    verified = fed.ask("verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    shown = fed.ask("status")
    assert shown.returncode == 0, shown.stderr
    assert "\x1b" not in shown.stdout
