"""The judge itself: an honest federation's logs pass, and each kind of forgery is found."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from dataclasses import replace

import msgpack
import pytest

from tests.chaos.check import check
from tests.chaos.logs import Logs, read
from tests.chaos.run import run
from tests.chaos.setting import Setting
from tests.chaos.wire import contents, rows_of

DEADLINE_S = 90.0


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("honest")
    inside = str(folder / "log")
    setting = Setting("honest", folder / "run", inside, inside, rounds=3, pause_s=0.0)
    assert run(setting, {}, (), DEADLINE_S).wrong == []
    read_back = read("honest", inside)
    # The standby may have taken over after the end.
    end = entries(read_back, "finished")[0]
    return replace(read_back, events=read_back.events[: end + 1])


def encoded(header, payload):
    packed = msgpack.packb(header)
    head = struct.pack("<4sI", b"WRN1", len(packed)) + packed
    return head + bytes(-len(head) % 64) + payload


def rewritten(part, change):
    """The one part of a message after `change(header, rows)`, as an honest sender would have sent it."""
    message = contents([part]).messages[0]
    header, rows = message.header, rows_of(message)
    change(header, rows)
    body = encoded(header, msgpack.packb(rows) if rows else b"")
    return replace(part, body=body, nbytes=len(body), crc32=zlib.crc32(body))


def entries(logs, kind):
    """The places in the journal of the entries of that kind."""
    found = [
        i for i, part in enumerate(logs.events) if part.kind == "journal" and header(part)["kind"] == kind
    ]
    assert found
    return found


def header(part):
    return contents([part]).messages[0].header


def forged(logs, kind, which, change):
    """The logs with one journal entry changed."""
    place = entries(logs, kind)[which]
    events = list(logs.events)
    events[place] = rewritten(events[place], change)
    return replace(logs, events=events)


def complaints(logs):
    return " | ".join(check(logs).wrong)


def test_honest_logs_pass_and_every_version_is_made_again(logs):
    found = check(logs)
    assert found.wrong == []
    assert found.recomputed == 4
    assert found.outcomes["counted"] == 37


def test_the_judge_uses_nothing_of_the_code_that_it_judges():
    code = (
        "import sys, tests.chaos.check; "
        "sys.exit(any(name.split('.')[0] in ('coordinator', 'worker', 'shared') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_an_update_counted_in_two_rounds_is_found(logs):
    earlier = rows_of(contents([logs.events[entries(logs, "round-closing")[1]]]).messages[0])[0]
    said = complaints(forged(logs, "round-closing", 2, lambda _, rows: rows[0].append(earlier[0])))
    assert "is counted 2 times" in said
    assert "has other bits" in said


def test_a_client_counted_twice_in_one_round_is_found(logs):
    said = complaints(forged(logs, "round-closing", 2, lambda _, rows: rows[0].append(rows[0][0])))
    assert "round 2 counts a/0 2 times" in said


def test_an_update_that_is_not_counted_is_found(logs):
    said = complaints(forged(logs, "round-closing", 2, lambda _, rows: rows[0].pop()))
    assert "was never counted" in said
    assert "has other bits" in said


def test_a_row_that_differs_from_its_update_is_found(logs):
    def more(_, rows):
        rows[0][0][3] += 1

    assert "row differs from its update" in complaints(forged(logs, "round-closing", 1, more))


def test_a_broken_chain_is_found(logs):
    def other(header, _):
        header["data"]["parent"] = "00" * 32

    assert "its parent is not" in complaints(forged(logs, "round-closed", 2, other))


def test_verdicts_that_do_not_add_up_are_found(logs):
    def one_less(header, _):
        header["data"]["counts"]["accepted"] -= 1

    assert "verdicts on" in complaints(forged(logs, "round-closing", 2, one_less))


def test_a_changed_word_in_an_update_is_found(logs):
    results = list(logs.results)
    place = next(i for i, part in enumerate(results) if part.kind == "update" and part.count == 2)
    body = results[place].body.replace(b"seconds", b"minutes")
    results[place] = replace(results[place], body=body, crc32=zlib.crc32(body))
    assert "row differs from its update" in complaints(replace(logs, results=results))


@pytest.mark.parametrize("log", ["results", "rounds"])
def test_changed_bytes_are_found(logs, log):
    parts = list(getattr(logs, log))
    place = next(i for i in reversed(range(len(parts))) if parts[i].number == 1)
    body = b"\1" + parts[place].body[1:]
    assert body != parts[place].body
    parts[place] = replace(parts[place], body=body, crc32=zlib.crc32(body))
    said = complaints(replace(logs, **{log: parts}))
    assert ("does not answer its order" if log == "results" else "another digest than it says") in said


@pytest.mark.parametrize("log", ["results", "rounds"])
def test_missing_messages_are_found(logs, log):
    parts = [part for part in getattr(logs, log) if part.number == 0]
    assert complaints(replace(logs, **{log: parts})) != ""


def test_a_message_whose_parts_lie_in_another_order_is_found(logs):
    """Nobody can put it together, so that its update is lost, though all of it is there."""
    place = next(i for i, part in enumerate(logs.results) if part.number == 1)
    one, other = logs.results[place - 1 : place + 1]
    assert one.key == other.key
    turned = [*logs.results[: place - 1], other, one, *logs.results[place + 1 :]]
    assert "lies whole at offset" in complaints(replace(logs, results=turned))
    mended = [*logs.results[:place], other, one, *logs.results[place:]]
    assert complaints(replace(logs, results=mended)) == ""


def test_what_was_sent_twice_counts_where_it_lay_first(logs):
    twice = Logs(*([*parts[:20], *parts[:20], *parts[20:]] for parts in vars(logs).values()))
    assert complaints(twice) == ""


def test_entries_behind_a_gap_count_when_it_is_filled(logs):
    events = list(logs.events)
    place = entries(logs, "round-opened")[1]
    assert complaints(replace(logs, events=[*events[:place], *events[place + 1 :], events[place]])) == ""


def test_a_missing_entry_is_found(logs):
    events = list(logs.events)
    del events[entries(logs, "round-closing")[2]]
    assert "does not end with a success" in complaints(replace(logs, events=events))


@pytest.mark.parametrize(("after", "rules"), [(0, True), (-1, False), (1, False)])
def test_a_leader_counts_only_where_it_says_that_it_comes(logs, after, rules):
    """One that counts makes void what the leader before it still writes."""
    place = entries(logs, "round-closing")[2]
    before = header(logs.events[place])

    def led(header, rows):
        header.update(kind="leader", token="another", number=0)
        header["data"] = {"who": "another", "after": [before["token"], before["number"] + after]}
        rows.clear()

    other = replace(rewritten(logs.events[place], led), message_id="another")
    events = [*logs.events[:place], other, *logs.events[place:]]
    found = check(replace(logs, events=events))
    assert found.story.changes == ({"round-opened": 1} if rules else {})
    assert (found.wrong == []) is not rules
