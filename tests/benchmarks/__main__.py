"""`make bench`: how fast Warren is on this machine, beside what the machine and plain clients could do.

Starts services of its own, measures section by section, prints the report, and writes it as results.md and
results.json beside this file. A section that fails is said to, the others go on; the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from tests.benchmarks import (
    beginning,
    codec,
    crowds,
    fold,
    growth,
    idle,
    machine,
    memory,
    overhead,
    phases,
)
from tests.benchmarks.bench import Bench, serving, within
from tests.benchmarks.report import Section, as_json, document, targets_table
from tests.benchmarks.targets import TARGETS, figures_of
from tests.services import ServiceFailed, ServiceMissing

HERE = Path(__file__).parent
#: The sections by name, in their order, and after how many seconds one counts as hung; a quick
#: run has half of them.
SECTIONS: Mapping[str, tuple[ModuleType, float]] = {
    "overhead": (overhead, 900),
    "phases": (phases, 300),
    "fold": (fold, 120),
    "memory": (memory, 600),
    "crowds": (crowds, 300),
    "growth": (growth, 300),
    "codec": (codec, 60),
    "idle": (idle, 180),
    "beginning": (beginning, 180),
}
QUICK = 1 / 2


def main() -> int:
    options = _options()
    # Neither Ctrl-C nor a polite kill leaves anything behind, or a traceback.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    began = time.monotonic()
    busy = machine.load()
    try:
        with serving(options.quick, say) as bench:
            about = machine.about(bench.rabbit, bench.redis)
            measured = [one(bench, name) for name in options.only]
    except (ServiceMissing, ServiceFailed) as error:
        print(error, file=sys.stderr)
        return 1
    about |= {"load before": f"{busy:.0%} of the cores", "took": f"{time.monotonic() - began:.0f} s"}
    show(about, caveats(options, busy), measured)
    return int(any(section.failed for section in measured))


def one(bench: Bench, name: str) -> Section:
    """A section, measured as far as it goes."""
    module, limit_s = SECTIONS[name]
    section = Section(name, module.TITLE, notes=list(module.NOTES))
    began = time.monotonic()
    try:
        with within(limit_s * (QUICK if bench.quick else 1), name):
            module.measure(bench, section)
    except Exception as error:  # noqa: BLE001 - whatever fails is told, and the other sections go on
        traceback.print_exc()
        section.notes.append(f"**Cut short: {error}**")
        section.failed = True
    say(f"{name}: took {time.monotonic() - began:.0f} s")
    return section


def show(about: Mapping[str, str], warnings: Sequence[str], sections: Sequence[Section]) -> None:
    """Prints the report, and writes it."""
    targets = targets_table(TARGETS, figures_of(sections))
    lines = [*(f"**{warning}**" for warning in warnings), *(f"{key}: {text}" for key, text in about.items())]
    text = document(lines, targets, sections)
    print(text)
    (HERE / "results.md").write_text(text, encoding="utf-8")
    whole = as_json({**about, "warnings": list(warnings)}, targets, sections)
    (HERE / "results.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def caveats(options: argparse.Namespace, busy: float) -> list[str]:
    """Why these figures should not be quoted."""
    warnings = []
    if busy > machine.BUSY:
        warnings.append(f"Not a result: the machine was {busy:.0%} busy with other things before it began.")
    if options.quick:
        warnings.append("Not a result: a quick run, with few and small measurements.")
    if options.only != list(SECTIONS):
        warnings.append(f"Not the whole: only {', '.join(options.only)}.")
    return warnings


def say(text: str) -> None:
    print(f"… {text}", file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 minutes instead of 20, to see that it works")
    parser.add_argument("--only", default="", metavar="NAME,NAME", help=f"some of {', '.join(SECTIONS)}")
    options = parser.parse_args()
    options.only = [name for name in options.only.split(",") if name] or list(SECTIONS)
    unknown = [name for name in options.only if name not in SECTIONS]
    if unknown:
        parser.error(f"there is no section {unknown[0]!r}: take some of {', '.join(SECTIONS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
