"""What a replay makes again: from which version on, and what each round counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coordinator import journal
from coordinator.arrivals import arrivals
from coordinator.facts import Closed, Entry
from coordinator.hearing import heard
from coordinator.kept import oldest_weights
from coordinator.ledger import Ledger, Round
from coordinator.recording import Recording
from coordinator.redecide import ALL, Redecided, recount, redecide
from coordinator.replayable import DECIDING, Settings
from coordinator.story import story_of, without
from coordinator.tapes import Tape
from shared.broker.port import FIRST, Broker
from shared.errors import ConfigError

ESTIMATED = (
    "which updates count was decided anew; when each of them came is estimated, by its place in the log and "
    "by how long its worker says that it worked"
)
IN_THEIR_PLACE = (
    "which updates count was decided anew; each round keeps its place in the log, however many it finds there"
)
BY_HAND = "an update that an operator let in is judged by the rules here, like any other"


@dataclass(frozen=True)
class Wish:
    """What a person asks for.

    `left_out` are sites; `since` is the version to begin with (None: the first that the logs allow); `ahead`:
    each round is made of its recorded parent, and not of the replayed version before it.
    """

    settings: Settings
    left_out: frozenset[str] = frozenset()
    since: int | None = None
    ahead: bool = False

    @property
    def changes(self) -> bool:
        """Whether anything shall be other than it was."""
        return bool(self.settings.changed or self.left_out)


@dataclass(frozen=True)
class Counted:
    """A round, the updates that it counts in the replay, and how many versions behind each of them is.

    `seconds` are what it would have taken; None where it closes as it did.
    """

    round: Round
    rows: tuple[Closed, ...]
    behind: tuple[int, ...]
    seconds: float | None = None

    @property
    def base(self) -> int:
        """The recorded version that the round moved on, or left as it was."""
        return self.round.version if self.round.skipped else self.round.version - 1


@dataclass(frozen=True)
class Plan:
    """Rounds behind version `since`; `notes` say how they were found, and why there are no more of them.

    `metrics` are those of the recorded versions, where they were scored.
    """

    since: int
    rounds: tuple[Counted, ...]
    notes: tuple[str, ...] = ()
    metrics: Mapping[int, Mapping[str, float]] = field(default_factory=dict)


def plan(broker: Broker, ledger: Ledger, wish: Wish, folder: Path) -> Plan:
    """Finds out what is to be replayed. `folder` is where large payloads lie meanwhile.

    Raises:
        ConfigError: the wish can't be had of these logs; the sentence says what can.
    """
    since = _since(broker, ledger, wish.since, folder)
    behind = [round_ for round_ in ledger.rounds if round_.number > ledger.versions[since].number]
    if not behind:
        raise ConfigError(f"no round has closed behind version {since}: there is nothing to replay")
    entries = [record.entry for record in journal.read(broker, ledger.topology)]
    _check_sites(entries, wish.left_out)
    metrics = _metrics(entries, behind)
    if not wish.settings.decides:
        return Plan(since, tuple(_as_it_was(round_, wish.left_out) for round_ in behind), (), metrics)
    _check_decidable(entries, wish)
    found = _decided_anew(broker, ledger, wish, entries, since, folder)
    known = {round_.number: round_ for round_ in behind}
    rounds = tuple(
        Counted(known[one.number], one.rows, one.behind, round(one.seconds, 6))
        for one in found.rounds
        if one.number in known
    )
    notes = [IN_THEIR_PLACE if wish.settings.config.federation.mode == "buffered" else ESTIMATED]
    if not rounds:
        raise ConfigError(f"no round would have closed: {found.reason}")
    if any(entry.kind == "readmitted" and not entry.data["refused"] for entry in entries):
        notes.append(BY_HAND)
    if found.reason != ALL:
        notes.append(f"the replay ends at version {rounds[-1].round.version}: {found.reason}")
    return Plan(since, rounds, tuple(notes), metrics)


def _since(broker: Broker, ledger: Ledger, wanted: int | None, folder: Path) -> int:
    """The version to begin with: the logs must hold its weights, and every update behind it."""
    oldest = oldest_weights(broker, ledger.topology)
    if oldest is None:
        raise ConfigError(
            f"the log of federation {ledger.topology.federation!r} holds no weights to replay from"
        )
    tape = Tape(broker, ledger.topology.results, ledger.topology.federation, FIRST, folder)
    first = tape.next()
    tape.close()
    for round_ in ledger.rounds:
        if any(first is None or row.offset < first.offset for row in round_.rows):
            oldest = max(oldest, round_.version)
    if wanted is None:
        return oldest
    ledger.made(wanted)
    if wanted < oldest:
        raise ConfigError(
            f"version {wanted} is too old to replay from: the logs hold weights and all updates from "
            f"version {oldest} on"
        )
    return wanted


def _decided_anew(
    broker: Broker, ledger: Ledger, wish: Wish, entries: Sequence[Entry], since: int, folder: Path
) -> Redecided:
    rules = wish.settings.config.rules()
    story = story_of(entries, rules, since)
    if wish.left_out:
        story = without(story, wish.left_out)
    assert story.state is not None
    with Recording(broker, ledger, folder, since) as recording:
        layout = recording.weights(since).layout
    start = max(story.state.read_from, FIRST)
    answers = heard(broker, ledger, start, layout, folder)
    if rules.buffered:
        return recount(story, (one.answer for one in answers))
    return redecide(story, arrivals(answers, story))


def _as_it_was(round_: Round, left_out: frozenset[str]) -> Counted:
    whole = Counted(round_, round_.rows, ())
    rows = tuple(row for row in round_.rows if row.client.partition("/")[0] not in left_out)
    return Counted(round_, rows, tuple(whole.base - row.version for row in rows))


def _check_sites(entries: Sequence[Entry], left_out: frozenset[str]) -> None:
    known = {site for entry in entries if entry.kind == "registered" for site, _ in entry.rows}
    for site in sorted(left_out - known):
        raise ConfigError(f"site {site!r} took no part; these did: {', '.join(sorted(known))}")


def _check_decidable(entries: Sequence[Entry], wish: Wish) -> None:
    keys = ", ".join(sorted(DECIDING.intersection(wish.settings.changed)))
    if any(entry.kind == "results-lost" for entry in entries):
        raise ConfigError(
            f"the results log lost its end once, so what other rules would have counted is not known: "
            f"replay without {keys}"
        )
    if wish.left_out and wish.settings.config.cohort.select != "all":
        raise ConfigError(
            f"without a site others would have been asked to train, whose answers nobody knows: "
            f"replay --without-site without {keys}"
        )


def _metrics(entries: Sequence[Entry], rounds: Sequence[Round]) -> dict[int, Mapping[str, float]]:
    """Each version is scored in the round that begins with it, the last one at the end."""
    scored = {Counted(round_, (), ()).base: _plain(round_.metrics) for round_ in reversed(rounds)}
    ends = {entry.data["version"]: entry.data["metrics"] for entry in entries if entry.kind == "evaluated"}
    return {**scored, **ends}


def _plain(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those of the evaluation, without those of the trainings."""
    return {name: value for name, value in metrics.items() if not name.startswith("train_")}
