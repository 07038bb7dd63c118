"""The live table that a person at a terminal sees while a federation runs."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from coordinator.facts import Answer, Phase, State
from coordinator.output import megabytes
from coordinator.showing import waiting_for
from coordinator.validation import Verdict

#: Closed rounds that stay in sight.
ROWS = 15


class LiveTable:
    """An observer that draws. Use it as a context around the run."""

    def __init__(self, name: str, console: Console) -> None:
        self._name = name
        self._console = console
        self._lines: list[Mapping[str, Any]] = []
        self._state: State | None = None
        self._notes: list[str] = []
        self._live = Live(console=console, refresh_per_second=8, get_renderable=self._render)

    def __enter__(self) -> LiveTable:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def changed(self, state: State) -> None:
        self._state = state

    def ruled(self, answer: Answer, verdict: Verdict) -> None:
        if verdict.ruling in ("refused", "failed"):
            note = f"{answer.client or answer.sender}: {verdict.ruling}: {verdict.reason}"
            self._notes = [*(known for known in self._notes if known != note), note][-3:]

    def closed(self, line: Mapping[str, Any]) -> None:
        self._lines = [*self._lines, line][-ROWS:]

    def _render(self) -> Group:
        parts: list[Table | Text] = [self._table(), self._standing()]
        parts += [Text(note, style="yellow") for note in self._notes]
        return Group(*parts)

    def _table(self) -> Table:
        table = Table(title=f"Federation {self._name}", title_justify="left")
        for head in (
            "round",
            "clients",
            "late",
            "refused",
            "accuracy",
            "loss",
            "received",
            "sent",
            "seconds",
        ):
            table.add_column(head, justify="right")
        for line in self._lines:
            metrics = line["metrics"]
            table.add_row(
                str(line["round"]),
                f"{line['accepted']}/{line['assigned']}",
                str(line["late"]),
                str(line["rejected"] + line["failed"]),
                *(f"{metrics[name]:.4f}" if name in metrics else "" for name in ("accuracy", "loss")),
                megabytes(line["bytes_in"]),
                megabytes(line["bytes_out"]),
                f"{line['seconds']:.2f}",
            )
        return table

    def _standing(self) -> Text:
        state = self._state
        if state is None:
            return Text("starting")
        if state.phase is Phase.FINISHED:
            return Text(f"ended at version {state.version}: {state.outcome_reason}")
        missing = waiting_for(state)
        if missing:
            return Text(missing)
        wanted = state.rules.buffer if state.rules.buffered else state.target or len(state.cohort)
        answered = f"{len(state.accepted)} of {wanted} answers"
        here = f"{len(state.present)} clients of {len(state.sites - state.absent)} sites are here"
        return Text(f"round {state.round} of {state.rules.rounds} {state.phase.value}: {answered}; {here}")
