"""`make chaos`: a federation goes on while its processes and services are killed, and its logs are judged.

Runs it undisturbed first, then with kills, and prints what they cost. Exits with 1, and keeps what it has, if
anything was lost, counted twice, or came out with other bits.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.chaos.plan import FREEZE, draw
from tests.chaos.run import Run, run, verify
from tests.chaos.services import BROKERS, Services, serving
from tests.chaos.setting import MODES, OPTIMIZERS, Setting
from tests.services import ServiceFailed, ServiceMissing


def main() -> int:
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="warren-chaos-"))
    with serving(options.broker, folder) as services:
        calm = run(_setting(options, folder, "calm", services), {}, (), options.deadline)
        setting = _setting(options, folder, "chaos", services)
        plan = draw(options.seed, options.kills, options.freezes, setting.trainings, bool(services.phoenixes))
        chaos = run(setting, services.phoenixes, plan, options.deadline)
        wrong = [*(f"undisturbed: {sentence}" for sentence in calm.wrong), *chaos.wrong, *verify(setting)]
    if options.mode == "rounds" and calm.digest != chaos.digest:
        wrong.append(f"the last digest is {chaos.digest[:12]}, undisturbed it is {calm.digest[:12]}")
    _print(options, calm, chaos)
    for sentence in wrong:
        print(f"WRONG: {sentence}")
    if wrong or options.keep:
        print(f"what the processes said is in {folder}")
    else:
        shutil.rmtree(folder)
    if not wrong:
        print("every update was counted exactly once, and every version is what its updates make it")
    return 1 if wrong else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="draws which process is killed when")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--freezes", type=int, default=2, help="coordinators that stop until another leads")
    parser.add_argument("--broker", choices=BROKERS, default="rabbit")
    parser.add_argument("--mode", choices=MODES, default="rounds")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="fedavg")
    parser.add_argument("--pause", type=float, default=0.6, help="seconds that a training takes in the mean")
    parser.add_argument("--size", type=int, default=20_000, help="the model's parameters")
    parser.add_argument("--keep", action="store_true", help="keeps what the processes said, also in success")
    parser.add_argument("--deadline", type=float, default=1800.0, help="seconds until it counts as hung")
    return parser.parse_args()


def _setting(options: argparse.Namespace, folder: Path, name: str, services: Services) -> Setting:
    return Setting(
        name, folder / name, services.broker, services.state, options.rounds, options.pause,
        options.mode, options.optimizer, options.size,
    )  # fmt: skip


def _print(options: argparse.Namespace, calm: Run, chaos: Run) -> None:
    title = f"seed {options.seed}, {options.broker}, {options.mode}, {options.optimizer}"
    table = Table("", "undisturbed", "with kills", title=title)
    for label, *values in zip(ROWS, _column(calm), _column(chaos), strict=True):
        table.add_row(label, *values)
    Console().print(table)
    print(f"the kills cost {chaos.seconds - calm.seconds:.0f} s")
    if chaos.findings is not None:
        print(f"the journal's last entry when a leader was lost: {dict(chaos.findings.story.changes)}")


KINDS = ("coordinator", "worker", "rabbitmq", "redis")
OUTCOMES = (
    "counted", "duplicate", "late", "before its order", "after the end", "not asked for", "failure", "torn",
    "lost",
)  # fmt: skip
ROWS = (
    *(f"kills: {kind}" for kind in KINDS), "coordinators frozen", "rounds", "changes of leader",
    *(f"updates: {name}" for name in OUTCOMES), "versions made again", "seconds", "last digest",
)  # fmt: skip


def _column(made: Run) -> list[str]:
    kills = [str(made.kills[kind]) for kind in (*KINDS, FREEZE)]
    found = made.findings
    if found is None:
        return [*kills, *["?"] * (len(ROWS) - len(kills))]
    # Version 0 is the round in which the model is made.
    rounds, changes = len(found.story.closings) - 1, found.story.changes.total()
    outcomes = [str(found.outcomes[name]) for name in OUTCOMES]
    return [*kills, str(rounds), str(changes), *outcomes, str(found.recomputed), f"{made.seconds:.0f}",
            made.digest[:12]]  # fmt: skip


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ServiceMissing, ServiceFailed) as error:
        sys.exit(str(error))
