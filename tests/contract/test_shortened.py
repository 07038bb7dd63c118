"""A leader whose log lost its end gives it again what it knows, before another can lead."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from coordinator import journal
from coordinator.config import parse
from coordinator.folder import Folder
from coordinator.models import GlobalModel
from coordinator.optimizers import make as make_optimizer
from coordinator.output import Output
from coordinator.service import Coordinator
from coordinator.spool import Spool
from coordinator.state.sqlite import SqliteStore
from coordinator.weight_files import write_weights
from shared.broker import embedded
from shared.errors import LogShortened
from shared.topology import Topology
from shared.weights import Weights


class Losing:
    """A broker whose journal is said to have lost its end as soon as it is followed for that."""

    def __init__(self, broker) -> None:
        self._broker = broker

    def __getattr__(self, name):
        return getattr(self._broker, name)

    def follow(self, log, start, sink, *, prefetch=8, lost=None):
        if lost is not None:
            lost(f"{log} lost its end")
        return self._broker.follow(log, start, sink, prefetch=prefetch)


class Watched(SqliteStore):
    """Notes what the journal holds when the lease is given back."""

    def release(self, token):
        self.parts = self.count()
        super().release(token)


def test_what_is_lost_is_appended_again_while_nobody_else_can_lead(tmp_path, federation):
    write_weights(tmp_path / "initial.npz", Weights.from_arrays({"w": np.zeros(4, np.float32)}))
    tables = {"federation": {"name": federation}, "model": {"initial": str(tmp_path / "initial.npz")}}
    config, topology = parse(tables, "test"), Topology(federation)
    with closing(embedded.connect(tmp_path / "log", "boss")) as broker:

        def entries() -> int:
            return sum(
                part.kind == "journal" for part in journal.read_log(broker, topology.events, federation, 0)
            )

        store = Watched(tmp_path, federation)
        store.count = entries
        model = GlobalModel(config, broker, topology, make_optimizer(config.server), 1)
        output = Output(Folder(tmp_path / "out"), [], config.evaluation.best, "")
        leader = Coordinator(config, Losing(broker), store, model, output, Spool(tmp_path), "token")
        with pytest.raises(LogShortened, match="lost its end"):
            leader.run()
        assert len(list(journal.read(broker, topology))) * 2 <= store.parts == entries()
