"""What `warren quarantine` says to people. Sites' own words are shown, but nothing in them acts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from coordinator.intake import plain
from coordinator.output import megabytes, readmission_text
from coordinator.quarantine import Case

#: Tensors of one update that are shown.
MAX_TENSORS = 40
#: What was checked, and what it means.
CHECKS = (
    ("run", "it belongs to this run of the federation", "it belongs to another run or federation"),
    (
        "sha256",
        "its payload has the SHA-256 that it claims",
        "its payload has another SHA-256 than it claims",
    ),
    ("layout", "its tensors have the model's layout", "its tensors don't have the model's layout"),
)


def case_text(case: Case) -> str:
    """A case in a few lines."""
    if case.more:
        return f"{case.more} more {case.kind} in {_when(case)}, only counted\n    {plain(case.reason)}"
    what = f"assignment {case.id}" if case.offset is None else f"offset {case.offset}"
    who = plain(case.client) or "client unknown"
    if case.login:
        who += f", login {plain(case.login)}"
    if case.version is not None:
        who += f", on version {case.version}"
    if case.examples:
        who += f", {case.examples} examples"
    lines = [f"{what}: {case.kind} in {_when(case)}", f"    {who}", f"    {plain(case.reason)}"]
    if case.kind == "refused":
        lines.append(f"    {_chance(case.out, case.reason, case.offset)}")
    return "\n".join(lines)


def verdict_text(case: Case) -> str:
    """What became of an update, in one line."""
    return f"    {case.kind} in {_when(case)}: {plain(case.reason)}"


def decision_text(at: float, data: Mapping[str, Any]) -> str:
    """An operator's request and what came of it."""
    return f"{_clock(at)} {plain(readmission_text(data))}"


def update_text(about: Mapping[str, Any]) -> Iterator[str]:
    """An update that was looked into, line by line."""
    yield f"offset {about['offset']}: message {plain(about['message_id'])} of login {plain(about['login'])!r}"
    yield f"    {about['parts']} parts, {megabytes(about['bytes'])}"
    if about["broken"]:
        yield f"    it can't be read: {plain(about['broken'])}"
    for name, value in about["update"].items():
        if value not in ("", {}):
            yield f"    {name}: {_value(value)}"
    if not about["broken"]:
        for name, good, bad in CHECKS:
            yield f"    {good if about[name] else bad}"
    yield from _tensors(about["tensors"])
    yield f"    {_chance(about['out'], about['broken'], about['offset'])}"


def _tensors(tensors: list[Mapping[str, Any]]) -> Iterator[str]:
    """The odd ones first."""
    shown = sorted(tensors, key=lambda tensor: not tensor["not_finite"])[:MAX_TENSORS]
    for tensor in shown:
        shape = "×".join(map(str, tensor["shape"])) or "scalar"
        odd = f"{tensor['not_finite']} values not finite" if tensor["not_finite"] else "all finite"
        extent = f"from {tensor['low']:.6g} to {tensor['high']:.6g}, norm {_value(tensor['norm'])}"
        yield f"    tensor {plain(tensor['name'])!r}, {tensor['dtype']} {shape}: {odd}, {extent}"
    if len(tensors) > len(shown):
        yield f"    … and {len(tensors) - len(shown)} more: --json shows all"


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{plain(name)} {_value(item)}" for name, item in value.items())
    return f"{value:.6g}" if isinstance(value, float) else plain(str(value))


def _chance(out: str | None, said: str, offset: int | None) -> str:
    """Whether it may be let in; why not, unless that was `said` already."""
    if out is None:
        return "not in the log any more"
    if out:
        return "stays out" if out == said else f"stays out: {plain(out)}"
    return f"may be let in: warren quarantine readmit {offset}"


def _when(case: Case) -> str:
    if case.at is None:
        return f"round {case.round}, which is open"
    return f"round {case.round}, {_clock(case.at)}"


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
