"""What `warren status` shows, from the state store."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from coordinator.kept import kept_text
from coordinator.lease import describe
from coordinator.output import megabytes, round_line
from coordinator.state.port import Snapshot

#: A worker that was not seen for so long is not counted.
FRESH_S = 20.0


def standing(federation: str, snapshot: Snapshot) -> dict[str, Any]:
    """A federation's state, from the store."""
    sections = snapshot.sections
    history = [json.loads(line) for line in snapshot.history]
    reasons: dict[str, int] = {}
    for line in history:
        for reason, count in line["reasons"].items():
            reasons[reason] = reasons.get(reason, 0) + count
    for reason, text in sections["refused"].items():
        reasons[reason] = reasons.get(reason, 0) + json.loads(text)[0]
    return {
        "federation": federation,
        "leader": describe(snapshot.leader) if snapshot.leader else None,
        "round": dict(sections["round"]),
        "assigned": len(sections["assigned"]),
        "accepted": len(sections["accepted"]),
        "sites": {site: json.loads(text) for site, text in sections["clients"].items()},
        "workers": {name: json.loads(text) for name, text in sections["workers"].items()},
        "refused": reasons,
        "floods": {login: json.loads(text) for login, text in sections["floods"].items()},
        "history": history,
    }


def print_standing(standing: dict[str, Any]) -> None:
    """The state for a person at a terminal, or in a pipe."""
    from rich.console import Console
    from rich.table import Table

    # Sites word much of this: it is no markup.
    console = Console(soft_wrap=True, markup=False)
    round_ = standing["round"]
    if not round_:
        console.print(f"Federation {standing['federation']}: nothing is known of it here")
        return
    made = int(round_["version"]) >= 0
    version = f"version {round_['version']}, digest {round_['digest'][:12]}" if made else "no version yet"
    console.print(
        f"Federation {standing['federation']}: round {round_['number']} of {round_['rounds']} "
        f"{round_['state']}, {version}"
    )
    console.print(f"Leader: {standing['leader'] or 'none'}")
    console.print(kept_text(standing["kept"]))
    if round_["waiting_for"]:
        console.print(round_["waiting_for"])
    if round_["reason"]:
        console.print(f"Ended: {round_['reason']}")
    if round_["state"] == "open":
        console.print(f"Answers: {standing['accepted']}; still out: {standing['assigned']}")
    now = time.time()
    table = Table("site", "clients", "workers", "seen")
    for site, about in sorted(standing["sites"].items()):
        alive = [
            worker
            for name, worker in standing["workers"].items()
            if name.startswith(f"{site}/") and now - worker["seen"] < FRESH_S
        ]
        seen = f"{max(now - about['seen'], 0):.0f} s ago" if about["seen"] else "not yet"
        table.add_row(site, str(about["clients"]), str(len(alive)), "absent" if about["absent"] else seen)
    console.print(table)
    for reason, count in sorted(standing["refused"].items()):
        console.print(f"{count} × {reason}")
    for login, about in standing["floods"].items():
        console.print(flood_text(login, about))
    for line in standing["history"][-5:]:
        console.print(round_line(line))


def flood_text(login: str, about: Mapping[str, Any]) -> str:
    """A login that sends more than it was asked for, with the commands that shut it out."""
    said = f"{megabytes(about['sent'])} in {about['messages']} messages"
    if about["dropped_bytes"]:
        said += f", {megabytes(about['dropped_bytes'])} of it not read"
    doing = "floods the results log" if about["flooding"] else "sent much more than it was asked for"
    return "\n".join([f"Login {login!r} {doing}: {said}. To cut it off:", *about["to_cut_it_off"]])
