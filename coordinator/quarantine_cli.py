"""`warren quarantine`: what was refused or died, what is in it, and letting a refused update in.

As in `coordinator.cli`, what a command needs is imported when it runs.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.options import BrokerOption, FederationOption, JsonOption, StateOption, TargetArgument
from shared.errors import ConfigError, FederationFailed
from shared.observability import set_up

if TYPE_CHECKING:
    from coordinator.target import Target

app = typer.Typer(
    no_args_is_help=True,
    help="Refused updates and dead assignments: list them, look into them, let a refused update in.",
)
OffsetArgument = Annotated[int, typer.Argument(min=0, help="The update's offset, as the list names it.")]


@app.command("list")
def list_cases(
    target: TargetArgument = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at the most, the newest first.")] = 100,
    federation: FederationOption = "",
    broker: BrokerOption = "",
    state: StateOption = "",
    as_json: JsonOption = False,
) -> None:
    """Lists what came to nothing, and why: refused updates, failure reports, assignments that died.

    Of each reason in a round the first 20 are kept, the others only counted.
    """
    from coordinator.quarantine_text import case_text, decision_text
    from coordinator.ward import Ward

    set_up()
    with _opened(target, federation, broker, state) as place:
        ward = Ward(place)
        cases, more = ward.cases(limit)
        decisions = [{"at": entry.at, **entry.data} for entry in ward.known.decisions]
    if as_json:
        print(json.dumps({"cases": [asdict(case) for case in cases], "more": more, "decisions": decisions}))
        return
    for decision in decisions[::-1]:
        print(decision_text(decision["at"], decision))
    for case in cases:
        print(case_text(case))
    if more:
        print(f"… and {more} more: --limit {len(cases) + more} shows all")
    if not cases and not decisions:
        print("nothing was refused, and nothing died")


@app.command()
def show(
    which: Annotated[str, typer.Argument(help="An update's offset, or the beginning of an assignment's id.")],
    target: TargetArgument = None,
    federation: FederationOption = "",
    broker: BrokerOption = "",
    state: StateOption = "",
    as_json: JsonOption = False,
) -> None:
    """Shows what an update says and holds, tensor by tensor, whatever bytes it is made of."""
    from coordinator.examination import examine
    from coordinator.quarantine_text import case_text, update_text, verdict_text
    from coordinator.ward import Ward

    set_up()
    with _opened(target, federation, broker, state) as place:
        ward = Ward(place)
        case = None if _is_offset(which) else ward.named(which)
        offset = int(which) if case is None else case.offset
        cases = ward.about(offset) if offset is not None else [case] if case else []
        about = None
        if offset is not None:
            about = examine(place.broker(), place.topology, offset, ward.known, _room(place))
    if as_json:
        print(json.dumps({"cases": [asdict(each) for each in cases], "message": about}))
        return
    if about is None:
        print("\n".join(map(case_text, cases)))
    else:
        print("\n".join([*update_text(about), *map(verdict_text, cases)]))


@app.command()
def readmit(
    offset: OffsetArgument,
    target: TargetArgument = None,
    reason: Annotated[str, typer.Option(help="Why; it stands in the journal.")] = "",
    wait: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the coordinator.")] = 30.0,
    federation: FederationOption = "",
    broker: BrokerOption = "",
    state: StateOption = "",
    as_json: JsonOption = False,
) -> None:
    """Asks the coordinator to count a refused update in the open round, and prints what it decides.

    What only looks wrong can be let in: values or example counts that are absurdly large, a login that does
    not speak for the site. Broken bytes, another layout, or values that are no numbers never can.
    """
    from coordinator.intake import plain
    from coordinator.output import readmission_text
    from coordinator.petition import send
    from coordinator.ward import Ward

    set_up()
    with _opened(target, federation, broker, state) as place:
        ward = Ward(place)
        ward.check_led()
        entry = send(place.broker(), place.topology, ward.petition(offset, reason), ward.reader, wait)
    if entry is None:
        raise FederationFailed(
            f"no coordinator has decided within {wait:g} s: see that one runs; if the request was taken, "
            f"'warren quarantine list' shows the decision"
        )
    if entry.data["refused"]:
        raise ConfigError(plain(readmission_text(entry.data)))
    print(json.dumps({"at": entry.at, **entry.data}) if as_json else plain(readmission_text(entry.data)))


def _is_offset(which: str) -> bool:
    """An id is of 32 hex digits, which may begin with many that are no letters."""
    return which.isdecimal() and len(which) < 19


def _room(place: Target) -> Path:
    """Where a large payload lies while it is looked into."""
    return place.folder if place.folder.is_dir() else Path(gettempdir())


def _opened(target: Path | None, federation: str, broker: str, state: str) -> Target:
    from coordinator.target import Target

    return Target.of_arguments(target, federation, broker, state)
