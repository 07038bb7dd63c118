"""Gateways of phones: thousands of clients behind a few sites, a hundred of them a round, over RabbitMQ."""

from __future__ import annotations

import pytest

from tests.e2e.memory import anonymous

MB = 1_000_000
ROUNDS = 30
COHORT = 100


@pytest.fixture
def urls(rabbit_url, redis_url):
    return ["--broker", rabbit_url, "--state", redis_url]


def test_two_thousand_clients_a_hundred_a_round(fed, wait_for):
    sites = [fed.site(name, clients=1000) for name in ("east", "west")]
    toml = fed.write(
        sites,
        federation={"rounds": ROUNDS},
        cohort={"select": "random", "size": COHORT, "minimum": COHORT},
        evaluation={"last": False},
    )
    coordinator = fed.coordinate(toml)
    workers = [fed.worker(site) for site in sites for _ in range(3)]

    def memory_after(rounds):
        wait_for(lambda: len(fed.history()) > rounds, timeout_s=60, what=f"round {rounds}")
        return anonymous(coordinator.pid)

    early, late = memory_after(5), memory_after(ROUNDS - 1)
    result = fed.done(coordinator)
    assert result.returncode == 0, result.stderr
    assert late - early < 4 * MB

    for line in fed.history()[1:]:
        assert (line["assigned"], line["accepted"], line["duplicate"], line["late"]) == (COHORT, COHORT, 0, 0)
    cohorts = [[who["client"] for who in version["contributors"]] for version in fed.versions()[1:]]
    assert all(len(set(cohort)) == COHORT for cohort in cohorts)
    assert len({frozenset(cohort) for cohort in cohorts}) == ROUNDS, "another cohort each round"
    assert {client.partition("/")[0] for cohort in cohorts for client in cohort} == {"east", "west"}

    trained = fed.trainings()
    assert sum(trained.values()) == ROUNDS * COHORT
    assert set(trained) == {worker.pid for worker in workers}
    assert min(trained.values()) >= ROUNDS * COHORT / 6 / 2
