"""Large parts over lines so bad that nearly nothing comes through."""

from __future__ import annotations

import pytest

from coordinator.reading import read_log
from shared.broker import rabbit
from shared.broker.port import FIRST, Part, Publication
from shared.topology import Topology
from tests.e2e.line import Line

MIB = 1 << 20


@pytest.fixture
def topology(rabbit_url, federation):
    topology = Topology(federation)
    names = [*topology.exchanges(), *topology.queues()]
    broker = rabbit.connect(rabbit_url, patience_s=10)
    broker.declare(topology.exchanges(), topology.queues())
    yield topology
    broker.delete([each.name for each in names])
    broker.close()


@pytest.fixture
def publish_over(rabbit_node, rabbit_url, topology):
    """`publish_over(line)` publishes a part of 4 MiB to the results log over a line."""
    opened = []

    def publish(line):
        line.open()
        url = rabbit_url.replace(str(rabbit_node.port), str(line.port))
        broker = rabbit.connect(url, patience_s=20, confirm_timeout_s=0.3)
        opened.append((broker, line))
        broker.publish([Publication(topology.results, "x", Part.single("update", bytes(4 * MIB)))])

    yield publish
    for broker, line in opened:
        broker.close()
        line.close()


def test_part_that_takes_longer_than_a_confirm_may(publish_over, rabbit_node):
    line = Line(rabbit_node.port, bytes_per_s=4 * MIB)
    publish_over(line)
    assert line.connections == 1


def test_line_that_breaks_more_often_than_parts_are_tried(publish_over, rabbit_node, rabbit_url, topology):
    line = Line(rabbit_node.port, cuts={"up": [n * MIB for n in range(1, 9)]})
    publish_over(line)
    assert line.breaks == 8
    reader = rabbit.connect(rabbit_url, patience_s=10)
    parts = list(read_log(reader, topology.results, topology.federation, FIRST))
    reader.close()
    assert [len(part.body) for part in parts] == [4 * MIB]
