"""The commands of `warren` that read a federation's log and store, and change nothing.

As in `coordinator.cli`, what a command needs is imported when it runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.options import (
    BrokerOption,
    FederationOption,
    JsonOption,
    StateOption,
    TargetArgument,
    ThreadsOption,
)
from shared.observability import set_up

if TYPE_CHECKING:
    from coordinator.target import Target


def status(
    target: TargetArgument = None,
    federation: FederationOption = "",
    broker: BrokerOption = "",
    state: StateOption = "",
    as_json: JsonOption = False,
) -> None:
    """Shows where a federation stands: round, sites, workers, what was refused and why, what is kept."""
    from coordinator import reports
    from coordinator.kept import kept

    set_up()
    with _opened(target, federation, broker, state) as place:
        standing = reports.standing(place.federation, place.store().read())
        standing["kept"] = kept(place, standing["history"])
    if as_json:
        print(json.dumps(standing))
    else:
        reports.print_standing(standing)


def log(
    target: TargetArgument = None,
    version: Annotated[
        int | None, typer.Option(min=0, help="Only this version.", show_default="all of them")
    ] = None,
    count: Annotated[
        int | None, typer.Option("-n", min=1, help="Only so many, the newest.", show_default="all of them")
    ] = None,
    federation: FederationOption = "",
    broker: BrokerOption = "",
    as_json: JsonOption = False,
) -> None:
    """Prints the closed rounds, newest first: version, digest, parent, who contributed, what was refused."""
    from coordinator import accounts, ledger

    set_up()
    with _opened(target, federation, broker, "") as place:
        book = ledger.read(place.broker(), place.topology)
    number = None if version is None else book.made(version).version
    rounds = [round_ for round_ in reversed(book.rounds) if number is None or round_.version == number]
    for account in accounts.versions(book, rounds[:count]):
        print(json.dumps(account) if as_json else accounts.version_text(account), flush=True)


def verify(
    target: TargetArgument = None,
    federation: FederationOption = "",
    broker: BrokerOption = "",
    threads: ThreadsOption = 2,
    as_json: JsonOption = False,
) -> None:
    """Makes every version again from the log, and compares digests; exits with 5 if anything differs.

    What retention has dropped is named, and no difference. A federation may run meanwhile: what it has closed
    is verified.
    """
    from coordinator.accounts import Verdicts
    from coordinator.soundness import examine
    from coordinator.verification import Verifier

    set_up()
    with _opened(target, federation, broker, "") as place:
        book, faults = examine(place.broker(), place.topology)
        verdicts = Verdicts(as_json)
        for finding in Verifier(place.broker(), book, place.folder, threads).findings():
            verdicts.take(finding)
        verdicts.end(faults)


def export(
    target: TargetArgument = None,
    version: Annotated[
        int | None, typer.Option(min=0, help="Which version.", show_default="the last")
    ] = None,
    to: Annotated[Path, typer.Option(help="The .npz file to write.")] = Path("model.npz"),
    federation: FederationOption = "",
    broker: BrokerOption = "",
    as_json: JsonOption = False,
) -> None:
    """Writes a version of the global model, from the log, to an .npz file with the tensors by name.

    One whose weights are not in the log is made again of its parent's and of its updates.
    """
    from coordinator import ledger, remaking
    from coordinator.weight_files import write_weights

    set_up()
    with _opened(target, federation, broker, "") as place:
        book = ledger.read(place.broker(), place.topology)
        number = book.made(version).version
        weights, why = remaking.weights(place.broker(), book, number, place.folder)
    write_weights(to, weights)
    if as_json:
        print(json.dumps({"version": number, "digest": weights.digest, "file": str(to), "made_again": why}))
    else:
        again = f", made again: {why}" if why else ""
        print(f"version {number} (digest {weights.digest[:12]}) is in {to}{again}")


#: In the order in which the help lists them.
COMMANDS = (status, log, verify, export)


def _opened(target: Path | None, federation: str, broker: str, state: str) -> Target:
    from coordinator.target import Target

    return Target.of_arguments(target, federation, broker, state)
