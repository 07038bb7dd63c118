"""Every name and argument at the broker, written out: changing one breaks federations that run already."""

from __future__ import annotations

import pytest

from shared.errors import ConfigError
from shared.topology import Exchange, Limits, Queue, Topology, check_slug

STREAM = {"x-stream-max-segment-size-bytes": 100_000_000}
PRESENCE = {"x-message-ttl": 30_000, "x-max-length": 10_000, "x-overflow": "drop-head"}
ASSIGNMENTS = {"x-delivery-limit": 10, "x-dead-letter-exchange": "warren.hospitals.dead"}
BAD_SLUGS = ["", "Hospitals", "a.b", "a b", "a_b", "a/b", "a*", "#", "é", "a\n", "x" * 41]
TOPOLOGY = Topology("hospitals")


@pytest.mark.parametrize(
    ("attribute", "name"),
    [
        ("rounds", "warren.hospitals.rounds"),
        ("assignments", "warren.hospitals.assignments"),
        ("results", "warren.hospitals.results"),
        ("events", "warren.hospitals.events"),
        ("checkpoints", "warren.hospitals.checkpoints"),
        ("presence", "warren.hospitals.presence"),
        ("dead", "warren.hospitals.dead"),
        ("rounds_log", "warren.hospitals.rounds.log"),
        ("results_log", "warren.hospitals.results.log"),
        ("events_log", "warren.hospitals.events.log"),
        ("checkpoints_log", "warren.hospitals.checkpoints.log"),
        ("presence_box", "warren.hospitals.presence.box"),
        ("dead_box", "warren.hospitals.dead.box"),
    ],
)
def test_names(attribute: str, name: str) -> None:
    assert getattr(TOPOLOGY, attribute) == name


def test_exchanges() -> None:
    assert TOPOLOGY.exchanges() == (
        Exchange("warren.hospitals.rounds", "topic"),
        Exchange("warren.hospitals.assignments", "direct"),
        Exchange("warren.hospitals.results", "topic"),
        Exchange("warren.hospitals.events", "topic"),
        Exchange("warren.hospitals.checkpoints", "topic"),
        Exchange("warren.hospitals.presence", "topic"),
        Exchange("warren.hospitals.dead", "fanout"),
    )


def test_queues() -> None:
    assert TOPOLOGY.queues() == (
        Queue("warren.hospitals.rounds.log", "stream", "warren.hospitals.rounds", "#", STREAM),
        Queue("warren.hospitals.results.log", "stream", "warren.hospitals.results", "#", STREAM),
        Queue("warren.hospitals.events.log", "stream", "warren.hospitals.events", "#", STREAM),
        Queue("warren.hospitals.checkpoints.log", "stream", "warren.hospitals.checkpoints", "#", STREAM),
        Queue("warren.hospitals.presence.box", "classic", "warren.hospitals.presence", "#", PRESENCE),
        Queue("warren.hospitals.dead.box", "classic", "warren.hospitals.dead", "", {}),
    )


def test_limits_are_arguments_of_all_logs_but_the_journal() -> None:
    limits = Limits(max_bytes=20_000_000_000, max_age_s=86_400)
    arguments = {**STREAM, "x-max-length-bytes": 20_000_000_000, "x-max-age": "86400s"}
    made = {queue.name.removeprefix("warren.hospitals."): queue for queue in TOPOLOGY.queues(limits)}
    for log in ("rounds.log", "results.log", "checkpoints.log"):
        assert made[log].arguments == arguments
    assert made["events.log"].arguments == STREAM
    assert (made["presence.box"].arguments, made["dead.box"].arguments) == (PRESENCE, {})


@pytest.mark.parametrize("copies", [3, 5])
def test_copies_are_arguments_of_everything_that_survives_a_node(copies: int) -> None:
    topology = Topology("hospitals", copies)
    once = {queue.name: queue for queue in (*TOPOLOGY.queues(), TOPOLOGY.site_queue("north-1"))}
    for queue in (*topology.queues(), topology.site_queue("north-1")):
        is_log = queue.name.endswith(".log")
        count = "x-initial-cluster-size" if is_log else "x-quorum-initial-group-size"
        assert queue.kind == ("stream" if is_log else "quorum")
        assert queue.arguments == {
            **once[queue.name].arguments, count: copies, "x-queue-leader-locator": "balanced",
        }  # fmt: skip
    assert topology.journal()[1] in topology.queues(Limits(1_000_000, 1))


def test_segments_are_small_beside_the_limit() -> None:
    assert Limits(1_000_000, 1).segment_bytes == 125_000
    assert Limits(10**12, 1).segment_bytes == 100_000_000


def test_the_journal_is_declared_alike_with_any_limits() -> None:
    exchange, queue = TOPOLOGY.journal()
    assert exchange in TOPOLOGY.exchanges()
    assert queue in TOPOLOGY.queues(Limits(1_000_000, 1))
    assert queue in TOPOLOGY.queues()


def test_a_sites_queue() -> None:
    assert TOPOLOGY.assignments_of("north-1") == "warren.hospitals.assignments.north-1"
    assert TOPOLOGY.site_queue("north-1") == Queue(
        "warren.hospitals.assignments.north-1",
        "quorum",
        "warren.hospitals.assignments",
        "north-1",
        ASSIGNMENTS,
    )


def test_no_queue_is_named_like_an_exchange() -> None:
    exchanges = {exchange.name for exchange in TOPOLOGY.exchanges()}
    queues = [*TOPOLOGY.queues(), *(TOPOLOGY.site_queue(site) for site in ("rounds", "log", "box"))]
    assert exchanges.isdisjoint(queue.name for queue in queues)
    assert {queue.exchange for queue in queues} <= exchanges


def test_federations_share_no_name() -> None:
    # One name is the beginning of the other, which a careless pattern would mix up.
    names = [{queue.name for queue in Topology(name).queues()} for name in ("bank", "bank-2")]
    assert names[0].isdisjoint(names[1])


@pytest.mark.parametrize("slug", ["a", "0", "-", "hospitals-2", "x" * 40])
def test_slugs(slug: str) -> None:
    assert check_slug("site", slug) == slug
    assert Topology(slug).rounds == f"warren.{slug}.rounds"


@pytest.mark.parametrize("slug", BAD_SLUGS)
def test_a_federation_that_is_no_slug_is_refused(slug: str) -> None:
    with pytest.raises(ConfigError, match="federation"):
        Topology(slug)


@pytest.mark.parametrize("slug", BAD_SLUGS)
def test_a_site_that_is_no_slug_is_refused(slug: str) -> None:
    with pytest.raises(ConfigError, match="site"):
        TOPOLOGY.assignments_of(slug)
    with pytest.raises(ConfigError, match="site"):
        TOPOLOGY.site_queue(slug)
