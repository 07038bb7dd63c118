"""What `coordinator/state/port.py` promises, held against Redis and against SQLite."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from coordinator.state.port import SECTIONS, Changes, Snapshot, StateStore
from coordinator.state.redis import RedisStore
from coordinator.state.sqlite import SqliteStore
from shared.errors import ConfigError, StateUnreachable
from tests.services import RedisServer, free_port

LONG_S = 60.0
SHORT_S = 0.1
EMPTY = Snapshot({section: {} for section in SECTIONS}, [], None)
#: What a coordinator would do, in a process of its own: ask once the word is given.
CONTENDER = """
import sys
from coordinator.state.redis import RedisStore
from coordinator.state.sqlite import SqliteStore
kind, where, federation, token = sys.argv[1:]
store = {"redis": RedisStore, "sqlite": SqliteStore}[kind](where, federation)
print("ready", flush=True)
sys.stdin.readline()
print(store.lease(token, 60.0), flush=True)
"""
#: Writes for as long as it lives; says so after the first.
WRITER = """
import sys
from itertools import count
from coordinator.state.port import Changes
from coordinator.state.sqlite import SqliteStore
store = SqliteStore(sys.argv[1], sys.argv[2])
store.lease("a", 60.0)
for version in map(str, count()):
    store.write("a", Changes(replace={"round": {"version": version}}, history=[version]))
    if version == "3":
        print("writing", flush=True)
"""

OpenStore = Callable[..., StateStore]


def test_a_store_that_nobody_wrote_is_empty(store: StateStore) -> None:
    assert store.read() == EMPTY


# The lease


def test_the_lease_is_the_first_ones(store: StateStore, open_store: OpenStore) -> None:
    assert store.lease("a", LONG_S) == "a"
    assert open_store().lease("b", LONG_S) == "a"
    assert store.read().leader == "a"


def test_an_expired_lease_is_free(store: StateStore, open_store: OpenStore, wait_for: Any) -> None:
    store.lease("a", SHORT_S)
    other = open_store()
    wait_for(lambda: other.lease("b", LONG_S) == "b", what="a's lease to expire")
    assert store.lease("a", LONG_S) == "b"
    assert store.read().leader == "b"


def test_an_expired_lease_has_no_leader(store: StateStore, wait_for: Any) -> None:
    store.lease("a", SHORT_S)
    wait_for(lambda: store.read().leader is None, what="a's lease to expire")


def test_a_renewed_lease_outlives_its_first_time(
    store: StateStore, open_store: OpenStore, federation: str, wait_for: Any
) -> None:
    assert store.lease("a", SHORT_S) == "a"
    assert store.lease("a", LONG_S) == "a"
    clock = open_store(f"{federation}-clock")
    clock.lease("a", 2 * SHORT_S)
    wait_for(lambda: clock.read().leader is None, what="a lease of twice the time to expire")
    assert store.lease("b", LONG_S) == "a"


def test_a_renewal_may_shorten_a_lease(store: StateStore, wait_for: Any) -> None:
    store.lease("a", LONG_S)
    store.lease("a", SHORT_S)
    wait_for(lambda: store.lease("b", LONG_S) == "b", what="the shortened lease to expire")


def test_a_dead_holders_lease_is_taken_over(store: StateStore) -> None:
    store.lease("a", LONG_S)
    assert store.lease("b", LONG_S, instead_of="a") == "b"
    assert store.lease("a", LONG_S) == "b"


def test_a_lease_is_not_taken_from_someone_else(store: StateStore) -> None:
    store.lease("a", LONG_S)
    store.lease("b", LONG_S, instead_of="a")
    assert store.lease("c", LONG_S, instead_of="a") == "b"
    assert store.read().leader == "b"


def test_a_free_lease_needs_no_dead_holder(store: StateStore) -> None:
    assert store.lease("b", LONG_S, instead_of="a") == "b"


def test_only_the_holder_gives_the_lease_back(store: StateStore) -> None:
    store.lease("a", LONG_S)
    store.release("b")
    assert store.read().leader == "a"
    store.release("a")
    assert store.read().leader is None
    assert store.lease("b", LONG_S) == "b"


def test_of_many_threads_one_gets_the_lease(store: StateStore) -> None:
    barrier = threading.Barrier(8)

    def contend(token: str) -> str:
        barrier.wait()
        return store.lease(token, LONG_S)

    with ThreadPoolExecutor(8) as pool:
        winners = set(pool.map(contend, "abcdefgh"))
    assert winners == {store.read().leader}


def test_of_many_processes_one_gets_the_lease(place: Any, store: StateStore, federation: str) -> None:
    command = [sys.executable, "-c", CONTENDER, place.kind, place.where, federation]
    with ThreadPoolExecutor(4) as pool:
        processes = list(pool.map(lambda token: _started([*command, token]), "abcd"))
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = {process.communicate(timeout=30)[0].strip() for process in processes}
    assert answers == {store.read().leader}


# Writing


def test_what_the_holder_writes_everyone_reads(store: StateStore, open_store: OpenStore) -> None:
    store.lease("a", LONG_S)
    changes = Changes(
        replace={"round": {"version": "3", "state": "open"}, "assigned": {"north/0": "id é 😀 \"'\\\n"}},
        merge={"clients": {"north/0": '{"seen": 1.5}'}},
        history=["one", "two"],
    )
    assert store.write("a", changes) is True
    written = open_store().read()
    assert written.sections == {
        **EMPTY.sections,
        "round": {"version": "3", "state": "open"},
        "assigned": {"north/0": "id é 😀 \"'\\\n"},
        "clients": {"north/0": '{"seen": 1.5}'},
    }
    assert list(written.history) == ["one", "two"]
    assert written.leader == "a"


def test_replace_sets_anew_and_merge_adds(store: StateStore) -> None:
    store.lease("a", LONG_S)
    old = {"x": "1", "y": "2"}
    store.write("a", Changes(replace={"accepted": old, "clients": old, "refused": old}))
    store.write("a", Changes(replace={"accepted": {"y": "3"}, "refused": {}}, merge={"clients": {"y": "3"}}))
    sections = store.read().sections
    assert sections["accepted"] == {"y": "3"}
    assert sections["clients"] == {"x": "1", "y": "3"}
    assert sections["refused"] == {}


def test_a_section_may_be_replaced_and_merged_into_at_once(store: StateStore) -> None:
    store.lease("a", LONG_S)
    store.write("a", Changes(merge={"round": {"old": "0"}}))
    store.write("a", Changes(replace={"round": {"x": "1", "y": "1"}}, merge={"round": {"y": "2"}}))
    assert store.read().sections["round"] == {"x": "1", "y": "2"}


@pytest.mark.parametrize(
    ("history_from", "expected"),
    [
        (None, ["0", "1", "2", "new"]),
        (0, ["new"]),
        (1, ["0", "new"]),
        (3, ["0", "1", "2", "new"]),
        # The store was emptied meanwhile: all must be told again.
        (9, ["0", "1", "2"]),
    ],
)
def test_the_history_is_cut_and_continued(
    store: StateStore, history_from: int | None, expected: list[str]
) -> None:
    store.lease("a", LONG_S)
    store.write("a", Changes(history=["0", "1", "2"]))
    made = store.write("a", Changes(history=["new"], history_from=history_from))
    assert list(store.read().history) == expected
    assert made == ("new" in expected)


def test_a_repeated_write_repeats_no_round(store: StateStore) -> None:
    store.lease("a", LONG_S)
    for _ in range(3):
        store.write("a", Changes(history=["0", "1"], history_from=0))
        store.write("a", Changes(history=["2"], history_from=2))
    assert list(store.read().history) == ["0", "1", "2"]


def test_ten_thousand_clients_fit_one_write(store: StateStore) -> None:
    store.lease("a", LONG_S)
    clients = {f"gateway/{number}": str(number) for number in range(10_000)}
    rounds = [str(number) for number in range(10_000)]
    assert store.write("a", Changes(replace={"assigned": clients}, history=rounds))
    written = store.read()
    assert written.sections["assigned"] == clients
    assert list(written.history) == rounds


def test_threads_of_one_holder_lose_nothing_of_each_other(store: StateStore, open_store: OpenStore) -> None:
    store.lease("a", LONG_S)

    def write_many(thread: str) -> None:
        mine = open_store()
        for number in range(50):
            assert mine.lease("a", LONG_S) == "a"
            assert mine.write("a", Changes(merge={"workers": {f"{thread}{number}": "1"}}, history=[thread]))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write_many, "wxyz"))
    written = store.read()
    assert len(written.sections["workers"]) == 200
    assert sorted(written.history) == [thread for thread in "wxyz" for _ in range(50)]


def test_a_write_without_the_lease_changes_nothing(store: StateStore) -> None:
    assert store.write("a", _everything("a")) is False
    assert store.read() == EMPTY


def test_a_write_by_another_than_the_holder_changes_nothing(store: StateStore) -> None:
    store.lease("a", LONG_S)
    store.write("a", _everything("a"))
    before = store.read()
    assert store.write("b", _everything("b")) is False
    assert store.read() == before


def test_a_write_after_the_lease_was_lost_changes_nothing(store: StateStore) -> None:
    store.lease("a", LONG_S)
    store.lease("b", LONG_S, instead_of="a")
    assert store.write("a", _everything("a")) is False
    assert store.write("b", _everything("b")) is True
    assert store.read().sections["round"] == {"by": "b"}


def test_a_write_after_the_lease_expired_changes_nothing(store: StateStore, wait_for: Any) -> None:
    store.lease("a", SHORT_S)
    wait_for(lambda: store.read().leader is None, what="the lease to expire")
    assert store.write("a", _everything("a")) is False
    assert store.read() == EMPTY


def test_readers_see_a_write_whole_or_not_at_all(store: StateStore, open_store: OpenStore) -> None:
    store.lease("a", LONG_S)
    finished = threading.Event()

    def write_versions() -> None:
        for version in map(str, range(150)):
            both = {"version": version}
            store.write("a", Changes(replace={"round": both, "assigned": both}, history=[version]))
        finished.set()

    reader = open_store()
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write_versions)
        while not finished.is_set() and not writing.done():
            seen = reader.read()
            assert seen.sections["round"] == seen.sections["assigned"]
            assert list(seen.history)[-1:] == list(seen.sections["round"].values())
        writing.result()
    assert len(reader.read().history) == 150


# Clearing, and other federations


def test_clear_removes_everything_and_the_lease(store: StateStore) -> None:
    store.lease("a", LONG_S)
    store.write("a", _everything("a"))
    store.clear()
    assert store.read() == EMPTY
    assert store.lease("b", LONG_S) == "b"


def test_federations_share_nothing(store: StateStore, open_store: OpenStore, federation: str) -> None:
    other = open_store(f"{federation}-too")
    store.lease("a", LONG_S)
    store.write("a", _everything("a"))
    assert other.read() == EMPTY
    assert other.lease("b", LONG_S) == "b"
    other.write("b", _everything("b"))
    store.clear()
    assert other.read().sections["round"] == {"by": "b"}
    assert other.read().leader == "b"


@pytest.mark.parametrize("name", ["", "Upper", "a:b", "x" * 41])
def test_a_federation_has_a_plain_name(place: Any, name: str) -> None:
    with pytest.raises(ConfigError, match="federation"):
        place.open(name)


# Redis alone


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.lease("a", LONG_S),
        lambda store: store.release("a"),
        lambda store: store.write("a", Changes()),
        lambda store: store.read(),
        lambda store: store.clear(),
    ],
    ids=["lease", "release", "write", "read", "clear"],
)
def test_a_redis_that_is_away_is_named_without_its_password(call: Callable[[StateStore], Any]) -> None:
    port = free_port()
    store = RedisStore(f"redis://:sesame@127.0.0.1:{port}/0", "hospitals")
    with pytest.raises(StateUnreachable, match=f"127.0.0.1:{port}") as raised:
        call(store)
    assert "sesame" not in str(raised.value)


def test_a_redis_that_refuses_the_login_is_unreachable(redis_url: str) -> None:
    store = RedisStore(redis_url.replace("redis://", "redis://someone:sesame@"), "hospitals")
    with pytest.raises(StateUnreachable) as raised:
        store.read()
    assert "sesame" not in str(raised.value)


def test_a_redis_that_accepts_and_says_nothing_costs_seconds_at_most() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        store = RedisStore(f"redis://127.0.0.1:{port}/0", "hospitals")
        began = time.monotonic()
        with pytest.raises(StateUnreachable, match=str(port)):
            store.read()
    assert time.monotonic() - began < 5


def test_a_restarted_redis_is_found_again_and_empty(own_redis_server: RedisServer) -> None:
    store = RedisStore(own_redis_server.url, "hospitals")
    store.lease("a", LONG_S)
    store.write("a", _everything("a"))
    own_redis_server.kill()
    with pytest.raises(StateUnreachable):
        store.read()
    own_redis_server.start()
    assert store.write("a", _everything("a")) is False
    assert store.read() == EMPTY
    assert store.lease("a", LONG_S) == "a"
    assert store.write("a", _everything("a")) is True


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://127.0.0.1",
        "127.0.0.1:6379",
        "redis://:sesame@host:nowhere/0",
        "redis://:sesame/word@host/0",
    ],
)
def test_a_url_that_is_none_of_redis_is_a_setting_to_mend(url: str) -> None:
    with pytest.raises(ConfigError, match="redis://") as raised:
        RedisStore(url, "hospitals")
    assert "sesame" not in "".join(traceback.format_exception(raised.value))


# SQLite alone


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StateUnreachable, match="file"):
        SqliteStore(tmp_path / "file", "hospitals").read()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"nonsense" * 1000)
    with pytest.raises(StateUnreachable, match=r"state\.db"):
        SqliteStore(tmp_path, "hospitals").lease("a", LONG_S)


def test_a_writer_killed_at_work_leaves_a_whole_state(tmp_path: Path) -> None:
    writer = _started([sys.executable, "-c", WRITER, str(tmp_path), "hospitals"])
    writer.kill()
    writer.communicate()
    store = SqliteStore(tmp_path, "hospitals")
    left = store.read()
    assert list(left.history) == [str(number) for number in range(len(left.history))]
    assert left.sections["round"] == {"version": left.history[-1]}
    assert store.lease("b", LONG_S, instead_of="a") == "b"
    assert store.write("b", Changes(history=["more"]))


def test_many_may_open_a_new_folder_at_once(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)

    def open_and_contend(attempt: int, token: str) -> str:
        store = SqliteStore(tmp_path / str(attempt), "hospitals")
        barrier.wait()
        holder = store.lease(token, LONG_S)
        store.close()
        return holder

    with ThreadPoolExecutor(8) as pool:
        for attempt in range(50):
            holders = set(pool.map(open_and_contend, [attempt] * 8, "abcdefgh"))
            assert len(holders) == 1


def test_a_closed_store_opens_again_when_used(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, "hospitals")
    store.lease("a", LONG_S)
    store.close()
    assert store.read().leader == "a"
    store.close()


def _everything(by: str) -> Changes:
    """One change of every kind."""
    return Changes(
        replace={"round": {"by": by}, "assigned": {by: "1"}, "accepted": {by: "2"}},
        merge={"clients": {by: "3"}, "workers": {by: "4"}, "refused": {by: "5"}},
        history=[by],
        history_from=0,
    )


def _started(command: list[str]) -> subprocess.Popen[str]:
    """The process, after its first line."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process
