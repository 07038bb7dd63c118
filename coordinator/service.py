"""The coordinator: events in, `step`, commands out. One thread drives; all others only feed its inbox."""

from __future__ import annotations

import logging
import queue
import secrets
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from math import inf

from coordinator.config import Config
from coordinator.desk import Desk
from coordinator.dispatch import Dispatch
from coordinator.facts import Entry, Phase, State
from coordinator.flood import CutOff, Floods, unnamed
from coordinator.inlets import Inlets
from coordinator.journal import Reader, Writer, deposed_by, watch
from coordinator.journal import read as read_journal
from coordinator.lease import Keeper, acquire
from coordinator.mirror import Mirror
from coordinator.models import GlobalModel
from coordinator.moves import (
    Admit,
    Append,
    CaughtUp,
    Command,
    Event,
    Finish,
    Fold,
    Folded,
    Forget,
    Issue,
    ResultsLost,
    Resumed,
    Ruled,
    Started,
    Tick,
)
from coordinator.output import Output
from coordinator.reading import Marks
from coordinator.recovery import (
    Replay,
    catch_up,
    check_config,
    make_journal,
    say_that_it_is_finished,
    take_the_lead,
)
from coordinator.results import Results
from coordinator.rounds import next_wake, step
from coordinator.showing import Showing
from coordinator.spool import Spool
from coordinator.state.port import StateStore
from shared.broker.port import FIRST, Broker, Delivery, Part, Subscription
from shared.errors import FederationFailed, LogShortened
from shared.runtime import THREADS, Flag, Inbox, Runtime, steady
from shared.topology import Topology

log = logging.getLogger(__name__)

#: Parts of the results log in hand at one time: prefetch × part size stays at 32 MiB.
PREFETCH = 8
#: Presences in hand: a site may make them as large as the broker takes.
PRESENCES = 20
#: Makes events of a part that came, while the federation stands at a state, at a time.
Inlet = Callable[[Part, State, float], Iterable[Event]]
#: What has come in: to be called by the coordinator's own thread.
Call = Callable[[], None]


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
        cut_off: CutOff = unnamed,
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
        self._topology = Topology(config.name, config.log.copies)
        self._journal = Writer(broker, self._topology, token)
        self._results = Results(spool, broker, self._topology, model, runtime)
        self._dispatch = Dispatch(config, broker, self._topology, model)
        self._floods = Floods(config.log.max_bytes, config.staleness.max, config.security.attest, cut_off)
        mirror = Mirror(store, token)
        desk = Desk(broker, self._topology, self._results, model, runtime)
        self._inlets = Inlets(config, self._results, desk, self._floods, mirror)
        self._showing = Showing(mirror, output, self._floods, runtime)
        self._state = State(config.rules())
        self._inbox: Inbox[Call | None] = runtime.inbox()
        self._reader = Reader()
        self._keeper: Keeper | None = None
        self._subscriptions: list[Subscription] = []
        self._marks = Marks(broker, self._topology.results, config.name, runtime)
        self._unsure: frozenset[str] = frozenset()
        self._end: Finish | None = None
        self._bytes_out = 0

    # --- the life of a coordinator

    def run(self, *, resend: bool = False) -> int:
        """Leads until the federation is finished; returns the exit code, 130 if it was told to stop.

        `resend`: logs lost what was in them, so every order that is open is published again.

        Raises:
            ConfigError: the federation was started with another configuration.
            LeadershipLost: another coordinator took over.
            LogShortened: a log lost its end, and was given again what this coordinator knows of it; begin
                again with a new one.
            JournalError: the logs contradict themselves.
        """
        if not acquire(self._store, self._token, self._stop):
            return 130
        self._clock = steady(self._runtime)
        self._keeper = keeper = Keeper(self._store, self._token, runtime=self._runtime)
        try:
            self._recover()
            if self._state.phase is Phase.FINISHED:
                return self._was_finished()
            self._survey(resend)
            self._subscribe()
            self._loop()
            return self._leave()
        except LogShortened as error:
            log.warning("%s: appending again what this coordinator knows of it", error)
            # While it holds the lease: whoever leads next goes on from what is there then.
            self._restore()
            raise
        finally:
            for subscription in self._subscriptions:
                subscription.close()
            self._results.close()
            keeper.close()

    def stop(self) -> None:
        """Ends the run after the event in hand. Safe in a signal handler."""
        self._stop.set()
        self._inbox.put(None)

    def _restore(self) -> None:
        """Appends again what a shortened log may have lost: the newest journal entries, the model and the
        optimiser's state."""
        self._journal.restore()
        self._model.publish_again(self._state, self._dispatch.epoch)

    def _loop(self) -> None:
        while self._end is None and not self._stop.is_set():
            call = self._next()
            if call is not None:
                call()
            self._marks.renew()
            self._showing.show(self._state)
        self._showing.show(self._state, at_once=True)

    def _next(self) -> Call | None:
        """What comes next; a Tick instead, when its time has come."""
        now = self._clock()
        wake = next_wake(self._state, now)
        if wake is not None and wake <= now:
            self._feed(Tick(now))
            return None
        soon = self._marks.patience_s if wake is None else wake - now
        patience = self._showing.patience(self._state, soon)
        try:
            return self._inbox.get(timeout=None if patience == inf else patience)
        except queue.Empty:
            return None

    def _leave(self) -> int:
        if self._end is None:
            return 130
        # A store that lost the lease may have given it away meanwhile: then this end does not count.
        self._make_sure()
        self._output.ended(self._model.weights)
        if self._end.code:
            raise FederationFailed(f"the federation failed: {self._end.reason}")
        return 0

    def _was_finished(self) -> int:
        self._output.ended(self._model.weights)
        self._showing.show(self._state, at_once=True)
        say_that_it_is_finished(self._state, self._config.name)
        return 0

    # --- beginning, and beginning again

    def _recover(self) -> None:
        """Reads the journal, and takes the lead behind its last entry."""
        broker, topology, reader = self._broker, self._topology, self._reader
        other = make_journal(broker, topology)
        replay = Replay(self._state, self._output, self._floods)
        catch_up(broker, topology, reader, replay, self._runtime)
        self._state = replay.state
        check_config(self._state, self._config)
        if not self._state.run:
            self._model.check_initial()
        if other is not None:
            raise other
        take_the_lead(broker, topology, self._journal, reader, replay, self._runtime)
        self._state, self._unsure = replay.state, replay.unsure
        self._dispatch.epoch = reader.epoch
        if not self._state.run:
            self._feed(Started(self._clock(), secrets.token_hex(8), self._config.binding()))
        # Not before: the journal tells better than the broker that the logs have other limits.
        broker.declare(topology.exchanges(), topology.queues(self._config.limits()))
        self._results.run = self._state.run
        self._output.resumed()
        broker.declare((), [topology.site_queue(site) for site in sorted(self._state.sites)])
        self._model.recover(self._state, self._results.payloads)
        self._turn_over()

    def _survey(self, resend: bool) -> None:
        """Learns where the results log ends, and whether it still reaches as far as it was read."""
        end = self._marks.publish()
        if end <= self._state.decided:
            log.warning(
                "the results log ends at %d and was read to %d: the broker lost updates that it had "
                "confirmed; those that counted stay counted, but can't be verified any more, and open orders "
                "are sent again",
                end, self._state.decided,
            )  # fmt: skip
            self._feed(ResultsLost(self._clock(), end))
            resend = True
        if resend:
            self._unsure = frozenset(self._state.orders) - self._state.superseded
        self._inlets.read_to = self._state.decided

    def _subscribe(self) -> None:
        broker, topology, epoch = self._broker, self._topology, self._dispatch.epoch
        add, lost = self._subscriptions.append, self._shortened
        check = watch(Reader(trusted=epoch), self._token)
        add(broker.follow(topology.events_log, epoch, self._sink(check), lost=lost))
        self._feed(Resumed(self._clock()))
        start = self._state.read_from if self._state.read_from >= 0 else FIRST
        result = self._sink(self._result)
        add(broker.follow(topology.results_log, start, result, prefetch=PREFETCH, lost=lost))
        add(broker.consume(topology.presence_box, self._sink(self._inlets.presence), prefetch=PRESENCES))

    def _sink(self, inlet: Inlet) -> Callable[[Delivery], None]:
        """What hands a subscription's deliveries to the coordinator's own thread."""

        def take(delivery: Delivery) -> None:
            for event in inlet(delivery.part, self._state, self._clock()):
                self._feed(event)
            delivery.ack()

        return lambda delivery: self._inbox.put(partial(take, delivery))

    def _shortened(self, text: str) -> None:
        """A log lost its end. Called by the broker's thread."""

        def raise_it() -> None:
            raise LogShortened(text)

        self._inbox.put(raise_it)

    def _result(self, part: Part, state: State, now: float) -> Iterator[Event]:
        if not self._marks.reached(part):
            yield from self._inlets.result(part, state, now)
            return
        self._floods.own = part.user_id
        yield CaughtUp(now, self._unsure)
        # What died, or an operator asks for, is looked at when all that was answered is known.
        dead = self._sink(self._inlets.dead)
        self._subscriptions.append(self._broker.consume(self._topology.dead_box, dead, prefetch=100))

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
            self._inlets.opening(entry, self._model.layout)
        self._journal.append(entries)
        if self._keeper is not None and self._keeper.in_doubt():
            self._make_sure()
        for entry in entries:
            self._floods.entry(entry)
            self._output.written(entry, self._model.weights)

    def _make_sure(self) -> None:
        """Reads the journal, where another coordinator may lead, before anything is shown to people.

        Raises:
            LeadershipLost: another one does.
        """
        if self._keeper is not None:
            self._keeper.looking()
        for record in read_journal(self._broker, self._topology, self._reader, self._runtime):
            if record.token != self._token:
                raise deposed_by(record)
            if record.entry.kind == "finished":
                return  # whoever leads next

    def _fold(self) -> None:
        digest = self._model.fold(self._state, self._results.payloads)
        self._turn_over()
        notes = {"hints": self._model.hints(), "bytes_in": self._inlets.nbytes, "bytes_out": self._bytes_out}
        self._inlets.nbytes = self._bytes_out = 0
        self._feed(Folded(self._clock(), digest, notes))

    def _turn_over(self) -> None:
        """The closing round's updates are folded."""
        version = self._state.version
        self._results.turn_over(self._state.closing, version - self._state.rules.max_staleness, version)
        if self._model.layout is not None:
            self._floods.bounds.payload_bytes = self._model.layout.nbytes
