"""Limits of the logs held against model and cohort: what is refused, and what is only said."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from coordinator.config import parse
from coordinator.facts import Entry, Order, Phase, State
from coordinator.retention import Room
from shared.broker.port import Part
from shared.errors import ConfigError
from shared.messages import Update
from shared.weights import Layout, Weights

#: A model of 1 MB.
LAYOUT = Weights.from_arrays({"w": np.zeros(250_000, np.float32)}).layout


def config_of(max_bytes, **tables):
    raw = {"federation": {"name": "f"}, "log": {"max_bytes": max_bytes}, **tables}
    return parse(raw, "test")


def opened(clients, number=1):
    return Entry("round-opened", 0.0, {"round": number}, [f"a/{n}" for n in range(clients)])


def refused(room, clients, layout=LAYOUT):
    with pytest.raises(ConfigError) as caught:
        room.opening(opened(clients), layout)
    return str(caught.value)


def test_three_rounds_and_a_segment_must_fit():
    # 3 rounds of (2 + 1) MB are 7 of the 8 segments.
    assert 'at least "10.3MB"' in refused(Room(config_of("10.2MB")), 2)
    Room(config_of("10.3MB")).opening(opened(2), LAYOUT)


def test_beyond_eight_large_segments_one_comes_on_top():
    layout = Weights.from_arrays({"w": np.zeros(125_000_000, np.uint8)}).layout
    assert 'at least "7.6GB"' in refused(Room(config_of("7.5GB")), 19, layout)
    Room(config_of("7.6GB")).opening(opened(19), layout)


def test_staleness_asks_for_as_many_rounds_more():
    assert "5 rounds of 2 clients" in refused(Room(config_of("10.3MB", staleness={"max": 2})), 2)
    Room(config_of("17.2MB", staleness={"max": 2})).opening(opened(2), LAYOUT)


def test_a_server_optimiser_with_two_slots_has_larger_checkpoints_than_one_client_s_rounds():
    adam = {"server": {"optimizer": "fedadam"}}
    half = Layout.from_wire(Weights.from_arrays({"w": np.zeros(500_000, np.float16)}).layout.to_wire())
    # A slot of a float16 model is float32: two of them are 4 MB, three states 12.
    assert 'at least "13.8MB"' in refused(Room(config_of("13.7MB", **adam)), 1, half)
    Room(config_of("13.8MB", **adam)).opening(opened(1), half)


def test_buffered_counts_what_is_in_flight():
    tables = {"federation": {"name": "f", "mode": "buffered"}, "buffered": {"concurrency": 9, "buffer": 4}}
    assert "rounds of 9 clients" in refused(Room(config_of("10MB", **tables)), 0)


def test_a_federation_that_outgrows_its_limits_is_warned_once_for_each_size(caplog):
    caplog.set_level(logging.WARNING)
    room = Room(config_of("10.3MB"))
    for number, clients in enumerate((2, 3, 3, 4, 3), 1):
        room.opening(opened(clients, number), LAYOUT)
    assert [("3 clients" in r.message, "4 clients" in r.message) for r in caplog.records] == [
        (True, False),
        (False, True),
    ]


class TestInitialWeights:
    CONFIG = config_of("10.3MB", cohort={"min_clients": 3, "deadline_s": 60}, security={"attest": True})

    @pytest.fixture
    def state(self):
        order = Order("initialise", "a/0", 0, -1, "", 0, 0.0)
        return State(
            self.CONFIG.rules(),
            phase=Phase.INITIALISING,
            clients={"a/0": "a", "b/0": "b"},
            waiting={order.id: order},
        )

    def offer(self, state, *, sender="a", part=0, nbytes=1_000_000):
        body = b"header"
        Room(self.CONFIG).offered(state, Part("id", Update.KIND, part, 2, nbytes, 0, body, sender))

    def test_too_large_ones_are_told_before_they_are_read(self, state):
        with pytest.raises(ConfigError, match="rounds of 3 clients"):
            self.offer(state)

    def test_those_that_fit_pass(self, state):
        self.offer(state, nbytes=500_000)

    def test_only_who_was_asked_can_end_the_federation(self, state):
        self.offer(state, sender="b")

    def test_later_updates_are_none_of_its_business(self, state):
        self.offer(replace(state, phase=Phase.OPEN))
        self.offer(state, part=1)
