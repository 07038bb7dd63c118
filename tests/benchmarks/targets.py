"""What is aimed at, on a machine of two cores that does nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.benchmarks.bench import EMBEDDED, RABBIT
from tests.benchmarks.report import Section, Target

_SMALL, _MIDDLE, _LARGE = "10x1000", "10x1000000", "10x25000000"

#: `figure` is a section's name and that of one of its figures.
TARGETS = (
    Target(f"10 × 4 kB, {RABBIT}: median round under 25 ms", f"overhead: {_SMALL} rabbit ms", 25, "ms"),
    Target(f"10 × 4 kB, {RABBIT}: at most 3 × floor a", f"overhead: {_SMALL} × a", 3, "×"),
    Target(f"10 × 4 kB, {EMBEDDED}: median round under 10 ms", f"overhead: {_SMALL} embedded ms", 10, "ms"),
    Target("10 × 4 MB: at most 1 × floor a", f"overhead: {_MIDDLE} × a", 1, "×"),
    Target("10 × 4 MB: at most 2 × floor b", f"overhead: {_MIDDLE} × b", 2, "×"),
    Target("10 × 100 MB: at most 1 × floor a", f"overhead: {_LARGE} × a", 1, "×"),
    Target("10 × 100 MB: at most 2 × floor b", f"overhead: {_LARGE} × b", 2, "×"),
    *(
        Target(
            f"fold of {dtype}, {threads} thread(s): at least 80 % of memory's copy",
            f"fold: {dtype} fold {threads} %",
            80,
            "%",
            at_least=True,
        )
        for dtype in ("float32", "float64")
        for threads in (1, 2)
    ),
    *(
        Target(
            f"coordinator, 100 × 100 MB, {broker}: at most 2 models + 100 MB of anonymous memory",
            f"memory: {broker} 100 coordinator MB beyond 2 models",
            100,
            "MB beyond 2 models",
        )
        for broker in (RABBIT, EMBEDDED)
    ),
    *(
        Target(
            f"1,000 clients × {size}, {RABBIT}: at least 1,000 updates a second",
            f"crowds: {RABBIT} 1000 of 1000x{parameters} updates/s",
            1_000,
            "a second",
            at_least=True,
        )
        for size, parameters in (("4 kB", 1_000), ("400 kB", 100_000))
    ),
    Target(
        "1,000 clients × 4 kB: at most 2 round trips to Redis an update",
        f"crowds: {RABBIT} 1000 of 1000x1000 round trips",
        2,
        "an update",
    ),
    *(
        Target(f"first assignment, {broker}: within 1 s", f"beginning: coordinate, {broker} s", 1, "s")
        for broker in (RABBIT, EMBEDDED)
    ),
    Target("warren --help: within 0.3 s", "beginning: warren --help s", 0.3, "s"),
    *(
        Target(f"idle, {broker}: under 1 % of a core, any process", f"idle: {broker} most %", 1, "%")
        for broker in (RABBIT, EMBEDDED)
    ),
)


def figures_of(sections: Sequence[Section]) -> Mapping[str, float]:
    """All sections' single figures, by section and name."""
    return {
        f"{section.name}: {name}": float(value)
        for section in sections
        for name, value in section.figures.items()
        if isinstance(value, int | float)
    }
