"""Versions found in a log that is read forward once: whole, doubled, foreign, trimmed, damaged."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from coordinator.shelf import Shelf
from coordinator.tapes import Damaged, NotRecorded, Snapshots, Trimmed
from shared import codec

KIND = "round-task"
DIGESTS = ("d0", "d1", "d2", "d3")


class Tape:
    """A log that is a list; its offsets begin at 100."""

    def __init__(self, folder, parts):
        self.shelf = Shelf(folder)
        self.first = None
        self.read = 0
        self._parts = iter([replace(part, offset=100 + n) for n, part in enumerate(parts)])

    def next(self):
        part = next(self._parts, None)
        if part is not None:
            self.first = part.offset if self.first is None else self.first
            self.read += 1
        return part

    def close(self):
        self.shelf.close()


def known(digests):
    """As much of a ledger as it takes."""
    versions = {n: SimpleNamespace(digest=digest, place=-1) for n, digest in enumerate(digests)}

    def unchanged_since(version):
        while version and digests[version - 1] == digests[version]:
            version -= 1
        return version

    known_as = {digest: [n for n, other in enumerate(digests) if other == digest] for digest in digests}
    return SimpleNamespace(versions=versions, known_as=known_as, unchanged_since=unchanged_since)


def message(digest, payload=b"weights", **header):
    return codec.split(KIND, {"digest": digest, **header}, payload)


@pytest.fixture
def snapshots(tmp_path):
    made = []

    def make(*messages, digests=DIGESTS, has_last=True, places=None):
        ledger = known(digests)
        for version, place in (places or {}).items():
            ledger.versions[version].place = place
        tape = Tape(tmp_path, [part for parts in messages for part in parts])
        made.append(Snapshots(tape, ledger, "round task", KIND, place=lambda r: r.place, has_last=has_last))
        return made[-1], tape

    yield make
    for each in made:
        each.close()


def payloads(found, versions):
    return [bytes(found.payload(found.of(version))) for version in versions]


def flipped(parts, number=0):
    body = bytearray(parts[number].body)
    body[-1] ^= 1
    parts[number] = replace(parts[number], body=bytes(body))
    return parts


def test_each_version_is_found_and_no_more_is_read_than_it_takes(snapshots):
    found, tape = snapshots(*(message(digest, digest.encode()) for digest in DIGESTS))
    assert payloads(found, [0, 1]) == [b"d0", b"d1"]
    assert tape.read == 2
    assert payloads(found, [0, 2, 3]) == [b"d0", b"d2", b"d3"]


def test_copies_and_those_of_deposed_leaders_are_passed_over(snapshots):
    logs = [message("d0"), message("d0"), message("other"), message("d1"), message("d0"), message("d2")]
    found, _ = snapshots(*logs, message("d3", b"last"))
    assert payloads(found, range(4)) == [b"weights"] * 3 + [b"last"]


def test_versions_of_the_same_bits_share_a_task_and_have_states_of_their_own(snapshots):
    same = ("d0", "d1", "d1", "d3")
    found, _ = snapshots(message("d0"), message("d1", b"one"), message("d3", b"three"), digests=same)
    assert payloads(found, range(4)) == [b"weights", b"one", b"one", b"three"]
    states = [message("d1", b"one"), message("d1", b"one"), message("d1", b"two"), message("d3", b"three")]
    found, _ = snapshots(message("d0"), *states, digests=same)
    assert payloads(found, range(4)) == [b"weights", b"one", b"two", b"three"]


def test_a_trimmed_log_begins_where_it_begins(snapshots):
    cut = codec.split(KIND, {"digest": "d1"}, bytes(200_000), 100_000)[1:]
    found, tape = snapshots(cut, message("d2"), message("d3"))
    for version in (0, 1):
        with pytest.raises(Trimmed):
            found.of(version)
    assert tape.read == 3
    assert payloads(found, [2, 3]) == [b"weights"] * 2


def test_what_is_damaged_is_named_with_its_offset_and_the_others_are_found(snapshots):
    large = codec.split(KIND, {"digest": "d2"}, bytes(200_000), 100_000)
    found, _ = snapshots(message("d0"), flipped(message("d1")), flipped(large, 2), message("d3"))
    found.of(0)
    with pytest.raises(Damaged, match="of version 1 at offset 101 can't be read: part 0 of 1"):
        found.of(1)
    with pytest.raises(Damaged, match="of version 2 at offset 102 can't be read: part 2 of 3"):
        found.of(2)
    assert payloads(found, [3]) == [b"weights"]


def test_a_damaged_copy_is_no_loss_while_there_is_another(snapshots):
    found, _ = snapshots(message("d0"), flipped(message("d1")), message("d1"), message("d2"))
    assert payloads(found, range(3)) == [b"weights"] * 3


@pytest.mark.parametrize(
    ("logs", "places", "version"),
    [
        ((message("d0"), message("d2"), message("d3")), {}, 1),
        ((message("d2"), message("d3")), {2: 100}, 1),
        ((message("dx", version=0), message("d1")), {}, 0),
        ((message("d0"), message("d1"), message("d2")), {}, 3),
    ],
    ids=["between others", "behind its place", "another in its place at the log's begin", "the last"],
)
def test_what_must_be_there_and_is_not_is_missing(snapshots, logs, places, version):
    found, _ = snapshots(*logs, places=places)
    with pytest.raises(Damaged, match=f"of version {version} is missing from the log"):
        found.of(version)


def test_the_last_version_may_not_be_there_yet(snapshots):
    found, _ = snapshots(message("d0"), message("d1"), message("d2"), has_last=False)
    with pytest.raises(NotRecorded) as said:
        found.of(3)
    assert not isinstance(said.value, Damaged | Trimmed)
