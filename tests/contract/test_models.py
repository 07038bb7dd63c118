"""The global model found again in the logs by a coordinator that has nothing else."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from coordinator.config import parse
from coordinator.facts import Closed, Rules, State
from coordinator.models import GlobalModel
from coordinator.optimizers import make as make_optimizer
from coordinator.reading import publish_mark
from coordinator.weight_files import write_weights
from shared.broker import embedded
from shared.broker.port import FIRST, Broker
from shared.topology import Topology
from shared.weights import Weights

MODEL = Weights.from_arrays({"w": np.arange(4, dtype=np.float32)})


@pytest.fixture
def broker(tmp_path):
    with closing(embedded.connect(tmp_path / "log", "boss")) as made:
        yield made


@pytest.fixture
def make_model(broker, tmp_path, federation):
    """`make_model()` is one more coordinator's model of the same federation, with FedAdam."""
    topology = Topology(federation)
    broker.declare(topology.exchanges(), topology.queues())
    write_weights(tmp_path / "initial.npz", MODEL)
    tables = {
        "federation": {"name": federation},
        "model": {"initial": str(tmp_path / "initial.npz")},
        "server": {"optimizer": "fedadam", "learning_rate": 0.1},
    }
    config = parse(tables, "test")
    return lambda: GlobalModel(config, broker, topology, make_optimizer(config.server), 1)


def counted(client: str) -> tuple[Closed, ...]:
    fields = dict.fromkeys(Closed._fields, "")
    return (Closed(**{**fields, "client": client, "id": client, "version": 0, "examples": 1, "offset": 0}),)


def after(state: State, model: GlobalModel, broker: Broker, client: str, delta: float) -> State:
    """The state once a round of one update is folded and published."""
    payload = np.full(4, delta, np.float32).tobytes()
    digest = model.fold(replace(state, closing=counted(client)), lambda rows: [(rows[0], None, payload)])
    made = replace(
        state,
        version=state.version + 1,
        digest=digest,
        hints=model.hints(),
        parent=replace(state, parent=None),
    )
    broker.publish(model.publish(made, 0)[1])
    return made


def test_a_round_that_moves_the_optimiser_alone_is_found_again_with_its_state(make_model, broker):
    model, state = make_model(), State(Rules())
    for client in ("-", "a", "b", "c"):
        state = after(state, model, broker, client, 0.0)
    assert state.digest == MODEL.digest, "updates of nothing leave the model as it was"
    again = make_model()
    again.recover(state, lambda rows: [])
    assert after(state, again, broker, "d", 0.5).digest == after(state, model, broker, "d", 0.5).digest


def test_what_was_published_again_is_found_before_its_hint_too(make_model, broker, federation):
    """The log had lost its end, lies there again with something else, and goes on."""
    model, state = make_model(), State(Rules())
    for client in ("-", "a"):
        state = after(state, model, broker, client, 0.5)
    for _ in range(3):
        _, end = publish_mark(broker, Topology(federation).rounds, federation, locate=True)
    state = replace(state, hints={**state.hints, "task": end - 1})
    again = make_model()
    again.recover(state, lambda rows: [])
    assert after(state, again, broker, "b", 0.5).digest == after(state, model, broker, "b", 0.5).digest


def test_a_version_that_is_published_again_is_where_its_hint_says(make_model, broker):
    model, state = make_model(), State(Rules())
    for client in ("-", "a"):
        state = after(state, model, broker, client, 0.5)
    model.publish_again(state, 0)
    task, publications, _ = model.publish(state, 0)
    assert not publications
    assert task.offset == model.hints()["task"] > FIRST
