"""Updates found again by their offset, by an operator and by the coordinator: on both brokers."""

from __future__ import annotations

import hashlib
import json
import queue
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.config import parse
from coordinator.desk import Desk
from coordinator.examination import examine
from coordinator.facts import Entry
from coordinator.lookup import heads, message_at
from coordinator.models import GlobalModel
from coordinator.optimizers import make as make_optimizer
from coordinator.quarantine import Quarantine
from coordinator.quarantine_text import update_text
from coordinator.results import Results
from coordinator.spool import Spool
from coordinator.validation import unfit
from shared import codec
from shared.broker import embedded, rabbit
from shared.broker.port import FIRST, Broker, Delivery, Part, Publication
from shared.errors import ConfigError
from shared.messages import Readmit, RoundTask, Update, order_id
from shared.runtime import THREADS
from shared.topology import Topology
from shared.weights import Weights

RUN = "run"
#: So large that a delta may take it over the top.
MODEL = Weights.from_arrays({"w": np.full((3, 5), 1e38, np.float32), "n": np.array(7, np.int64)})


@pytest.fixture
def topology(federation: str) -> Topology:
    return Topology(federation)


@pytest.fixture(params=["embedded", "rabbit"])
def broker(request: pytest.FixtureRequest, tmp_path: Path, topology: Topology) -> Iterator[Broker]:
    if request.param == "embedded":
        made: Broker = embedded.connect(tmp_path / "log", "boss")
    else:
        made = rabbit.connect(request.getfixturevalue("rabbit_url"), patience_s=60)
    made.declare(topology.exchanges(), topology.queues())
    task = RoundTask(topology.federation, RUN, 1, 0, MODEL.digest, MODEL.layout.to_wire())
    parts = codec.split(RoundTask.KIND, task.to_header(), MODEL.payload)
    made.publish([Publication(topology.rounds, RoundTask.KIND, part) for part in parts])
    yield made
    made.delete([*(queue.name for queue in topology.queues()), *(e.name for e in topology.exchanges())])
    made.close()


@pytest.fixture
def known(topology: Topology) -> Quarantine:
    """A federation in its first round, which asked `a/0`."""
    config = parse({"federation": {"name": topology.federation}}, "test").binding()
    opened = {"round": 1, "version": 0, "digest": MODEL.digest, "deadline_at": 9.0, "target": None}
    made = Quarantine()
    for entry in (
        Entry("federation-started", 1.0, {"run": RUN, "config": config}),
        Entry("registered", 2.0, {}, [["a", ["0"]]]),
        Entry("round-closing", 3.0, closing(0), [[], [], []]),
        Entry("round-closed", 3.0, {"version": 0, "digest": MODEL.digest, "round": 0}),
        Entry("round-opened", 4.0, {**opened, "evaluators": []}, ["a/0"]),
    ):
        made.take(entry)
    return made


def closing(round_: int) -> dict:
    return {"round": round_, "skipped": False, "decided": -1, "read_from": -1, "refusals": {}}


def update(topology: Topology, payload: bytes, **changes: object) -> Update:
    id_ = order_id("train", "a/0", 1, MODEL.digest, 0)
    made = Update(
        topology.federation, RUN, id_, "train", "a/0", "w1", 1, 0, MODEL.digest, 0, [], MODEL.layout.digest,
        hashlib.sha256(payload).hexdigest(), 10, {"loss": 0.5}, 0, {}, 1.0, "",
    )  # fmt: skip
    return replace(made, **changes)


def payload_of(value: float) -> bytes:
    return bytes(Weights.from_arrays({"w": np.full((3, 5), value, np.float32), "n": np.array(1)}).payload)


def lay(broker: Broker, topology: Topology, *parts: Part) -> None:
    broker.publish([Publication(topology.results, "a", part) for part in parts])


def offsets(broker: Broker, topology: Topology, count: int) -> list[int]:
    """Where the log's first parts lie."""
    inbox: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
    subscription = broker.follow(topology.results_log, FIRST, inbox.put)
    try:
        found = []
        while len(found) < count:
            delivery = inbox.get(timeout=60)
            found.append(delivery.part.offset)
            delivery.ack()
        return found
    finally:
        subscription.close()


def test_a_message_is_read_from_its_offset_past_what_lies_between(broker, topology):
    ours = codec.split("update", update(topology, b"").to_header(), bytes(200_000), part_bytes=70_000)
    theirs = codec.split("update", update(topology, b"").to_header(), bytes(200_000), part_bytes=70_000)
    lay(broker, topology, *(part for pair in zip(ours, theirs, strict=True) for part in pair))
    first, other, middle, *_ = offsets(broker, topology, 8)
    assert [part.part for part in message_at(broker, topology, first)] == [0, 1, 2, 3]
    assert {part.message_id for part in message_at(broker, topology, other)} == {theirs[0].message_id}
    assert [part.part for part in message_at(broker, topology, middle)] == [1, 2, 3]
    assert list(message_at(broker, topology, 10**9)) == []
    found = list(heads(broker, topology, [other, 10**9, middle, first]))
    assert [(answer.offset, bool(answer.refusal)) for answer in found] == [
        (other, False), (middle, True), (first, False),
    ]  # fmt: skip


def test_what_is_in_an_update_is_said_in_figures(broker, topology, known, tmp_path):
    huge, nan = payload_of(1e25), payload_of(float("nan"))
    parts = [codec.split("update", update(topology, p).to_header(), p)[0] for p in (huge, nan)]
    lay(broker, topology, *parts)
    first, second = offsets(broker, topology, 2)
    about = examine(broker, topology, first, known, tmp_path)
    assert about["out"] == ""
    assert (about["sha256"], about["layout"], about["run"]) == (True, True, True)
    tensor = about["tensors"][0]
    assert (tensor["name"], tensor["not_finite"]) == ("w", 0)
    assert (tensor["low"], tensor["high"]) == pytest.approx((1e25, 1e25))
    assert tensor["norm"] == pytest.approx(1e25 * 15**0.5)
    about = examine(broker, topology, second, known, tmp_path)
    assert "not finite" in about["out"]
    assert about["tensors"][0]["not_finite"] == 15
    assert about["tensors"][1]["not_finite"] == 0


def test_hostile_bytes_are_described_and_never_obeyed(broker, topology, known, tmp_path):
    payload = payload_of(1.0)
    good = update(topology, payload)
    hostile = [
        (replace(good, run="x", client="\x1b]0;a\x07/0", metrics={"\x1b[2J": inf}), payload, "another run"),
        (replace(good, sha256="0" * 64), payload, "SHA-256"),
        (good, payload + b"more", "over the model's"),
        (replace(good, layout_digest="f" * 64), payload, "another layout"),
        (replace(good, work="initialise", layout=[["w", "float32", [3, 5], 64]]), payload, "must start at"),
        (replace(good, examples=-(2**63)), payload, "no weight"),
    ]
    parts = [codec.split("update", each.to_header(), body)[0] for each, body, _ in hostile]
    lay(broker, topology, *parts, Part.single("update", b"\xff" * 999), Part.single("x", b""))
    head = codec.encode(good.to_header())
    lay(broker, topology, Part("m", "update", 0, 2, len(head) + len(payload), zlib.crc32(head), head))
    reasons = [reason for _, _, reason in hostile]
    reasons += ["does not begin with WRN1", "at least 8 bytes", "it is not whole"]
    for offset, reason in zip(offsets(broker, topology, len(reasons)), reasons, strict=True):
        about = examine(broker, topology, offset, known, tmp_path)
        assert reason in about["out"] or reason in about["broken"]
        text = "\n".join(update_text(about))
        assert all(char.isprintable() or char == "\n" for char in text)
        json.dumps(about, allow_nan=False)


def test_where_nothing_lies_that_is_said(broker, topology, known, tmp_path):
    lay(broker, topology, Part.single("update", b"\xff" * 99))
    (first,) = offsets(broker, topology, 1)
    for offset in (first + 1, 10**9):
        with pytest.raises(ConfigError, match=f"at offset {offset}"):
            examine(broker, topology, offset, known, tmp_path)


# --- the coordinator's desk


@pytest.fixture
def desk(broker, topology, known, tmp_path) -> Iterator[Callable[..., str]]:
    """Asks for the update at an offset; returns why it can't be let in, or None if nobody is to decide it."""
    config = parse({"federation": {"name": topology.federation}}, "test")
    model = GlobalModel(config, broker, topology, make_optimizer(config.server), 1)
    model.weights = MODEL
    results = Results(Spool(tmp_path), broker, topology, model)
    results.run = RUN
    made = Desk(broker, topology, results, model, THREADS)

    def ask(offset: int, decided: int, *, login: str = "boss", attest: bool = False, **changes: Any) -> Any:
        found = next(heads(broker, topology, [offset]), None)
        message = {"message_id": found.message_id, "sender": found.sender} if found else {}
        fields = {"run": RUN, "message_id": "", "sender": "", "reason": "", "who": "", **message, **changes}
        header = Readmit(topology.federation, offset=offset, **fields).to_header()
        part = replace(Part.single(Readmit.KIND, codec.encode(header)), user_id=login)
        rules = replace(known.state.rules, attest=attest)
        event = made.receive(part, replace(known.state, decided=decided, rules=rules))
        return event and unfit(known.state, event.answer)

    yield ask
    results.close()


def test_the_desk_reads_what_has_a_verdict_and_nothing_else(broker, topology, desk):
    payload = payload_of(1e25)
    good = update(topology, payload)
    lay(broker, topology, *(codec.split("update", good.to_header(), payload)[0] for _ in range(2)))
    first, second = offsets(broker, topology, 2)
    assert desk(first, decided=first) == ""
    for about in (
        {"decided": first},
        {"decided": second, "message_id": "m"},
        {"decided": second, "sender": "m"},
    ):
        assert "no update with a verdict" in desk(second, **about)
    assert "no update with a verdict" in desk(10**9, decided=second)
    assert desk(first, decided=second, run="another") is None
    assert desk(first, decided=second, login="a", attest=True) is None


def test_the_desk_keeps_out_what_can_t_be_folded(broker, topology, desk):
    cases = [
        (payload_of(float("nan")), {}, "not finite"),
        (payload_of(3e38), {}, "infinite"),
        (payload_of(1.0), {"sha256": "0" * 64}, "SHA-256"),
        (payload_of(1.0), {"id": "0" * 32}, "not that of what it answers"),
        (payload_of(1.0)[:-8], {}, "64 bytes, the layout 72"),
    ]
    for payload, changes, _ in cases:
        header = update(topology, payload, **changes).to_header()
        lay(broker, topology, *codec.split("update", header, payload))
    head = codec.encode(update(topology, b"").to_header())
    lay(broker, topology, Part("m", "update", 0, 2, len(head) + MODEL.layout.nbytes, zlib.crc32(head), head))
    found = offsets(broker, topology, len(cases) + 1)
    for offset, reason in zip(found, [*(reason for _, _, reason in cases), "not whole"], strict=True):
        assert reason in desk(offset, decided=found[-1])


def test_the_desk_waits_for_what_is_still_being_read(broker, topology, desk):
    payload = payload_of(1e25)
    head = codec.encode(update(topology, payload).to_header())
    nbytes = len(head) + len(payload)
    lay(
        broker,
        topology,
        Part("m", "update", 0, 2, nbytes, zlib.crc32(head), head),
        Part("m", "update", 1, 2, nbytes, zlib.crc32(payload), payload),
    )
    first, last = offsets(broker, topology, 2)
    assert "not whole" in desk(first, decided=first)
    assert desk(first, decided=last) == ""
    assert "not its first" in desk(last, decided=last)
