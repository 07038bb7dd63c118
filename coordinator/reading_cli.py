"""The commands of `warren` that read a federation's log and store, and change nothing.

As in `coordinator.cli`, what a command needs is imported when it runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.options import BrokerOption, FederationOption, JsonOption, StateOption, TargetArgument
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
    federation: FederationOption = "",
    broker: BrokerOption = "",
    as_json: JsonOption = False,
) -> None:
    """Prints the closed rounds, newest first: version, digest, parent, who contributed, what was refused."""
    from coordinator import reports

    set_up()
    with _opened(target, federation, broker, "") as place:
        versions = reports.versions(place.broker(), place.topology)
    for version in versions:
        print(json.dumps(version) if as_json else reports.version_text(version), flush=True)


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
    """Writes a version of the global model, from the log, to an .npz file with the tensors by name."""
    from coordinator import reports
    from coordinator.weight_files import write_weights

    set_up()
    with _opened(target, federation, broker, "") as place:
        number, weights = reports.model(place.broker(), place.topology, version)
    write_weights(to, weights)
    if as_json:
        print(json.dumps({"version": number, "digest": weights.digest, "file": str(to)}))
    else:
        print(f"version {number} (digest {weights.digest[:12]}) is in {to}")


#: In the order in which the help lists them.
COMMANDS = (status, log, export)


def _opened(target: Path | None, federation: str, broker: str, state: str) -> Target:
    from coordinator.target import Target

    return Target.of_arguments(target, federation, broker, state)
