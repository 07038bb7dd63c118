"""What the reading commands show: standing, versions, models. From the store and the logs, for people."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from coordinator import journal
from coordinator.facts import Closed, Entry
from coordinator.history import History
from coordinator.kept import kept_text, oldest_weights
from coordinator.lease import describe
from coordinator.models import find_task
from coordinator.output import megabytes, round_line
from coordinator.state.port import Snapshot
from shared.broker.port import FIRST, Broker
from shared.errors import ConfigError
from shared.topology import Topology
from shared.weights import Weights

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
    console.print(
        f"Federation {standing['federation']}: round {round_['number']} of {round_['rounds']} "
        f"{round_['state']}, version {round_['version']}, digest {round_['digest'][:12]}"
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


def versions(broker: Broker, topology: Topology) -> list[dict[str, Any]]:
    """The closed rounds with their contributors, newest first."""
    history = History()
    made: list[dict[str, Any]] = []
    closing: Entry | None = None
    for record in journal.read(broker, topology):
        if record.entry.kind == "round-closing":
            closing = record.entry
        line = history.feed(record.entry)
        if line is not None and closing is not None:
            made.append(_version(line, closing, record.entry))
    return made[::-1]


def _version(line: dict[str, Any], closing: Entry, closed: Entry) -> dict[str, Any]:
    rows = [Closed(*row) for row in closing.rows[0]]
    return {
        **line,
        "parent": closed.data["parent"],
        "at": closed.at,
        "contributors": [
            {"client": row.client, "examples": row.examples, "version": row.version, "offset": row.offset}
            for row in rows
        ],
    }


def version_text(version: dict[str, Any]) -> str:
    """A version, as `git log` would show it."""
    lines = [
        f"version {version['version']} {version['digest']}",
        f"Parent: {version['parent'] or 'none'}",
        f"Date:   {time.strftime('%Y-%m-%d %H:%M:%S %z', time.localtime(version['at']))}",
        "",
        f"    {round_line(version)}",
    ]
    for who in version["contributors"]:
        stale = version["version"] - 1 - who["version"]
        said = f"{who['examples']} examples" + (f", {stale} versions behind" if stale > 0 else "")
        lines.append(f"    {who['client']}: {said}")
    lines += [f"    {count} × {reason}" for reason, count in version["reasons"].items()]
    return "\n".join([*lines, ""])


def model(broker: Broker, topology: Topology, version: int | None) -> tuple[int, Weights]:
    """A version's number and weights, from the log; None: the last.

    Raises:
        ConfigError: there is no such version in the log (any more).
    """
    chain: dict[int, tuple[str, int]] = {}
    for record in journal.read(broker, topology):
        if record.entry.kind == "round-closed":
            data = record.entry.data
            chain[data["version"]] = (data["digest"], data["hints"]["task"])
    if not chain:
        raise ConfigError(f"federation {topology.federation!r} has no version of its model in the log yet")
    number = max(chain) if version is None else version
    if number not in chain:
        raise ConfigError(f"version {number} is not in the log; there are {min(chain)} to {max(chain)}")
    oldest = oldest_weights(broker, topology)
    digest, start = chain[number]
    # Not looked for in what may be a long log, if its beginning shows that it is in vain.
    found = None
    if oldest is not None and oldest <= number:
        found = find_task(broker, topology, max(start, FIRST), digest)
    if found is None:
        there = "no versions" if oldest is None else f"versions {oldest} to {max(chain)}"
        raise ConfigError(f"the weights of version {number} are not in the log any more; it holds {there}")
    return number, found[1]
