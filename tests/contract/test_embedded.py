"""What the embedded broker promises beyond the port: its folder, its files, and processes that die in it."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from shared.broker import _locks, _wakeup
from shared.broker.embedded import EmbeddedBroker, connect
from shared.broker.port import FIRST, NEXT, Delivery, Part, Publication
from shared.errors import BrokerUnreachable, ConfigError, RefusedError, UnroutableError
from shared.topology import Queue, Topology

SOON_S = 20.0
LARGE = 100_000
TOPOLOGY = Topology("embedded")
WORK = TOPOLOGY.site_queue("clinic")

CHILD = """
import os, signal, sys
from pathlib import Path
from queue import SimpleQueue
from shared.broker.embedded import connect
from shared.broker.port import FIRST, Part, Publication
broker = connect(Path(sys.argv[1]), "child")
queue, results = sys.argv[2:]
got = SimpleQueue()
"""

Inbox = SimpleQueue[Delivery]
Spawn = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "log"


@pytest.fixture
def broker(folder: Path) -> Iterator[EmbeddedBroker]:
    made = connect(folder, "coordinator")
    made.declare(TOPOLOGY.exchanges(), [*TOPOLOGY.queues(), WORK])
    yield made
    made.close()


@pytest.fixture
def spawn(folder: Path) -> Iterator[Spawn]:
    """Starts a process that runs a script behind CHILD; all are killed at the end."""
    children: list[subprocess.Popen[str]] = []

    def start(script: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CHILD + script, str(folder), WORK.name, TOPOLOGY.results]
        children.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.communicate()


def _work(body: bytes) -> Publication:
    return Publication(TOPOLOGY.assignments, "clinic", Part.single("test", body))


def _event(body: bytes) -> Publication:
    return Publication(TOPOLOGY.events, "x", Part.single("test", body))


def _segments(folder: Path) -> list[str]:
    return os.listdir(folder / "segments")


class TestFolder:
    def test_what_was_published_is_there_after_a_restart(self, broker: EmbeddedBroker, folder: Path) -> None:
        broker.publish([_event(b"small"), _event(b"large" * LARGE), _work(b"work")])
        broker.close()
        again, log, queue = connect(folder, "x"), Inbox(), Inbox()
        again.follow(TOPOLOGY.events_log, FIRST, log.put)
        again.consume(WORK.name, queue.put)
        bodies = [log.get(timeout=SOON_S).part.body for _ in range(2)]
        assert bodies == [b"small", b"large" * LARGE]
        assert queue.get(timeout=SOON_S).part.body == b"work"
        again.close()

    def test_another_programs_database_is_left_alone(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        with sqlite3.connect(folder / "broker.db") as other:
            other.execute("CREATE TABLE theirs (x)")
        other.close()
        before = (folder / "broker.db").read_bytes()
        with pytest.raises(ConfigError, match="another program"):
            connect(folder, "x")
        assert (folder / "broker.db").read_bytes() == before

    def test_a_newer_database_asks_for_an_upgrade(self, broker: EmbeddedBroker, folder: Path) -> None:
        broker.close()
        with sqlite3.connect(folder / "broker.db") as newer:
            newer.execute("PRAGMA user_version = 99")
        newer.close()
        with pytest.raises(ConfigError, match="upgrade"):
            connect(folder, "x")

    def test_damage_to_the_folder_is_told(self, broker: EmbeddedBroker, folder: Path) -> None:
        broker.publish([_event(b"small"), _event(b"large" * LARGE)])
        assert broker.damage() == []
        (name,) = _segments(folder)
        size = (folder / "segments" / name).stat().st_size
        os.truncate(folder / "segments" / name, 7)
        assert broker.damage() == [f"segment {name} has 7 bytes of {size}"]
        with sqlite3.connect(folder / "broker.db") as changed:
            changed.execute("UPDATE queues SET arguments = '{' WHERE name = ?", (TOPOLOGY.rounds_log,))
        changed.close()
        assert f"the arguments of queue {TOPOLOGY.rounds_log} can't be read" in broker.damage()

    def test_what_is_no_database_is_refused(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "broker.db").write_text("a poem, of more than a hundred characters " * 5)
        with pytest.raises(ConfigError, match="choose another folder"):
            connect(folder, "x")

    def test_a_file_is_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError, match="can't be used"):
            connect(tmp_path / "file", "x")

    def test_stop_ends_the_wait_for_a_hung_process(self, broker: EmbeddedBroker, folder: Path) -> None:
        stop = threading.Event()
        stop.set()
        with open(folder / "broker.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(BrokerUnreachable, match="stopped"):
                connect(folder, "x", stop)

    def test_a_hung_process_is_named_as_the_cause(
        self, broker: EmbeddedBroker, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_locks, "PATIENCE_S", 0.05)
        with open(folder / "broker.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(BrokerUnreachable, match="another process"):
                broker.publish([_event(b"x")])
        broker.publish([_event(b"works again")])

    def test_a_closed_broker_says_so(self, broker: EmbeddedBroker) -> None:
        broker.close()
        broker.close()
        with pytest.raises(BrokerUnreachable, match="closed"):
            broker.publish([_event(b"x")])

    def test_nothing_is_left_behind_by_a_close(self, broker: EmbeddedBroker, folder: Path) -> None:
        broker.follow(TOPOLOGY.events_log, NEXT, Inbox().put)
        broker.consume(WORK.name, Inbox().put)
        broker.close()
        assert os.listdir(folder / "owners") == []
        assert not _bells(folder).exists()


class TestNames:
    def test_an_argument_that_would_be_ignored_is_refused(self, broker: EmbeddedBroker) -> None:
        queue = Queue("warren.x", "classic", TOPOLOGY.presence, "#", {"x-max-priority": 3})
        with pytest.raises(RefusedError, match="x-max-priority"):
            broker.declare([], [queue])

    def test_logs_are_followed_and_queues_consumed(self, broker: EmbeddedBroker) -> None:
        with pytest.raises(RefusedError, match="follow streams"):
            broker.follow(WORK.name, FIRST, Inbox().put)
        with pytest.raises(RefusedError, match="follow streams"):
            broker.consume(TOPOLOGY.events_log, Inbox().put)

    def test_waiting_says_what_for(self, broker: EmbeddedBroker, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level("INFO"):
            broker.consume("warren.none.such", Inbox().put)
        assert [r.getMessage() for r in caplog.records if "warren.none.such" in r.getMessage()] == [
            "waiting for the coordinator to declare warren.none.such"
        ]

    def test_locate_is_the_offset_itself(self, broker: EmbeddedBroker) -> None:
        broker.publish([_event(b"before")])
        offset = broker.publish([_work(b"x"), _event(b"task"), _event(b"more")], locate=True)
        log = Inbox()
        broker.follow(TOPOLOGY.events_log, FIRST, log.put)
        parts = [log.get(timeout=SOON_S).part for _ in range(3)]
        assert [part.offset for part in parts if part.body == b"task"] == [offset]


class TestSegments:
    def test_small_bodies_need_none(self, broker: EmbeddedBroker, folder: Path) -> None:
        broker.publish([_event(bytes(64 * 1024))])
        assert not (folder / "segments").exists()

    def test_one_file_takes_all_that_a_process_writes(self, broker: EmbeddedBroker, folder: Path) -> None:
        for _ in range(3):
            broker.publish([_event(bytes(LARGE)), _event(bytes(LARGE))])
        (name,) = _segments(folder)
        assert (folder / "segments" / name).stat().st_size == 6 * LARGE

    def test_a_failed_publish_leaves_no_bytes_behind(self, broker: EmbeddedBroker, folder: Path) -> None:
        for _ in range(3):
            with pytest.raises(UnroutableError):
                broker.publish([Publication(TOPOLOGY.assignments, "nobody", Part.single("x", bytes(LARGE)))])
        broker.publish([_event(b"x" * LARGE)])
        (name,) = _segments(folder)
        assert (folder / "segments" / name).read_bytes() == b"x" * LARGE

    def test_a_full_one_is_followed_by_another(
        self, broker: EmbeddedBroker, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shared.broker._segments.SEGMENT_BYTES", 2 * LARGE)
        bodies = [bytes([number]) * LARGE for number in range(6)]
        for body in bodies:
            broker.publish([_event(body)])
        assert len(_segments(folder)) == 3
        log = Inbox()
        broker.follow(TOPOLOGY.events_log, FIRST, log.put)
        assert [log.get(timeout=SOON_S).part.body for _ in range(6)] == bodies

    def test_delete_removes_those_that_nobody_needs(
        self, broker: EmbeddedBroker, folder: Path, spawn: Spawn
    ) -> None:
        dead = spawn(
            "broker.publish([Publication(results, 'x', Part.single('x', bytes(100_000)))])\n"
            "print(flush=True); sys.stdin.read()"
        )
        assert dead.stdout is not None
        dead.stdout.readline()
        dead.kill()
        dead.wait()
        broker.publish([_event(bytes(LARGE))])
        assert len(_segments(folder)) == 2
        broker.delete([TOPOLOGY.results_log])
        assert len(_segments(folder)) == 1
        broker.delete([TOPOLOGY.events_log])
        assert _segments(folder) == []
        broker.publish([Publication(TOPOLOGY.rounds, "x", Part.single("x", b"r" * LARGE))])
        log = Inbox()
        broker.follow(TOPOLOGY.rounds_log, FIRST, log.put)
        assert log.get(timeout=SOON_S).part.body == b"r" * LARGE

    def test_one_that_another_writes_to_stays(self, broker: EmbeddedBroker, folder: Path) -> None:
        other = connect(folder, "other")
        other.publish([_work(b"w" * LARGE)])
        inbox = Inbox()
        broker.consume(WORK.name, inbox.put)
        inbox.get(timeout=SOON_S).ack()
        broker.delete([])
        other.publish([_work(b"v" * LARGE)])
        assert inbox.get(timeout=SOON_S).part.body == b"v" * LARGE
        other.close()


class TestWakeUps:
    def test_they_come_long_before_the_poll(self, broker: EmbeddedBroker, folder: Path) -> None:
        other, log = connect(folder, "other"), Inbox()
        other.follow(TOPOLOGY.events_log, NEXT, log.put)
        broker.publish([_event(b"warm up")])
        log.get(timeout=SOON_S).ack()
        began = time.monotonic()
        for _ in range(40):
            broker.publish([_event(b"x")])
            log.get(timeout=SOON_S).ack()
        assert time.monotonic() - began < 40 * 0.125
        other.close()

    def test_acks_make_room_at_once(self, broker: EmbeddedBroker) -> None:
        broker.publish([publication for _ in range(40) for publication in (_work(b"x"), _event(b"x"))])
        queue, log = Inbox(), Inbox()
        broker.consume(WORK.name, queue.put, prefetch=1)
        broker.follow(TOPOLOGY.events_log, FIRST, log.put, prefetch=1)
        began = time.monotonic()
        for _ in range(40):
            queue.get(timeout=SOON_S).ack()
            log.get(timeout=SOON_S).ack()
        assert time.monotonic() - began < 40 * 0.125

    def test_without_them_the_poll_finds_what_is_new_and_hangs_new_bells(
        self, broker: EmbeddedBroker, folder: Path, wait_for: Callable[..., Any]
    ) -> None:
        log = Inbox()
        broker.follow(TOPOLOGY.events_log, NEXT, log.put)
        wait_for(lambda: list(_bells(folder).glob("*/*")), what="the first bell")
        first = _bells(folder)
        shutil.rmtree(first)
        broker.publish([_event(b"x")])
        assert log.get(timeout=SOON_S).part.body == b"x"
        wait_for(lambda: list(_bells(folder).glob("*/*")), what="a new bell")
        assert _bells(folder) != first

    def test_the_dead_ones_are_cleared_away(
        self, broker: EmbeddedBroker, folder: Path, spawn: Spawn, wait_for: Callable[..., Any]
    ) -> None:
        child = spawn("broker.consume(queue, got.put); got.get(); print(flush=True); sys.stdin.read()")
        broker.publish([_work(b"x")])
        assert child.stdout is not None
        child.stdout.readline()
        (bell,) = wait_for(lambda: list(_bells(folder).glob("*/*")), what="the child's bell")
        child.kill()
        child.wait()
        broker.publish([_work(b"x")])
        assert not bell.exists()

    def test_a_close_clears_away_the_dead_and_their_folder(
        self, broker: EmbeddedBroker, folder: Path, spawn: Spawn
    ) -> None:
        child = spawn(
            "broker.follow(results, FIRST, got.put); broker.consume(queue, got.put)\n"
            "got.get(); print(flush=True); sys.stdin.read()"
        )
        broker.publish([_work(b"x")])
        assert child.stdout is not None
        child.stdout.readline()
        child.kill()
        child.wait()
        bells = _bells(folder)
        assert len(list(bells.glob("*/*"))) == 2
        broker.close()
        assert not bells.exists()

    def test_a_close_leaves_the_bells_of_others(
        self, broker: EmbeddedBroker, folder: Path, wait_for: Callable[..., Any]
    ) -> None:
        other, log = connect(folder, "other"), Inbox()
        broker.follow(TOPOLOGY.events_log, NEXT, log.put)
        (bell,) = wait_for(lambda: list(_bells(folder).glob("*/*")), what="its bell")
        other.publish([_event(b"x")])
        other.close()
        assert bell.exists()


class TestClose:
    def test_a_sink_may_close_its_own_subscription(self, broker: EmbeddedBroker, folder: Path) -> None:
        broker.publish([_work(b"%d" % number) for number in range(5)])
        handed: list[Delivery] = []
        second = threading.Event()

        def sink(delivery: Delivery) -> None:
            handed.append(delivery)
            if len(handed) == 2:
                subscription.close()
                second.set()

        with broker._database.locked():  # so that `subscription` is there before the first delivery
            subscription = broker.consume(WORK.name, sink, prefetch=5)
        assert second.wait(SOON_S)
        rest = Inbox()
        broker.consume(WORK.name, rest.put, prefetch=5)
        assert [rest.get(timeout=SOON_S).part.body for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
        assert len(handed) == 2

    def test_it_waits_for_a_sink_that_is_busy(self, broker: EmbeddedBroker) -> None:
        broker.publish([_event(b"1"), _event(b"2")])
        busy, go_on = threading.Event(), threading.Event()
        handed: list[Delivery] = []

        def sink(delivery: Delivery) -> None:
            busy.set()
            go_on.wait(SOON_S)
            handed.append(delivery)

        subscription = broker.follow(TOPOLOGY.events_log, FIRST, sink)
        assert busy.wait(SOON_S)
        closing = threading.Thread(target=subscription.close)
        closing.start()
        closing.join(0.1)
        assert closing.is_alive()
        go_on.set()
        closing.join(SOON_S)
        assert not closing.is_alive()
        assert [delivery.part.body for delivery in handed] == [b"1"]


class TestDeaths:
    def test_a_forked_child_does_not_keep_the_dead_alive(self, broker: EmbeddedBroker, spawn: Spawn) -> None:
        broker.publish([_work(b"x")])
        child = spawn(
            "broker.consume(queue, got.put); got.get()\n"
            "forked = os.fork()\n"
            "if forked: print(forked, flush=True)\n"
            "signal.pause()"
        )
        assert child.stdout is not None
        forked = int(child.stdout.readline())
        try:
            child.kill()
            inbox = Inbox()
            broker.consume(WORK.name, inbox.put)
            assert inbox.get(timeout=SOON_S).redelivered == 1
        finally:
            os.kill(forked, signal.SIGKILL)

    def test_their_files_go_when_the_next_one_comes(
        self, broker: EmbeddedBroker, folder: Path, spawn: Spawn
    ) -> None:
        child = spawn("broker.consume(queue, got.put); got.get(); print(flush=True); sys.stdin.read()")
        broker.publish([_work(b"x")])
        assert child.stdout is not None
        child.stdout.readline()
        child.kill()
        child.wait()
        other, inbox = connect(folder, "other"), Inbox()
        assert len(os.listdir(folder / "owners")) == 2
        other.consume(WORK.name, inbox.put)
        assert inbox.get(timeout=SOON_S).redelivered == 1
        other.close()

    def test_workers_killed_again_and_again_answer_everything_once(
        self, broker: EmbeddedBroker, spawn: Spawn
    ) -> None:
        worker = (
            "broker.consume(queue, got.put)\n"
            "while True:\n"
            "    work = got.get()\n"
            "    update = Part.single('update', bytes(work.part.body).ljust(70_000))\n"
            "    broker.publish([Publication(results, 'x', update)], then_ack=work)\n"
        )
        log = Inbox()
        broker.follow(TOPOLOGY.results_log, NEXT, log.put)
        workers = [spawn(worker) for _ in range(3)]
        answers: Counter[bytes] = Counter()
        for number in range(150):
            broker.publish([_work(b"%d" % number)])
            if number % 15 == 14:
                delivery = log.get(timeout=SOON_S)
                delivery.ack()
                answers[bytes(delivery.part.body).strip()] += 1
                workers.pop(0).kill()
                workers.append(spawn(worker))
        while answers.total() < 150:
            delivery = log.get(timeout=SOON_S)
            delivery.ack()
            answers[bytes(delivery.part.body).strip()] += 1
        assert answers == Counter(b"%d" % number for number in range(150))

    def test_the_write_ahead_log_stays_small_while_others_read(
        self, broker: EmbeddedBroker, folder: Path
    ) -> None:
        log = Inbox()
        broker.follow(TOPOLOGY.events_log, NEXT, log.put, prefetch=4)
        for _ in range(60):
            broker.publish([_event(bytes(60_000)) for _ in range(20)])
            for _ in range(20):
                log.get(timeout=SOON_S).ack()
        assert (folder / "broker.db-wal").stat().st_size < 30_000_000
        assert (folder / "broker.db").stat().st_size > 40_000_000


def test_folders_of_wake_ups_that_another_process_removes_meanwhile_are_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = connect(tmp_path, "leaver")
    stayers = [_wakeup.Bells(broker._database).hang(name) for name in ("one", "two", "three")]
    wake = _wakeup.Bells._wake

    def clear_away(bells: _wakeup.Bells, path: Path) -> None:
        wake(bells, path)
        shutil.rmtree(path.parent.parent, ignore_errors=True)

    monkeypatch.setattr(_wakeup.Bells, "_wake", clear_away)
    broker.close()
    for bell in stayers:
        assert bell is not None
        assert not bell.path.exists()
        bell.close()


def _bells(folder: Path) -> Path:
    """Where the database says that the sockets are; nowhere before the first."""
    with sqlite3.connect(folder / "broker.db") as db:
        row = db.execute("SELECT value FROM meta WHERE key = 'bells'").fetchone()
    db.close()
    return Path(row[0]) if row else folder / "none"
