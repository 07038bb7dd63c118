"""Taking the lead: the journal read to its end, and a `leader` entry that counts."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from coordinator import journal
from coordinator.applying import apply
from coordinator.config import Config, differences
from coordinator.facts import Entry, State
from coordinator.flood import Floods
from coordinator.journal import Reader, Writer
from coordinator.lease import describe
from coordinator.output import Output
from shared.broker.port import Broker
from shared.errors import ConfigError, FederationFailed, JournalError, OtherArgumentsError
from shared.runtime import Runtime
from shared.topology import Topology

log = logging.getLogger(__name__)

#: How often another leader's last entries may come in between before a coordinator gives up.
TRIES = 20
#: Entries that a new leader may write before it has published again what is unsure.
PASSING = ("registered", "present", "absent", "failed", "readmitted")


@dataclass
class Replay:
    """What earlier leaders decided, entry by entry. `unsure` are orders that may not have gone out."""

    state: State
    output: Output
    floods: Floods
    unsure: frozenset[str] = frozenset()

    def take(self, entry: Entry) -> None:
        """Applies an entry.

        Every order is published right behind the entry that makes it, so only those of the very last entry
        may not have gone out. Once the results log has lost its end all are to be sent again, and whoever
        wrote that may not have come to it.
        """
        self.floods.entry(entry)
        if entry.kind == "leader":
            return
        before = self.state.orders.keys()
        self.state = apply(self.state, entry)
        self.output.replayed(entry)
        if entry.kind in ("round-opened", "assigned"):
            self.unsure = frozenset(self.state.orders.keys() - before)
        elif entry.kind == "results-lost":
            self.unsure = frozenset(self.state.orders) - self.state.superseded
        elif entry.kind not in PASSING:
            self.unsure = frozenset()


def make_journal(broker: Broker, topology: Topology) -> OtherArgumentsError | None:
    """Declares the journal.

    Returns: why not, if it was declared with another number of copies. It can be read all the same, and says
    itself which configuration it is of.
    """
    exchange, entries = topology.journal()
    try:
        broker.declare([exchange], [entries])
    except OtherArgumentsError as error:
        return error
    return None


def catch_up(broker: Broker, topology: Topology, reader: Reader, replay: Replay, runtime: Runtime) -> None:
    """Reads on to the journal's end."""
    for record in journal.read(broker, topology, reader, runtime):
        replay.take(record.entry)


def take_the_lead(
    broker: Broker, topology: Topology, writer: Writer, reader: Reader, replay: Replay, runtime: Runtime
) -> None:
    """Appends `leader` entries until one counts; what was written before it counts as well.

    Raises:
        LeadershipLost: another coordinator led at the same moment.
        JournalError: there was no coming in between an earlier leader's entries.
    """
    for _ in range(TRIES):
        before = reader.leader
        writer.lead(runtime.time(), describe(writer.token), reader.place)
        for record in journal.read(broker, topology, reader, runtime):
            if record.token not in (before, writer.token):
                raise journal.deposed_by(record)
            replay.take(record.entry)
        if reader.leader == writer.token:
            return
    raise JournalError(
        f"the journal of federation {topology.federation!r} could not be led: its leader goes on writing "
        f"though it lost its lease; stop it, and start this one again"
    )


def check_config(state: State, config: Config) -> None:
    """Holds a configuration against that of the federation as it was started, if it was.

    Raises:
        ConfigError: they differ in what binds.
    """
    differing = differences(state.config, config.binding()) if state.run else []
    if differing:
        raise ConfigError(
            f"federation {config.name!r} was started with other settings ({', '.join(differing)}): "
            f"set them back, or start it anew with --fresh"
        )


def say_that_it_is_finished(state: State, name: str) -> None:
    """Says how a federation ended that is started once more.

    Raises:
        FederationFailed: it failed.
    """
    if state.outcome_code:
        raise FederationFailed(
            f"federation {name!r} has ended already: {state.outcome_reason}; start it anew with --fresh"
        )
    log.info(
        "federation %r is finished already, at version %d (digest %s); start it anew with --fresh",
        name, state.version, state.digest[:12],
    )  # fmt: skip
