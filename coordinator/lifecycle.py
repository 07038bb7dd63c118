"""A coordinator put together, begun anew, watched, and taken leave of."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from coordinator import journal
from coordinator.config import Config
from coordinator.facts import Answer, State
from coordinator.folder import Folder
from coordinator.lease import describe, is_dead, make_token
from coordinator.models import GlobalModel
from coordinator.optimizers import make as make_optimizer
from coordinator.output import Observer, Output
from coordinator.recovery import make_journal
from coordinator.service import Coordinator
from coordinator.spool import Spool
from coordinator.target import Target
from coordinator.validation import Verdict
from shared.broker.cut_off import cut_off
from shared.errors import ConfigError, LogShortened
from shared.observability import PlainFormatter
from shared.topology import Topology

log = logging.getLogger(__name__)


def build(
    config: Config, target: Target, threads: int, observers: Sequence[Observer], stop: threading.Event
) -> Coordinator:
    """A coordinator on the target's broker and state store."""
    target.create()
    broker = target.broker()
    model = GlobalModel(config, broker, target.topology, make_optimizer(config.server), threads)
    return Coordinator(
        config,
        broker,
        target.store(),
        model,
        Output(Folder(target.folder), observers, config.evaluation.best, as_toml(config)),
        Spool(target.folder, stop),
        make_token(),
        stop,
        cut_off=partial(cut_off, target.broker_url),
    )


class Leading:
    """Coordinators of one federation, one after another, until one has led it to its end.

    A log that lost its end is given again what its leader knows of it; then the next coordinator goes on from
    the logs, as one that was started again would. `stop` may be called from any thread.
    """

    def __init__(self, make: Callable[[], Coordinator]) -> None:
        self._make = make
        self._coordinator = make()

    def run(self) -> int:
        """As `Coordinator.run`."""
        resend = False
        while True:
            try:
                return self._coordinator.run(resend=resend)
            except LogShortened:
                log.info("going on from the logs")
            self._coordinator, resend = self._make(), True

    def stop(self) -> None:
        self._coordinator.stop()


def start_anew(target: Target, config: Config) -> None:
    """Deletes everything of the federation at the broker and in the state store.

    Raises:
        ConfigError: a coordinator is leading it right now.
    """
    target.create()
    leader = target.store().read().leader
    if leader is not None and not is_dead(leader):
        raise ConfigError(
            f"federation {config.name!r} is being led by {describe(leader)}: stop it before you use --fresh"
        )
    broker, topology = target.broker(), Topology(config.name, config.log.copies)
    # No more than the journal: the other logs may be there with other limits than this configuration's.
    make_journal(broker, topology)
    sites = {site.name for site in config.local.sites}
    for record in journal.read(broker, topology):
        if record.entry.kind == "registered":
            sites |= {site for site, _ in record.entry.rows}
    names = [topology.assignments_of(site) for site in sorted(sites)]
    names += [queue.name for queue in topology.queues()]
    names += [exchange.name for exchange in topology.exchanges()]
    broker.delete(names)
    Folder(target.folder).clear()
    target.store().clear()


class JsonLines:
    """An observer that prints a JSON object a closed round."""

    def changed(self, state: State) -> None:
        """Nothing: the rounds say it all."""

    def ruled(self, answer: Answer, verdict: Verdict) -> None:
        """Nothing: counted in the round."""

    def closed(self, line: Mapping[str, Any]) -> None:
        print(json.dumps(line), flush=True)


@contextmanager
def watching(name: str, live: bool, observers: list[Observer], log_file: Path) -> Iterator[None]:
    """Shows a live table where there is a terminal; what is logged then goes to a file beside it."""
    if not live:
        yield
        return
    from rich.console import Console

    from coordinator.console import LiveTable

    root = logging.getLogger()
    before = list(root.handlers)
    handler = logging.FileHandler(log_file, encoding="utf-8", delay=True)
    handler.setFormatter(PlainFormatter())
    log_file.parent.mkdir(parents=True, exist_ok=True)
    root.handlers[:] = [handler]
    try:
        with LiveTable(name, Console()) as table:
            observers.append(table)
            yield
    finally:
        root.handlers[:] = before
        handler.close()


def say_goodbye(code: int, target: Target, as_json: bool) -> None:
    """The last line for people."""
    if as_json:
        return
    if code == 130:
        print(f"stopped; run the same command again to go on (state and log: {target.folder})")
    elif code == 0:
        print(
            f"done: the model is {target.folder / 'model.npz'}, the history {target.folder / 'history.jsonl'}"
        )


def as_toml(config: Config) -> str:
    """The configuration as a TOML document that `coordinator.config.load` reads back."""
    tables = config.model_dump(mode="json", exclude_none=True)
    sites = tables["local"].pop("sites")
    lines: list[str] = []
    for table, keys in tables.items():
        if keys:
            lines.append(f"[{table}]")
            lines += [f"{key} = {_toml(value)}" for key, value in keys.items()]
            lines.append("")
    for site in sites:
        lines.append("[[local.sites]]")
        lines += [f"{key} = {_toml(value)}" for key, value in site.items()]
        lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
