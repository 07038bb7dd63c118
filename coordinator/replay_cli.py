"""`warren replay` and `warren fork`: what else could have come of a federation, and what else may.

As in `coordinator.cli`, what a command needs is imported when it runs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.options import BrokerOption, FederationOption, JsonOption, TargetArgument, ThreadsOption
from shared.errors import ConfigError, VerificationFailed
from shared.observability import set_up

if TYPE_CHECKING:
    from coordinator.replay import Replay
    from coordinator.target import Target

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another setting than the recorded one: aggregation.rule=median."),
]


def replay(
    target: TargetArgument = None,
    overrides: SetOption = None,
    without: Annotated[
        list[str] | None, typer.Option("--without-site", help="Leave a site's updates out.")
    ] = None,
    since: Annotated[
        int | None,
        typer.Option("--from-version", min=0, help="Version to begin with.", show_default="the first kept"),
    ] = None,
    ahead: Annotated[
        bool, typer.Option("--one-round-ahead", help="Make each round's model of its recorded parent.")
    ] = False,
    to: Annotated[
        Path | None, typer.Option(help="Folder for the models, version-N.npz.", show_default="replayed/NAME")
    ] = None,
    every: Annotated[bool, typer.Option("--every", help="Write every version, not only the last.")] = False,
    federation: FederationOption = "",
    broker: BrokerOption = "",
    threads: ThreadsOption = 2,
    as_json: JsonOption = False,
) -> None:
    """Makes recorded rounds again under other settings, and compares the models with the recorded ones.

    May be set: aggregation.*, server.*, staleness.*, buffered.normalise; and outside buffered mode
    cohort.deadline_s, .target, .minimum and .on_missing. Those four and staleness.max decide anew which
    updates count, late ones included. The log does not say when an update came: that is estimated from its
    place there, and from how long its worker says that it worked. In buffered mode each round keeps its place
    in the log instead, however many updates it then counts.

    One round ahead a replay is exact. Further on it is an approximation: the clients trained on the recorded
    models, and what they sent is applied to the replayed ones. Other server.* settings begin with a new
    optimiser state. With nothing changed the recorded digests come out, or the command ends with code 5.
    """
    from coordinator import ledger
    from coordinator.plan import Wish, plan
    from coordinator.replay import Replay
    from coordinator.replayable import settings_of

    set_up()
    with _opened(target, federation, broker) as place:
        book = ledger.read(place.broker(), place.topology)
        wish = Wish(settings_of(book.binding, overrides or ()), frozenset(without or ()), since, ahead)
        planned = plan(place.broker(), book, wish, _room(place))
        folder = to or Path("replayed") / place.federation
        _replayed(Replay(place.broker(), book, planned, wish, _room(place), threads), folder, every, as_json)


def fork(
    target: TargetArgument = None,
    since: Annotated[
        int | None, typer.Option("--from-version", min=0, help="Which version.", show_default="the last")
    ] = None,
    name: Annotated[str, typer.Option(help="The new federation's name.")] = "",
    overrides: SetOption = None,
    to: Annotated[Path | None, typer.Option(help="The TOML file to write.", show_default="NAME.toml")] = None,
    federation: FederationOption = "",
    broker: BrokerOption = "",
    as_json: JsonOption = False,
) -> None:
    """Makes a new federation of a recorded version: its weights, and a TOML with the same settings.

    Its version 0 has the recorded version's digest; rounds, clients and the server optimiser's state begin
    anew. The TOML says where the weights come from, and so does the new federation's journal.
    """
    from coordinator import ledger, remaking
    from coordinator.fork import fork_of

    set_up()
    if not name:
        raise ConfigError("--name is missing: say how the new federation is to be called")
    with _opened(target, federation, broker) as place:
        book = ledger.read(place.broker(), place.topology)
        made = book.made(since)
        forked = fork_of(book, made, name, overrides or (), _local(target), to)
        forked.write(remaking.weights(place.broker(), book, made.version, _room(place))[0])
    if as_json:
        about = {"version": made.version, "digest": made.digest, "run": book.run, "name": name}
        files = {"file": str(forked.toml), "initial": str(forked.initial), "command": forked.command}
        print(json.dumps({**about, **files}))
        return
    print(
        f"federation {name} begins with version {made.version} of {book.topology.federation}: {forked.toml}"
    )
    print(f"(digest {made.digest[:12]}, in {forked.initial}; the server optimiser's state begins anew)")
    print(f"To run it: {forked.command}")


#: In the order in which the help lists them.
COMMANDS = (replay, fork)


def _replayed(replay: Replay, to: Path, every: bool, as_json: bool) -> None:
    """Makes the models, writes them, and prints what they are."""
    from coordinator.replay_text import ending, heading, table, to_json
    from coordinator.weight_files import make_folder, write_weights

    make_folder(to)
    lines, files = [], []
    for line, weights in replay.lines():
        lines.append(line)
        if every or len(lines) == len(replay.plan.rounds):
            files.append(to / f"version-{line.version}.npz")
            write_weights(files[-1], weights)
    notes = replay.notes(lines)
    if as_json:
        print(json.dumps(to_json(replay, lines, files, notes)))
    else:
        print("\n".join([heading(replay), *table(lines), ending(replay, lines)]))
        print(f"in {to}: {', '.join(file.name for file in files)}", flush=True)
        for note in notes:
            print(f"Note: {note}.", file=sys.stderr)
    if not replay.wish.changes and not all(line.same for line in lines):
        raise VerificationFailed("nothing was changed, and yet other models came of it: see 'warren verify'")


def _local(target: Path | None) -> dict[str, object]:
    """The table `local` of the target's own TOML: it describes processes, and so is in no journal."""
    from coordinator.config import load

    file = target / "federation.toml" if target is not None and target.is_dir() else target
    return load(file).local.model_dump(mode="json", exclude_none=True) if file is not None else {}


def _room(place: Target) -> Path:
    """Where large payloads lie while they are worked on."""
    return place.folder if place.folder.is_dir() else Path(gettempdir())


def _opened(target: Path | None, federation: str, broker: str) -> Target:
    from coordinator.target import Target

    return Target.of_arguments(target, federation, broker, "")
