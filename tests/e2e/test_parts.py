"""Updates published at bad moments, part by part, or that aren't what they say: sites are played by hand."""

from __future__ import annotations

import pytest

from tests.e2e.puppet import Puppet


@pytest.fixture
def puppet(fed):
    """Makes a site's worker that does what the test says."""
    made = []

    def make(site):
        made.append(Puppet(fed.broker_url, fed.name, site))
        return made[-1]

    yield make
    for each in made:
        each.close()


def begun(fed, puppet, wait_for, sites="ab", **tables):
    """A coordinator whose first round is open, and the sites with their orders."""
    tables = {"evaluation": {"last": False}, **tables}
    coordinator = fed.coordinate(fed.write([fed.site(site) for site in sites], **tables))
    wait_for(lambda: fed.urls or (fed.out / "log").exists(), timeout_s=60, what="the broker")
    played = [puppet(site) for site in sites]
    for each in played:
        each.appear()
    played[0].answer(played[0].order("initialise", 0))
    return coordinator, [(each, each.order("train", 1)) for each in played]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("killed", [False, True], ids=["running", "killed"])
def test_update_whose_parts_straddle_a_closing_counts_in_the_next_round(fed, puppet, wait_for, killed):
    coordinator, ((a, prompt), (b, late)) = begun(
        fed, puppet, wait_for,
        federation={"rounds": 2}, staleness={"max": 1}, cohort={"minimum": 1, "deadline_s": 2.0},
    )  # fmt: skip
    *most, last = b.parts(late)
    b.publish(most[:1])
    a.answer(prompt)
    wait_for(lambda: len(fed.history()) == 2, timeout_s=60, what="the first round's closing")
    b.publish(most[1:])
    if killed:
        coordinator.kill()
        coordinator.wait()
        coordinator = fed.coordinate(fed.folder / "federation.toml")
    b.publish([last])
    result = fed.done(coordinator)
    assert result.returncode == 0, result.stderr
    first, second = fed.versions()[1:]
    assert [who["client"] for who in first["contributors"]] == ["a/0"]
    assert [(who["client"], who["version"]) for who in second["contributors"]] == [("b/0", 0)]
    assert not any(line[verdict] for line in fed.history() for verdict in ("late", "duplicate", "rejected"))


@pytest.mark.timeout(300)
def test_update_whose_last_part_comes_when_its_base_is_too_old_is_late(fed, puppet, wait_for):
    coordinator, ((a, prompt), (b, late)) = begun(
        fed, puppet, wait_for, federation={"rounds": 3}, cohort={"minimum": 1, "deadline_s": 2.0}
    )
    head, *rest = b.parts(late)
    b.publish([head])
    a.answer(prompt)
    a.answer(a.order("train", 2))
    wait_for(lambda: len(fed.history()) == 3, timeout_s=60, what="the second round's closing")
    b.publish(rest)
    a.answer(a.order("train", 3))
    result = fed.done(coordinator)
    assert result.returncode == 0, result.stderr
    for version in fed.versions()[1:]:
        assert [who["client"] for who in version["contributors"]] == ["a/0"]
    assert [line["late"] for line in fed.history()[1:]] == [0, 0, 1]


@pytest.mark.timeout(300)
def test_false_sha_256_is_refused_and_the_true_answer_counts(fed, puppet, wait_for):
    coordinator, ((a, order), (b, other)) = begun(
        fed, puppet, wait_for, federation={"rounds": 1}, cohort={"minimum": 2}
    )
    a.answer(order, sha256="0" * 64)
    b.answer(other)
    a.answer(order)
    result = fed.done(coordinator)
    assert result.returncode == 0, result.stderr
    (line,) = fed.history()[1:]
    assert (line["accepted"], line["rejected"], line["duplicate"]) == (2, 1, 0)
    assert line["reasons"] == {"refused: its payload does not have the SHA-256 that it claims": 1}
