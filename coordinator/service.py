"""The coordinator: events in, `step`, commands out. One thread drives; all others only feed its inbox."""

from __future__ import annotations

import logging
import queue
import secrets
from collections.abc import Callable
from functools import partial
from math import inf

from coordinator.config import Config, differences
from coordinator.desk import Desk
from coordinator.dispatch import Dispatch
from coordinator.facts import Answer, Entry, Phase, State
from coordinator.flood import CutOff, Floods, refusal, unnamed
from coordinator.issuing import missing_sites, wanted
from coordinator.journal import Reader, Writer, deposed_by, watch
from coordinator.journal import read as read_journal
from coordinator.lease import Keeper, acquire
from coordinator.mirror import Mirror
from coordinator.models import GlobalModel
from coordinator.moves import (
    Admit,
    Answered,
    Append,
    CaughtUp,
    Command,
    Died,
    Dropped,
    Event,
    Finish,
    Fold,
    Folded,
    Forget,
    Issue,
    ResultsLost,
    Resumed,
    Ruled,
    Seen,
    Started,
    Tick,
)
from coordinator.output import Output
from coordinator.presence import presence_in
from coordinator.reading import publish_mark
from coordinator.recovery import Replay, catch_up, make_journal, take_the_lead
from coordinator.results import Results
from coordinator.retention import Room
from coordinator.rounds import next_wake, step
from coordinator.spool import Spool
from coordinator.state.port import StateStore
from shared import codec
from shared.broker.port import FIRST, Broker, Delivery, Part, Subscription
from shared.errors import ConfigError, FederationFailed, LogShortened, MessageError
from shared.messages import Assignment, Mark, Readmit
from shared.runtime import THREADS, Flag, Inbox, Runtime, steady
from shared.topology import Topology

log = logging.getLogger(__name__)

#: How far the store may lag behind, in seconds.
MIRROR_S = 0.1
#: Parts of the results log in hand at one time: prefetch × part size stays at 32 MiB.
PREFETCH = 8
Handler = Callable[[Delivery], None]
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
        self._mirror = Mirror(store, token)
        self._results = Results(spool, broker, self._topology, model, runtime)
        self._desk = Desk(broker, self._topology, self._results, model, runtime)
        self._dispatch = Dispatch(config, broker, self._topology, model)
        self._room = Room(config)
        self._floods = Floods(config.log.max_bytes, config.staleness.max, config.security.attest, cut_off)
        self._state = State(config.rules())
        self._inbox: Inbox[Call | None] = runtime.inbox()
        self._reader = Reader()
        self._keeper: Keeper | None = None
        self._subscriptions: list[Subscription] = []
        self._mark = ""
        self._read_to = -1
        self._unsure: frozenset[str] = frozenset()
        self._end: Finish | None = None
        self._written_at = 0.0
        self._bytes_in = self._bytes_out = 0
        self._said = ""

    # --- the life of a coordinator

    def run(self, *, resend: bool = False) -> int:
        """Leads until the federation is finished; returns the exit code, 130 if it was told to stop.

        `resend`: logs lost what was in them, so every order that is open is published again.

        Raises:
            ConfigError: the federation was started with another configuration.
            LeadershipLost: another coordinator took over.
            LogShortened: a log lost its end; `restore` it, and begin again with a new coordinator.
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
        finally:
            for subscription in self._subscriptions:
                subscription.close()
            self._results.close()
            keeper.close()

    def stop(self) -> None:
        """Ends the run after the event in hand. Safe in a signal handler."""
        self._stop.set()
        self._inbox.put(None)

    def restore(self) -> None:
        """Appends again what a shortened log may have lost and this coordinator knows: its newest journal
        entries, the model and the optimiser's state. Not while it runs."""
        self._journal.restore()
        self._model.publish_again(self._state, self._dispatch.epoch)

    def _loop(self) -> None:
        while self._end is None and not self._stop.is_set():
            call = self._next()
            if call is not None:
                call()
            self._say_what_is_missing()
            self._write_mirror()
        self._write_mirror(at_once=True)

    def _next(self) -> Call | None:
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
        """Reads the journal, and takes the lead behind its last entry."""
        broker, topology, reader = self._broker, self._topology, self._reader
        other = make_journal(broker, topology)
        replay = Replay(self._state, self._output, self._floods)
        catch_up(broker, topology, reader, replay, self._runtime)
        self._state = replay.state
        self._check_config()
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

    def _check_config(self) -> None:
        if not self._state.run:
            self._model.check_initial()
            return
        differing = differences(self._state.config, self._config.binding())
        if differing:
            raise ConfigError(
                f"federation {self._config.name!r} was started with other settings ({', '.join(differing)}): "
                f"set them back, or start it anew with --fresh"
            )

    def _survey(self, resend: bool) -> None:
        """Learns where the results log ends, and whether it still reaches as far as it was read."""
        self._mark, end = publish_mark(self._broker, self._topology.results, self._config.name, locate=True)
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
            self._unsure = frozenset(self._state.orders)
        self._read_to = self._state.decided

    def _subscribe(self) -> None:
        broker, topology, epoch = self._broker, self._topology, self._dispatch.epoch
        add, lost = self._subscriptions.append, self._shortened
        watching = watch(Reader(trusted=epoch), self._token)
        add(broker.follow(topology.events_log, epoch, self._sink(lambda d: watching(d.part)), lost=lost))
        self._feed(Resumed(self._clock()))
        start = self._state.read_from if self._state.read_from >= 0 else FIRST
        result = self._sink(self._result)
        add(broker.follow(topology.results_log, start, result, prefetch=PREFETCH, lost=lost))
        add(broker.consume(topology.presence_box, self._sink(self._presence), prefetch=100))

    def _sink(self, handler: Handler) -> Callable[[Delivery], None]:
        def handle(delivery: Delivery) -> None:
            handler(delivery)
            delivery.ack()

        return lambda delivery: self._inbox.put(partial(handle, delivery))

    def _shortened(self, text: str) -> None:
        """A log lost its end. Called by the broker's thread."""

        def raise_it() -> None:
            raise LogShortened(text)

        self._inbox.put(raise_it)

    # --- what comes in

    def _result(self, delivery: Delivery) -> None:
        part = delivery.part
        if part.kind == Mark.KIND and part.message_id == self._mark:
            self._floods.own = part.user_id
            self._caught_up()
        elif not self._floods.take(part):
            self._drop(part)
        elif part.kind != Mark.KIND:
            self._update(part)
        for warning in self._floods.news():
            log.warning("%s", warning)

    def _drop(self, part: Part) -> None:
        """Its login floods the log: none of it is kept."""
        self._bytes_in += len(part.body)
        self._results.give_up(part.user_id)
        if part.kind != Mark.KIND and part.part == part.parts - 1 and part.offset > self._read_to:
            read_from = self._results.read_from(part.offset)
            self._feed(Dropped(self._clock(), part.offset, refusal(part.user_id), read_from))

    def _update(self, part: Part) -> None:
        self._bytes_in += len(part.body)
        self._room.offered(self._state, part)
        answer = self._results.take(part)
        if answer is None:
            return
        if self._had_its_verdict(answer, part.offset):
            self._results.forget(answer)
            return
        self._feed(Answered(self._clock(), answer, part.offset, self._results.read_from(part.offset)))

    def _caught_up(self) -> None:
        self._feed(CaughtUp(self._clock(), self._unsure))
        # What died, or an operator asks for, is looked at when all that was answered is known.
        dead_box = self._broker.consume(self._topology.dead_box, self._sink(self._dead), prefetch=100)
        self._subscriptions.append(dead_box)

    def _had_its_verdict(self, answer: Answer, offset: int) -> bool:
        """Whether it is read again only for what was unfinished beside it, or since the log lost its end."""
        state = self._state
        return offset <= self._read_to or (offset < state.gap and answer.id not in state.waiting)

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
        if delivery.part.kind == Readmit.KIND:
            appeal = self._desk.receive(delivery.part, self._state)
            if appeal is not None:
                self._feed(appeal)
            return
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
        self._make_sure()
        for entry in entries:
            self._floods.entry(entry)
            self._output.written(entry, self._model.weights)

    def _make_sure(self) -> None:
        """Reads the journal, where another coordinator may lead, before anything is shown to people.

        Raises:
            LeadershipLost: another one does.
        """
        if self._keeper is None or not self._keeper.in_doubt():
            return
        for record in read_journal(self._broker, self._topology, self._reader, self._runtime):
            if record.token != self._token:
                raise deposed_by(record)
        self._keeper.sure()

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
        if self._model.layout is not None:
            self._floods.bounds.payload_bytes = self._model.layout.nbytes

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
            waiting = waiting_for(self._state)
            self._mirror.write(self._state, self._output.history, waiting, self._floods.shown())
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
