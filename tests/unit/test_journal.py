"""The journal: who leads, what is void, and what is missing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.facts import Entry
from coordinator.journal import Reader, Writer, watch
from shared.errors import LeadershipLost
from shared.topology import Topology


class Log:
    """A broker that only remembers what was published, each part at an offset."""

    def __init__(self) -> None:
        self.parts = []

    def publish(self, publications, *, then_ack=None, locate=False):
        for publication in publications:
            self.parts.append(replace(publication.part, offset=5 + 2 * len(self.parts)))
        return -1


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def leader(log):
    def make(token):
        writer = Writer(log, Topology("f"), token)
        writer.lead(1.0, token, read(log)[1].place)
        return writer

    return make


def note(text):
    return [Entry("registered", 2.0, {}, [[text, ["0"]]])]


def read(log, parts=None):
    reader = Reader()
    records = [record for part in (log.parts if parts is None else parts) for record in reader.feed(part)]
    return [record.entry.rows[0][0] for record in records if record.entry.rows], reader


def test_entries_of_a_deposed_leader_are_void(log, leader):
    first = leader("one")
    first.append(note("a"))
    second = leader("two")
    first.append(note("void"))
    second.append(note("b"))
    entries, reader = read(log)
    assert entries == ["a", "b"]
    assert reader.epoch == log.parts[2].offset


def test_a_deposed_leader_s_repeated_leader_entry_does_not_bring_it_back(log, leader):
    first = leader("one")
    leader("two").append(note("a"))
    log.parts.append(replace(log.parts[0], offset=99))
    first.append(note("void"))
    entries, reader = read(log)
    assert entries == ["a"]
    assert reader.leader == "two"


def test_entries_sent_once_more_count_once(log, leader):
    writer = leader("one")
    writer.append(note("a"))
    writer.append(note("b"))
    assert read(log, [*log.parts, *log.parts])[0] == ["a", "b"]


def test_what_stands_behind_a_gap_counts_once_its_leader_has_filled_it(log, leader):
    writer = leader("one")
    for text in "abc":
        writer.append(note(text))
    del log.parts[2]
    entries, reader = read(log)
    assert (entries, reader.held) == (["a"], 1)
    writer.restore()
    entries, reader = read(log)
    assert (entries, reader.held) == (["a", "b", "c"], 0)


def test_what_stands_behind_a_gap_is_void_once_another_leads(log, leader, caplog):
    first = leader("one")
    for text in "abc":
        first.append(note(text))
    del log.parts[2]
    second = leader("two")
    first.restore()
    second.append(note("d"))
    assert read(log)[0] == ["a", "d"]
    assert "lacks entry 2" in caplog.text


def test_who_has_not_read_all_that_counts_does_not_lead(log, leader):
    first = leader("one")
    late = Writer(log, Topology("f"), "late")
    place = read(log)[1].place
    first.append(note("a"))
    late.lead(2.0, "late", place)
    late.append(note("void"))
    first.append(note("b"))
    entries, reader = read(log)
    assert (entries, reader.leader) == (["a", "b"], "one")
    late.lead(3.0, "late", reader.place)
    late.append(note("c"))
    assert read(log)[0] == ["a", "b", "c"]


def test_a_leader_whose_own_beginning_was_lost_restores_it(log, leader):
    leader("one").append(note("a"))
    second = leader("two")
    second.append(note("b"))
    del log.parts[2:]
    second.restore()
    assert read(log)[0] == ["a", "b"]


def test_a_reader_that_begins_at_a_leader_s_entry_trusts_it(log, leader):
    leader("one").append(note("a"))
    leader("two").append(note("b"))
    reader = Reader(trusted=log.parts[2].offset)
    records = [record for part in log.parts[2:] for record in reader.feed(part)]
    assert [record.number for record in records] == [0, 1]
    assert reader.leader == "two"


def test_large_entries_travel_in_parts(log, leader):
    rows = [[f"site-{n}", [str(k) for k in range(50)]] for n in range(1000)]
    leader("one").append([Entry("registered", 2.0, {}, rows)])
    assert len(log.parts) > 2
    reader = Reader()
    record = [reader.feed(part) for part in log.parts][-1][0]
    assert record.entry.rows == rows


def test_garbage_is_passed_over(log, leader, caplog):
    writer = leader("one")
    writer.append(note("a"))
    log.parts.append(replace(log.parts[-1], message_id="x", body=b"garbage", nbytes=7, crc32=0, offset=50))
    writer.append(note("b"))
    assert read(log)[0] == ["a", "b"]
    assert "offset 50" in caplog.text


def test_a_live_leader_notices_a_later_one(log, leader):
    leader("one")
    check = watch(Reader(), "one")
    check(log.parts[0])
    leader("two")
    with pytest.raises(LeadershipLost, match="two leads"):
        check(log.parts[1])
