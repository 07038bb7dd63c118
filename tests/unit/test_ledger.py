"""A journal's records become versions; what `log` and `verify` say of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from coordinator import accounts
from coordinator.facts import Rules
from coordinator.journal import Record
from coordinator.ledger import Pages
from coordinator.moves import Seen
from coordinator.verification import Finding
from shared.errors import ConfigError, JournalError, VerificationFailed
from shared.topology import Topology

HINTS = {"task": 5, "checkpoint": -1}
CONFIG = {"federation": {"name": "f", "rounds": 2}, "staleness": {"max": 1}}


@pytest.fixture
def pages():
    return Pages(Topology("f"))


@pytest.fixture
def records(world):
    """Those of two rounds of three clients; the second counts an update on the version before."""
    made = world(Rules(rounds=3, minimum=2, min_clients=3, max_staleness=1, target=2))
    for site in "abc":
        made.feed(Seen(made.now, site, ("0",)))
    made.answer(made.issued[0])
    first = [order for order in made.issued if order.round == 1]
    made.answer(first[0], examples=30)
    made.answer(first[1], refusal="its payload is bad")
    made.answer(first[2])
    second = [order for order in made.issued if order.round == 2]
    made.answer(second[0], examples=30)
    made.answer(second[1], examples=10)
    entries = []
    for entry in made.journal:
        if entry.kind == "federation-started":
            entry = replace(entry, data={**entry.data, "config": CONFIG})
        if entry.kind == "round-closed":
            entry = replace(entry, data={**entry.data, "hints": HINTS})
        entries.append(entry)
    leader = replace(entries[0], kind="leader", data={"who": "process 1 on here"})
    return [Record(n, "token", n, entry) for n, entry in enumerate([leader, *entries])]


def ledger_of(pages, records):
    for record in records:
        pages.take(record)
    return pages.bound()


def test_a_journal_s_rounds_become_versions_with_their_parents(pages, records):
    ledger = ledger_of(pages, records)
    assert list(ledger.versions) == [0, 1, 2]
    chain = [(round_.parent, round_.digest) for round_ in ledger.versions.values()]
    assert [parent for parent, _ in chain] == ["", *(digest for _, digest in chain[:-1])]
    assert [row.client for row in ledger.versions[1].rows] == ["a/0", "c/0"]
    assert ledger.versions[1].task_from == 5
    assert ledger.versions[1].leader.who == "process 1 on here"
    assert ledger.versions[1].refusals == {"refused: its payload is bad": (1, (2,))}
    assert ledger.outcome is None
    assert ledger.made(None).version == 2
    with pytest.raises(ConfigError, match="version 3 is not in the log; there are 0 to 2"):
        ledger.made(3)


def test_versions_of_the_same_bits_are_told_apart(pages, records):
    ledger = ledger_of(pages, records)
    rounds = [replace(round_, digest="same" if round_.version else "d0") for round_ in ledger.rounds]
    same = replace(ledger, rounds=tuple(rounds))
    assert [same.unchanged_since(version) for version in (0, 1, 2)] == [0, 1, 1]
    assert same.known_as == {"d0": [0], "same": [1, 2]}


def test_a_federation_that_was_never_started_has_no_ledger(pages):
    with pytest.raises(ConfigError, match="federation 'f' has nothing in its journal"):
        pages.bound()


def test_an_entry_that_lacks_something_is_named_by_its_offset(pages, records):
    broken = [
        replace(record, entry=replace(record.entry, data={}))
        if record.entry.kind == "round-closed"
        else record
        for record in records
    ]
    with pytest.raises(JournalError, match=r"entry at offset \d+ is not what a coordinator writes"):
        ledger_of(pages, broken)


def test_a_version_s_account_says_who_made_it_by_what_share_and_what_was_refused(pages, records):
    ledger = ledger_of(pages, records)
    made = accounts.versions(ledger, [ledger.versions[1]])[0]
    shares = {who["client"]: who["share"] for who in made["contributors"]}
    assert shares == {"a/0": pytest.approx(0.75), "c/0": pytest.approx(0.25)}
    assert made["refusals"] == {"refused: its payload is bad": {"count": 1, "offsets": [2]}}
    lines = accounts.version_text(made).splitlines()
    assert lines[0] == f"version 1 {made['digest']}"
    assert lines[1] == f"Parent: {ledger.versions[0].digest}"
    assert "    a/0: 30 examples, 75.0%" in lines
    assert "    1 × refused: its payload is bad (at 2)" in lines


def test_what_is_stale_weighs_less(pages, records):
    ledger = ledger_of(pages, records)
    stale = ledger.versions[2].rows[0]._replace(client="s/0", version=0)
    round_ = replace(ledger.versions[2], rows=(ledger.versions[2].rows[0], stale))
    fresh, late = accounts.versions(ledger, [round_])[0]["contributors"]
    assert (fresh["staleness"], late["staleness"]) == (0, 1)
    assert late["share"] == pytest.approx(fresh["share"] / 2**0.5)


def found(version, result="verified", **more):
    return Finding(version, f"{version}" * 64, result, 3, **more)


def test_findings_are_lines_and_those_that_lack_the_same_are_one(capsys):
    verdicts = accounts.Verdicts(as_json=False)
    lacks = ("updates trimmed", "weights trimmed")
    for finding in (
        *(found(version, "unverifiable", lacks=lacks) for version in (0, 1)),
        found(2, "unverifiable", lacks=("updates trimmed",)),
        found(3, "recorded", lacks=("updates trimmed",)),
        found(4),
    ):
        verdicts.take(finding)
    verdicts.end([])
    assert capsys.readouterr().out.splitlines() == [
        "versions 0 to 1: can't be verified any more (updates trimmed, weights trimmed)",
        "version 2 222222222222: can't be verified any more (updates trimmed)",
        "version 3 333333333333: its weights are as recorded, but it can't be made again (updates trimmed)",
        "version 4 444444444444: verified, made again of 3 updates",
        "Versions: 1 verified (4), 1 as recorded, but not made again (3), 3 not verifiable any more (0 to 2)",
    ]


def test_the_first_difference_ends_it_and_the_journal_s_come_first(capsys):
    findings = [
        found(0),
        found(1, "differs", differences=("one", "two")),
        found(2, "differs", differences=("x",)),
    ]
    for faults, said in (([], "^version 1 differs: one$"), (["the journal is bad"], "^the journal is bad$")):
        verdicts = accounts.Verdicts(as_json=True)
        for finding in findings:
            verdicts.take(finding)
        with pytest.raises(VerificationFailed, match=said):
            verdicts.end(faults)
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["differences"] for line in lines[:-1]] == [[], ["one", "two"], ["x"]]
        assert lines[-1] == {"verified": [0], "differs": [1, 2], "journal": faults}


@pytest.mark.parametrize(
    ("numbers", "said"), [([], ""), ([3], "3"), ([0, 1, 2, 5, 7, 8], "0 to 2, 5, 7 to 8")]
)
def test_ranges(numbers, said):
    assert accounts.ranges(numbers) == said
