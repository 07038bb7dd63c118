"""What the benchmark says: sections of tables, as Markdown for people and as JSON for programs. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.benchmarks.figures import significant


@dataclass
class Table:
    """Rows of texts below heads; `title` says what they are, and in which units."""

    title: str
    heads: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def markdown(self) -> str:
        """The table in Markdown.

        Raises:
            ValueError: a row has more or fewer cells than there are heads.
        """
        for row in self.rows:
            if len(row) != len(self.heads):
                raise ValueError(
                    f"{self.title!r} has {len(self.heads)} columns, and a row of {len(row)} cells"
                )
        lines = [self.heads, ["---"] * len(self.heads), *self.rows]
        return "\n".join([f"**{self.title}**", "", *(f"| {' | '.join(cells)} |" for cells in lines)])


@dataclass
class Section:
    """One part of the benchmark: tables for people, `figures` by name for the targets and for programs.

    `notes` say how it was measured, and what was left out and why.
    """

    name: str
    title: str
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    failed: bool = False

    def markdown(self) -> str:
        blocks = [f"## {self.title}", *(f"{note}" for note in self.notes)]
        return "\n\n".join([*blocks, *(table.markdown() for table in self.tables)])


@dataclass(frozen=True)
class Target:
    """What is aimed at: the figure named `figure`, at least or at most `limit`, in `unit`."""

    text: str
    figure: str
    limit: float
    unit: str = ""
    at_least: bool = False

    def row(self, figures: Mapping[str, float]) -> list[str]:
        value = figures.get(self.figure)
        if value is None:
            return [self.text, "not measured", ""]
        met = value >= self.limit if self.at_least else value <= self.limit
        return [self.text, f"{significant(value)} {self.unit}".strip(), "met" if met else "**not met**"]


def targets_table(targets: Sequence[Target], figures: Mapping[str, float]) -> Table:
    """Each target beside what was measured."""
    rows: list[Sequence[str]] = [target.row(figures) for target in targets]
    return Table("Targets", ["target", "measured", ""], rows)


def document(about: Sequence[str], targets: Table, sections: Sequence[Section]) -> str:
    """The whole report in Markdown."""
    head = ["# How fast Warren is, measured by `make bench`", "\n".join(f"- {line}" for line in about)]
    return "\n\n".join([*head, targets.markdown(), *(section.markdown() for section in sections)]) + "\n"


def as_json(about: Mapping[str, Any], targets: Table, sections: Sequence[Section]) -> dict[str, Any]:
    """The same for programs."""
    return {"about": dict(about), "targets": asdict(targets), "sections": [asdict(each) for each in sections]}
