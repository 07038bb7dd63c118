"""The coordinator: events in, `step`, commands out. One thread drives; all others only feed its inbox."""

from __future__ import annotations

import logging
import queue
import secrets
from collections.abc import Callable
from math import inf

from coordinator.config import Config, differences
from coordinator.dispatch import Dispatch
from coordinator.facts import Entry, Phase, State, apply
from coordinator.issuing import missing_sites, wanted
from coordinator.journal import Reader, Record, Writer, watch
from coordinator.lease import Keeper, acquire, describe
from coordinator.mirror import Mirror
from coordinator.models import GlobalModel
from coordinator.moves import (
    Admit,
    Answered,
    Append,
    CaughtUp,
    Command,
    Died,
    Event,
    Finish,
    Fold,
    Folded,
    Forget,
    Issue,
    Resumed,
    Ruled,
    Seen,
    Started,
    Tick,
)
from coordinator.output import Output
from coordinator.presence import presence_in
from coordinator.reading import read_log, read_until
from coordinator.results import Results
from coordinator.retention import Room
from coordinator.rounds import next_wake, step
from coordinator.spool import Spool
from coordinator.state.port import StateStore
from shared import codec
from shared.broker.port import FIRST, Broker, Delivery, Part, Publication, Subscription, new_id
from shared.errors import ConfigError, FederationFailed, JournalError, MessageError
from shared.messages import Assignment, Mark
from shared.runtime import THREADS, Flag, Inbox, Runtime
from shared.topology import Topology

log = logging.getLogger(__name__)

#: How far the store may lag behind, in seconds.
MIRROR_S = 0.1
#: Parts of the results log in hand at one time: prefetch × part size stays at 32 MiB.
PREFETCH = 8
#: Entries that a new leader may write before it has published again what is unsure.
PASSING = ("registered", "present", "absent")
Handler = Callable[[Delivery], None]


class Coordinator:
    """Leads one federation to its end. Build it, `run` it once; `stop` may be set from any thread."""

    def __init__(
        self,
        config: Config,
        broker: Broker,
        store: StateStore,
        model: GlobalModel,
        output: Output,
        spool: Spool,
        token: str,
        stop: Flag | None = None,
        runtime: Runtime = THREADS,
    ) -> None:
        self._config = config
        self._broker = broker
        self._store = store
        self._model = model
        self._output = output
        self._token = token
        self._runtime = runtime
        self._stop = stop or runtime.flag()
        self._clock = runtime.time
        self._topology = Topology(config.name)
        self._journal = Writer(broker, self._topology, token)
        self._mirror = Mirror(store, token)
        self._results = Results(spool, broker, self._topology, model, runtime)
        self._dispatch = Dispatch(config, broker, self._topology, model)
        self._room = Room(config)
        self._state = State(config.rules())
        self._inbox: Inbox[tuple[Handler, Delivery] | None] = runtime.inbox()
        self._skip_to = -1
        self._mark = ""
        self._unsure: frozenset[str] = frozenset()
        self._end: Finish | None = None
        self._written_at = 0.0
        self._bytes_in = self._bytes_out = 0
        self._said = ""

    # --- the life of a coordinator

    def run(self) -> int:
        """Leads until the federation is finished; returns the exit code, 130 if it was told to stop.

        Raises:
            ConfigError: the federation was started with another configuration.
            LeadershipLost: another coordinator took over.
            JournalError: the logs contradict themselves.
        """
        if not acquire(self._store, self._token, self._stop):
            return 130
        keeper = Keeper(self._store, self._token, runtime=self._runtime)
        subscriptions: list[Subscription] = []
        try:
            self._recover()
            if self._state.phase is Phase.FINISHED:
                return self._was_finished()
            subscriptions = self._subscribe()
            self._loop()
            return self._leave()
        finally:
            for subscription in subscriptions:
                subscription.close()
            self._results.close()
            keeper.close()

    def stop(self) -> None:
        """Ends the run after the event in hand. Safe in a signal handler."""
        self._stop.set()
        self._inbox.put(None)

    def _loop(self) -> None:
        while self._end is None and not self._stop.is_set():
            item = self._next()
            if item is not None:
                handler, delivery = item
                handler(delivery)
                delivery.ack()
            self._say_what_is_missing()
            self._write_mirror()
        self._write_mirror(at_once=True)

    def _next(self) -> tuple[Handler, Delivery] | None:
        """What comes next; a Tick instead, when its time has come."""
        now = self._clock()
        wake = next_wake(self._state, now)
        if wake is not None and wake <= now:
            self._feed(Tick(now))
            return None
        patience = inf if wake is None else wake - now
        if self._mirror.behind(self._state):
            patience = min(patience, MIRROR_S)
        try:
            return self._inbox.get(timeout=None if patience == inf else patience)
        except queue.Empty:
            return None

    def _leave(self) -> int:
        if self._end is None:
            return 130
        self._output.ended(self._model.weights)
        if self._end.code:
            raise FederationFailed(f"the federation failed: {self._end.reason}")
        return 0

    def _was_finished(self) -> int:
        state = self._state
        self._output.ended(self._model.weights)
        self._write_mirror(at_once=True)
        if state.outcome_code:
            raise FederationFailed(
                f"federation {self._config.name!r} has ended already: {state.outcome_reason}; "
                f"start it anew with --fresh"
            )
        log.info(
            "federation %r is finished already, at version %d (digest %s); start it anew with --fresh",
            self._config.name, state.version, state.digest[:12],
        )  # fmt: skip
        return 0

    # --- beginning, and beginning again

    def _recover(self) -> None:
        """Takes the lead, and reads the journal up to there."""
        exchange, events = self._topology.journal()
        self._broker.declare([exchange], [events])
        reader = Reader()
        now = self._clock()
        mark = self._publish_mark(self._topology.events)
        for part in read_until(self._broker, self._topology.events_log, FIRST, mark, self._runtime):
            self._replay(reader.feed(part))
        self._check_config()
        self._journal.lead(now, describe(self._token))
        self._dispatch.epoch = self._own_epoch(reader)
        if not self._state.run:
            self._feed(Started(now, secrets.token_hex(8), self._config.binding()))
        # Not before: the journal tells better than the broker that the logs have other limits.
        self._broker.declare(self._topology.exchanges(), self._topology.queues(self._config.limits()))
        self._results.run = self._state.run
        self._output.resumed()
        self._broker.declare((), [self._topology.site_queue(site) for site in sorted(self._state.sites)])
        self._model.recover(self._state, self._results.payloads)
        self._turn_over()

    def _replay(self, record: Record | None) -> None:
        """Applies an entry of an earlier leader's.

        Every order is published right behind the entry that makes it, so only those of the very last entry
        may not have gone out.
        """
        if record is None or record.entry.kind == "leader":
            return
        before = self._state.orders.keys()
        self._state = apply(self._state, record.entry)
        self._output.replayed(record.entry)
        if record.entry.kind in ("round-opened", "assigned"):
            self._unsure = frozenset(self._state.orders.keys() - before)
        elif record.entry.kind not in PASSING:
            self._unsure = frozenset()

    def _own_epoch(self, reader: Reader) -> int:
        """Reads on to our own `leader` entry; what others wrote before it counts as well."""
        start = max(reader.epoch, 0)
        for part in read_log(self._broker, self._topology.events, self._config.name, start, self._runtime):
            self._replay(reader.feed(part))
        if reader.leader != self._token:
            raise JournalError("another coordinator took the lead at the same moment; start this one again")
        return reader.epoch

    def _check_config(self) -> None:
        if not self._state.run:
            return
        differing = differences(self._state.config, self._config.binding())
        if differing:
            raise ConfigError(
                f"federation {self._config.name!r} was started with other settings ({', '.join(differing)}): "
                f"set them back, or start it anew with --fresh"
            )

    def _subscribe(self) -> list[Subscription]:
        broker, topology = self._broker, self._topology
        self._skip_to = self._state.decided
        watching = watch(Reader(), self._token)
        subscriptions = [
            broker.follow(topology.events_log, self._dispatch.epoch, self._sink(lambda d: watching(d.part))),
        ]
        self._feed(Resumed(self._clock()))
        start = max(self._state.read_from, 0) if self._state.read_from >= 0 else FIRST
        subscriptions += [
            broker.follow(topology.results_log, start, self._sink(self._result), prefetch=PREFETCH),
            broker.consume(topology.presence_box, self._sink(self._presence), prefetch=100),
            broker.consume(topology.dead_box, self._sink(self._dead), prefetch=100),
        ]
        self._mark = self._publish_mark(topology.results)
        return subscriptions

    def _publish_mark(self, exchange: str) -> str:
        part = Part.single(Mark.KIND, codec.encode(Mark(self._config.name, new_id()).to_header()))
        self._broker.publish([Publication(exchange, Mark.KIND, part)])
        return part.message_id

    def _sink(self, handler: Handler) -> Callable[[Delivery], None]:
        return lambda delivery: self._inbox.put((handler, delivery))

    # --- what comes in

    def _result(self, delivery: Delivery) -> None:
        part = delivery.part
        if part.kind == Mark.KIND:
            if part.message_id == self._mark:
                self._feed(CaughtUp(self._clock(), self._unsure))
            return
        self._bytes_in += len(part.body)
        self._room.offered(self._state, part)
        answer = self._results.take(part)
        if answer is None:
            return
        if part.offset <= self._skip_to:
            # It had its verdict in a round that is closed; only what is unfinished was to be read again.
            self._results.forget(answer)
            return
        self._feed(Answered(self._clock(), answer, part.offset, self._results.read_from(part.offset)))

    def _presence(self, delivery: Delivery) -> None:
        try:
            presence = presence_in(delivery.part, self._state.sites, self._config.security.attest)
        except MessageError as error:
            log.warning("presence from login %r passed over: %s", delivery.part.user_id, error)
            return
        now = self._clock()
        self._mirror.worker(f"{presence.site}/{presence.worker}", now, presence.doing, presence.answered)
        self._feed(Seen(now, presence.site, tuple(presence.partitions)))

    def _dead(self, delivery: Delivery) -> None:
        try:
            codec.check_part(delivery.part)
            assignment = Assignment.from_header(codec.decode(delivery.part.body)[0])
        except MessageError as error:
            log.warning("a dead letter is no assignment: %s", error)
            return
        if assignment.run == self._state.run:
            self._feed(Died(self._clock(), assignment.id, "its site never answered it"))

    # --- what is to be done

    def _feed(self, event: Event) -> None:
        self._state, commands = step(self._state, event)
        for command in commands:
            self._obey(command)
        for observer in self._output.observers:
            observer.changed(self._state)

    def _obey(self, command: Command) -> None:
        match command:
            case Append():
                self._append(command.entries)
            case Admit():
                self._broker.declare((), [self._topology.site_queue(command.site)])
            case Issue():
                self._bytes_out += self._dispatch.issue(self._state, command.orders)
            case Fold():
                self._fold()
            case Forget():
                self._results.forget(command.answer)
            case Ruled():
                for observer in self._output.observers:
                    observer.ruled(command.answer, command.verdict)
            case Finish():
                self._end = command

    def _append(self, entries: tuple[Entry, ...]) -> None:
        for entry in entries:
            if entry.kind == "round-opened" and self._model.layout is not None:
                self._room.opening(entry, self._model.layout)
        self._journal.append(entries)
        for entry in entries:
            self._output.written(entry, self._model.weights)

    def _fold(self) -> None:
        digest = self._model.fold(self._state, self._results.payloads)
        self._turn_over()
        notes = {"hints": self._model.hints(), "bytes_in": self._bytes_in, "bytes_out": self._bytes_out}
        self._bytes_in = self._bytes_out = 0
        self._feed(Folded(self._clock(), digest, notes))

    def _turn_over(self) -> None:
        """The closing round's updates are folded."""
        version = self._state.version
        self._results.turn_over(self._state.closing, version - self._state.rules.max_staleness, version)

    # --- what is shown

    def _say_what_is_missing(self) -> None:
        text = waiting_for(self._state)
        if text and text != self._said:
            log.info(text)
        self._said = text

    def _write_mirror(self, at_once: bool = False) -> None:
        """The store follows in steps of MIRROR_S, so that it costs a busy federation little."""
        now = self._runtime.monotonic()
        if at_once or now - self._written_at > MIRROR_S:
            self._mirror.write(self._state, self._output.history, waiting_for(self._state))
            self._written_at = now


def waiting_for(state: State) -> str:
    """What a federation that gathers clients lacks; "" if nothing."""
    if state.phase is not Phase.GATHERING:
        return ""
    here = sorted(state.sites - state.absent - state.rules.evaluators)
    names = f" ({', '.join(here[:5])}{', …' if len(here) > 5 else ''})" if here else ""
    missing = missing_sites(state)
    lacking = f"; missing to evaluate: {', '.join(missing)}" if missing else ""
    return f"waiting for clients: {len(state.trainable)} of {wanted(state)} are here{names}{lacking}"
