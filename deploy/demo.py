"""The demo: ten sites learn handwritten digits together, and what that is worth is measured.

Prepares the data, runs the federation of `federations/digits.toml` with ten worker processes, and scores
three ways to train on the same held-out rows: the federation; the same trainer on everybody's rows in one
place; the same trainer at each site alone. All get the same number of passes over their data.

    python deploy/demo.py [--seed 0] [--seeds 5]
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import digits
import numpy as np
from rich.console import Console
from rich.table import Table

from shared.errors import WarrenError
from worker import data, training

ROOT = Path(__file__).parents[1]
FEDERATION = ROOT / "deploy" / "federations" / "digits.toml"
OUT = ROOT / "demo-run"
#: How far the federation may stay behind pooled training, in accuracy.
CLAIM = 0.02
#: The exit code of a run that was told to stop.
INTERRUPTED = 130
#: What a run leaves in its folder.
PLACES = {
    "model": "model.npz",
    "history": "history.jsonl",
    "log": "log",
    "workers' output": "workers",
}

Weights = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Comparison:
    """Accuracies on the held-out rows."""

    held_out: int
    federated: float
    pooled: float
    alone: list[float]

    @property
    def gap(self) -> float:
        """How far the federation is behind pooled training; below zero it is ahead."""
        return self.pooled - self.federated


def main() -> int:
    parser = argparse.ArgumentParser(description="Ten sites learn handwritten digits together.")
    parser.add_argument("--seed", type=int, default=0, help="which split of the data (default: %(default)s)")
    parser.add_argument("--seeds", type=int, metavar="N", help="run the splits 0 to N-1, and check the claim")
    arguments = parser.parse_args()
    console = Console()
    seeds = [arguments.seed] if arguments.seeds is None else list(range(arguments.seeds))
    comparisons: list[Comparison] = []
    for seed in seeds:
        out = OUT / f"seed-{seed}"
        files, held_out = digits.prepare(digits.FOLDER, seed=seed)
        began = time.monotonic()
        code = run_federation(out, seed)
        if code:
            if code != INTERRUPTED:
                print("demo: the federation did not finish; what it said is above", file=sys.stderr)
            return code
        seconds = time.monotonic() - began
        with console.status("training on pooled data, and at each site alone, to compare"):
            comparisons.append(compare(out / "model.npz", files, held_out, seed))
        show(console, comparisons[-1], seed, seconds, out)
    return 0 if arguments.seeds is None else check_claim(console, comparisons)


def run_federation(out: Path, seed: int) -> int:
    """`warren run`, with this terminal; returns its exit code."""
    command = [
        sys.executable, "-m", "coordinator", "run", str(FEDERATION),
        "--out", str(out), "--fresh", "--set", f"federation.seed={seed}",
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT) as run:
        # Ctrl-C reaches the run too, which then stops in good order: this process only waits for it.
        before = {
            signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
            signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: run.terminate()),
        }
        code = run.wait()
    for number, handler in before.items():
        signal.signal(number, handler)
    return code


def compare(model: Path, files: list[Path], held_out: Path, seed: int) -> Comparison:
    """Scores the federation's model, and those that the same trainer makes without a federation."""
    federation = tomllib.loads(FEDERATION.read_text(encoding="utf-8"))
    local, config = federation["local"], federation["training"]
    config["epochs"] *= federation["federation"]["rounds"]
    trainer = training.load(local["trainer"], local["params"])
    sites = [_only(file) for file in files]
    pooled = {name: np.concatenate([site[name] for site in sites]) for name in ("x", "y")}
    test = _only(held_out)

    def accuracy(weights: Weights) -> float:
        return trainer.evaluate(weights, test)[1]["accuracy"]

    def trained_on(rows: Any) -> float:
        return accuracy(trainer.fit(trainer.initial_weights(seed), rows, config, seed)[0])

    with np.load(model, allow_pickle=False) as file:
        federated = accuracy(dict(file))
    return Comparison(len(test["y"]), federated, trained_on(pooled), [trained_on(site) for site in sites])


def _only(file: Path) -> Any:
    """The data of a file that is one client."""
    (rows,) = data.load(str(file)).values()
    return rows


def show(console: Console, comparison: Comparison, seed: int, seconds: float, out: Path) -> None:
    """The table, and where to find what the run left."""
    alone = comparison.alone
    table = Table(
        title=f"Accuracy on {comparison.held_out} held-out digits, split {seed}", title_justify="left"
    )
    table.add_column("trained")
    table.add_column("accuracy", justify="right")
    table.add_row("in the federation: no row left its site", f"{comparison.federated:.1%}", style="bold")
    table.add_row("on everybody's rows in one place", f"{comparison.pooled:.1%}")
    table.add_row(f"at one site alone: mean of {len(alone)}", f"{fmean(alone):.1%}")
    table.add_row("at one site alone: best", f"{max(alone):.1%}")
    table.add_row("at one site alone: worst", f"{min(alone):.1%}")
    console.print(table)
    console.print(f"The federation took {seconds:.1f} s. {_gap_sentence(comparison)}")
    for what, place in PLACES.items():
        console.print(f"{what + ':':<17}{_near(out / place)}", soft_wrap=True, highlight=False)


def _gap_sentence(comparison: Comparison) -> str:
    rows = round(abs(comparison.gap) * comparison.held_out)
    where = "ahead of" if comparison.gap < 0 else "behind"
    return f"It is {100 * abs(comparison.gap):.1f} points ({rows} of the rows) {where} pooled training."


def _near(path: Path) -> Path:
    """The path as one would type it here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def check_claim(console: Console, comparisons: list[Comparison]) -> int:
    """Says whether every split kept within CLAIM of pooled training, and is above the sites alone."""
    worst = max(comparison.gap for comparison in comparisons)
    above = all(comparison.federated > fmean(comparison.alone) for comparison in comparisons)
    holds = worst <= CLAIM and above
    verdict = "holds" if holds else "does not hold"
    console.print(
        f"Over {len(comparisons)} splits the federation is at most {100 * worst:.1f} points behind pooled "
        f"training: the claim of {100 * CLAIM:.0f} {verdict}."
    )
    return 0 if holds else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except WarrenError as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
