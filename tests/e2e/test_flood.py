"""Sites that write far more than they were asked for: named, dropped, and cut off by the commands shown."""

from __future__ import annotations

import secrets
import shlex

import pytest

from coordinator.flood import REFUSAL
from shared.broker import embedded, rabbit
from shared.broker.port import Part, Publication
from shared.errors import RefusedError
from shared.topology import Topology

MB = 1_000_000
MESSAGE_BYTES = 60_000
MESSAGES = 200
SLOW = pytest.mark.timeout(300)


def flood(broker, topology, site):
    """Writes 12 MB of noise."""
    parts = [Part.single("update", secrets.token_bytes(MESSAGE_BYTES)) for _ in range(MESSAGES)]
    broker.publish([Publication(topology.results, site, part) for part in parts])


@SLOW
def test_a_flood_is_named_and_dropped_and_its_site_counts_again(
    make_fed, federation, rabbit_node, rabbit_url, redis_url, login_of, wait_for
):
    fed = make_fed(federation, ["--broker", rabbit_url, "--state", redis_url])
    suffix = fed.name.removeprefix("f-")
    honest, flooding = (fed.site(f"{name}-{suffix}", trainer="Gated", gate=str(fed.gate)) for name in "ab")
    toml = fed.write(
        [honest, flooding],
        federation={"rounds": 3},
        security={"attest": True},
        cohort={"minimum": 2, "deadline_s": 3.0},
        log={"max_bytes": "64MB"},
    )
    login = flooding["name"]
    coordinator = fed.coordinate(toml)
    urls = {site["name"]: login_of(site["name"]) for site in (honest, flooding)}
    for site in (honest, flooding):
        fed.worker(site, broker_url=urls[site["name"]])
    wait_for(lambda: len(list(fed.notes.iterdir())) == 2, timeout_s=60, what="the first round")

    topology = Topology(fed.name)
    broker = rabbit.connect(urls[login], patience_s=10)
    flood(broker, topology, login)
    wait_for(lambda: f"login {login!r} floods the results log" in fed.said(coordinator), timeout_s=60)
    about = wait_for(lambda: dropped_most(fed, login), timeout_s=60, what="the flood to be read")
    assert about["sent"] < 0.25 * 64 * MB
    commands = about["to_cut_it_off"]
    text = fed.ask("status").stdout
    assert all(command in text for command in commands)
    assert all(command in fed.said(coordinator) for command in commands)

    # Whoever reads the log again comes to the same.
    coordinator.kill()
    coordinator.wait()
    coordinator = fed.coordinate(toml)
    wait_for(lambda: dropped_most(fed, login), timeout_s=60, what="the flood to be read again")
    fed.gate.touch()
    result = fed.done(coordinator)
    assert result.returncode == 0, result.stderr
    first, *others = fed.history()[1:]
    assert first["rejected"] >= MESSAGES
    assert first["reasons"][f"refused: {REFUSAL}"] > MESSAGES / 2
    assert [line["accepted"] for line in fed.history()[1:]] == [2, 2, 2]
    assert sum(line["rejected"] for line in others) == 0
    assert fed.status()["kept"]["results"]["oldest"] == 0

    for command in commands:
        rabbit_node.ctl(*shlex.split(command)[1:])
    with pytest.raises(RefusedError):
        flood(broker, topology, login)
    broker.close()


def dropped_most(fed, login):
    """What status tells of the login, once most of its flood is accounted for."""
    about = fed.status()["floods"].get(login, {})
    return about if about.get("messages", 0) >= MESSAGES and about["dropped"] > MESSAGES / 2 else None


@SLOW
def test_without_logins_too_much_is_said_and_nothing_is_lost(make_fed, federation, wait_for):
    calm = make_fed(federation, [])
    assert calm.run(calm.write([calm.site("a"), calm.site("b")], federation={"rounds": 3})).returncode == 0

    fed = make_fed(federation, [])
    sites = [fed.site(name, trainer="Gated", gate=str(fed.gate)) for name in ("a", "b")]
    run = fed.start(fed.write(sites, federation={"rounds": 3}, log={"max_bytes": "24MB"}))
    wait_for(lambda: len(list(fed.notes.iterdir())) == 2, timeout_s=60, what="the first round")
    broker = embedded.connect(fed.out / "log", "b")
    flood(broker, Topology(fed.name), "b")
    broker.close()
    about = wait_for(lambda: fed.status()["floods"].get("b"), timeout_s=60, what="the flood")
    assert not about["flooding"]
    assert about["dropped"] == 0
    fed.gate.touch()
    result = fed.done(run)
    assert result.returncode == 0, result.stderr
    assert "most by login 'b'; nothing is dropped" in result.stderr
    assert fed.history()[1]["rejected"] == MESSAGES
    assert [line["digest"] for line in fed.history()] == [line["digest"] for line in calm.history()]
