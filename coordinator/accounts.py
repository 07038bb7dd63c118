"""What `warren log` and `warren verify` say of a federation's past, for people and for machines."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from coordinator.ledger import Ledger, Round
from coordinator.optimizers import make as make_optimizer
from coordinator.output import round_line
from coordinator.recipe import Recipe
from coordinator.verification import Finding
from shared.errors import VerificationFailed

#: Differences of one version, and offsets of one reason, that are written out.
SHOWN = 5


def versions(ledger: Ledger, rounds: Iterable[Round]) -> list[dict[str, Any]]:
    """The rounds with their contributors and what was refused, for JSON."""
    config = ledger.config
    recipe, origin = Recipe(config, make_optimizer(config.server)), config.federation.forked_from
    accounts = [_version(recipe, round_) for round_ in rounds]
    return [
        {**account, "forked_from": origin} if origin and account["version"] == 0 else account
        for account in accounts
    ]


def _version(recipe: Recipe, round_: Round) -> dict[str, Any]:
    base = round_.version - 1
    shares = recipe.shares(base, round_.rows) if round_.version else [1.0] * len(round_.rows)
    return {
        **round_.line,
        "parent": round_.parent,
        "at": round_.closed_at,
        "leader": round_.leader.who,
        "contributors": [
            {
                "client": row.client,
                "site": row.client.partition("/")[0],
                "login": row.sender,
                "examples": row.examples,
                "version": row.version,
                "staleness": max(base - row.version, 0),
                "share": share,
                "offset": row.offset,
                "readmitted": round_.readmitted.get(row.id),
            }
            for row, share in zip(round_.rows, shares, strict=True)
        ],
        "refusals": {
            reason: {"count": count, "offsets": list(offsets)}
            for reason, (count, offsets) in round_.refusals.items()
        },
    }


def _origin_text(forked_from: str | None) -> str:
    """Where a version without a parent comes from."""
    if forked_from is None:
        return "none"
    place, digest = forked_from.rsplit(":", 1)
    federation, _, number = place.partition("@")
    return f"version {number} of {federation} (digest {digest[:12]})"


def version_text(version: dict[str, Any]) -> str:
    """A version of `versions`, as `git log` would show it."""
    lines = [
        f"version {version['version']} {version['digest']}",
        f"Parent: {version['parent'] or _origin_text(version.get('forked_from'))}",
        f"Leader: {version['leader']}",
        f"Date:   {time.strftime('%Y-%m-%d %H:%M:%S %z', time.localtime(version['at']))}",
        "",
        f"    {round_line(version)}",
    ]
    for who in version["contributors"]:
        said = [f"{who['examples']} examples"] if who["examples"] else ["initial weights"]
        if who["staleness"]:
            said.append(f"{who['staleness']} {_plural('version', who['staleness'])} behind")
        if version["version"]:
            said.append(f"{who['share']:.1%}")
        if who["readmitted"]:
            reason = who["readmitted"]["reason"] or "no reason given"
            said.append(f"readmitted by {who['readmitted']['who']} ({reason})")
        lines.append(f"    {who['client']}: {', '.join(said)}")
    for reason, about in version["refusals"].items():
        shown = ", ".join(map(str, about["offsets"][:SHOWN]))
        more = ", …" if about["count"] > SHOWN else ""
        lines.append(f"    {about['count']} × {reason} (at {shown}{more})")
    return "\n".join([*lines, ""])


# --- verify


class Verdicts:
    """Prints findings as they come, and a summary."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._all: list[Finding] = []
        self._alike: list[Finding] = []

    def take(self, finding: Finding) -> None:
        """Prints the next version's; in text, those that lack the same are one line."""
        self._all.append(finding)
        if self._as_json:
            print(json.dumps(asdict(finding)), flush=True)
            return
        if self._alike and _kind(self._alike[0]) != _kind(finding):
            self._flush()
        self._alike.append(finding)
        if finding.result != "unverifiable":
            self._flush()

    def end(self, faults: Sequence[str]) -> None:
        """Prints the summary; `faults` are those of the journal itself.

        Raises:
            VerificationFailed: something differs; the first thing that does.
        """
        self._flush()
        by_result: dict[str, list[int]] = {}
        for finding in self._all:
            by_result.setdefault(finding.result, []).append(finding.version)
        if self._as_json:
            print(json.dumps({**by_result, "journal": list(faults)}))
        else:
            print(_summary(by_result))
        if faults:
            raise VerificationFailed(faults[0])
        first = next((finding for finding in self._all if finding.differences), None)
        if first is not None:
            raise VerificationFailed(f"version {first.version} differs: {first.differences[0]}")

    def _flush(self) -> None:
        if self._alike:
            first, last = self._alike[0], self._alike[-1]
            name = f"version {first.version}"
            if last is not first:
                name = f"versions {first.version} to {last.version}"
            digest = f" {first.digest[:12]}" if last is first else ""
            print(f"{name}{digest}: {_said(first)}", flush=True)
        self._alike = []


def _kind(finding: Finding) -> tuple[str, tuple[str, ...]]:
    return finding.result, finding.lacks


def _said(finding: Finding) -> str:
    lacks = ", ".join(finding.lacks)
    match finding.result:
        case "verified":
            of = f"initial weights of {finding.origin}" if finding.origin else _made_of(finding.updates)
            return f"verified, {of}" + (f" ({lacks})" if lacks else "")
        case "recorded":
            return f"its weights are as recorded, but it can't be made again ({lacks})"
        case "unverifiable":
            return f"can't be verified any more ({lacks})"
        case _:
            more = len(finding.differences) - SHOWN
            shown = "; ".join(finding.differences[:SHOWN])
            return f"DIFFERS: {shown}" + (f"; and {more} more" if more > 0 else "")


def _made_of(updates: int) -> str:
    return f"made again of {updates} {_plural('update', updates)}"


def _summary(by_result: dict[str, list[int]]) -> str:
    words = {
        "differs": "differing",
        "verified": "verified",
        "recorded": "as recorded, but not made again",
        "unverifiable": "not verifiable any more",
    }
    said = [
        f"{len(by_result[result])} {word} ({ranges(by_result[result])})"
        for result, word in words.items()
        if result in by_result
    ]
    return f"Versions: {', '.join(said) or 'none yet'}"


def ranges(numbers: Sequence[int]) -> str:
    """Growing numbers in words: 0 to 3, 5, 7 to 9."""
    runs = [[n for _, n in run] for _, run in groupby(enumerate(numbers), lambda at: at[1] - at[0])]
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
