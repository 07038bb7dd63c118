"""Four hospitals, as real processes over RabbitMQ and Redis, beside the figures of the FLamby benchmark.

Scores as the published table does: one model, on the test rows of all hospitals, scaled by the training rows
of all of them, while the federation trains on what each hospital scales for itself. What the hospitals see,
each on its own scale, is another measure, and is printed below the table. Compared are pooled training and
each hospital alone, trained as the benchmark did: 50 epochs of Adam.

With --leave-out a hospital trains nothing, and scores the model of the other three on its own test rows.

    python tests/benchmarks/heart.py --data FOLDER [--broker URL --state URL] [--seeds 5]
        [--optimizer fedavg|fedadam|fedyogi|fedadagrad] [--leave-out HOSPITAL]

Exits with 1 when the mean over the seeds is further than TOLERANCE from the published one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from shared.errors import FederationFailed, UnreachableError, WarrenError
from worker import data
from worker.loading import find
from worker.trainers.sgd import batches
from worker.trainers.softmax import SoftmaxRegression

ROOT = Path(__file__).parents[2]
FEDERATION = ROOT / "deploy" / "federations" / "heart.toml"
FOLDER = ROOT / "demo-run" / "heart-benchmark"
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
#: In accuracy: what five seeds can tell apart.
TOLERANCE = 0.03
#: How the benchmark trains without a federation.
EPOCHS = 50
BATCH_SIZE = 4
ADAM = {"learning_rate": 0.001, "beta1": 0.9, "beta2": 0.999, "tau": 1e-8}

Weights = dict[str, np.ndarray[Any, Any]]
Rows = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Published:
    """A line of the benchmark's table: accuracy over five seeds, and the settings that gave it."""

    accuracy: str
    training_rate: float
    server_rate: float
    server: Mapping[str, float]

    @property
    def mean(self) -> float:
        return float(self.accuracy.split()[0])


PUBLISHED = {
    "fedavg": Published("0.748 ± 0.024", 0.001, 1.0, {}),
    "fedadam": Published("0.779 ± 0.013", 0.01, 0.01, {"beta2": 0.999, "tau": 1e-8}),
    "fedyogi": Published("0.779 ± 0.014", 0.003162, 0.01, {"beta2": 0.999, "tau": 1e-8}),
    "fedadagrad": Published("0.779", 0.003162, 0.316228, {"beta1": 0.9, "tau": 1e-8}),
}
PUBLISHED_POOLED = "0.795 ± 0.003"
PUBLISHED_ALONE = {"cleveland": "0.784", "hungarian": "0.727", "switzerland": "0.483", "va": "0.611"}


def main() -> int:
    arguments = _arguments()
    console = Console(highlight=False)
    prepare = find(f"{ROOT / 'deploy' / 'heart.py'}:prepare", "script")
    files = {file.stem: file for file in prepare(arguments.data, arguments.folder / "data")}
    with ExitStack() as stack:
        urls = _urls(arguments) or stack.enter_context(_services())
        runs = [_federate(arguments, urls, files, seed) for seed in range(arguments.seeds)]
    rows = {name: data.load(str(file))["0"] for name, file in files.items()}
    if arguments.leave_out:
        show_left_out(console, arguments.leave_out, runs, rows)
        return 0
    return compare(console, arguments.optimizer, runs, rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Four hospitals, compared with the published figures.")
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="FOLDER", help="where the UCI files lie")
    add("--folder", type=Path, default=FOLDER, help="where to write (default: %(default)s)")
    add("--broker", default="", metavar="URL", help="a private RabbitMQ is started otherwise")
    add("--state", default="", metavar="URL", help="a private Redis is started otherwise")
    add("--seeds", type=int, default=5, help="how many (default: %(default)s)")
    add("--optimizer", choices=PUBLISHED, default="fedavg")
    add("--leave-out", choices=HOSPITALS, help="train on the others, score on this one")
    arguments = parser.parse_args()
    arguments.folder = arguments.folder.resolve()
    if bool(arguments.broker) != bool(arguments.state):
        parser.error("--broker and --state go together")
    if arguments.seeds < 1:
        parser.error("--seeds must be at least 1")
    return arguments


# --- the federations


def _urls(arguments: argparse.Namespace) -> list[str]:
    return ["--broker", arguments.broker, "--state", arguments.state] if arguments.broker else []


@contextmanager
def _services() -> Iterator[list[str]]:
    """A RabbitMQ node and a Redis server of our own, while it lasts."""
    sys.path.insert(0, str(ROOT))
    from tests.services import RabbitNode, RedisServer, ServiceFailed, ServiceMissing

    with ExitStack() as stack:
        rabbit, redis = RabbitNode(), RedisServer()
        for service in (rabbit, redis):
            try:
                service.start()
            except (ServiceMissing, ServiceFailed) as error:
                raise UnreachableError(str(error)) from error
            stack.callback(service.stop)
        yield ["--broker", rabbit.url, "--state", redis.url]


def _federate(
    arguments: argparse.Namespace, urls: Sequence[str], files: Mapping[str, Path], seed: int
) -> Path:
    """One federation to its end, as a user runs it; returns its folder."""
    who = f"without-{arguments.leave_out}" if arguments.leave_out else "all"
    out: Path = arguments.folder / f"{arguments.optimizer}-{who}-{seed}"
    settings = _settings(arguments.optimizer, arguments.leave_out, files) | {"federation.seed": seed}
    overrides = [f"--set={key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "coordinator", "run", str(FEDERATION), "--out", str(out), "--fresh"]
    done = subprocess.run([*command, *urls, *overrides], capture_output=True, text=True, check=False)
    if done.returncode:
        raise FederationFailed(f"seed {seed} did not finish: {done.stderr.strip() or done.stdout.strip()}")
    print(f"seed {seed}: {out}", flush=True)
    return out


def _settings(optimizer: str, leave_out: str | None, files: Mapping[str, Path]) -> dict[str, Any]:
    """What differs from the TOML file, by key."""
    published = PUBLISHED[optimizer]
    sites = (f"{{name = {json.dumps(name)}, data = {json.dumps(str(files[name]))}}}" for name in HOSPITALS)
    settings = {
        "federation.name": "heart-benchmark",
        "local.sites": f"[{', '.join(sites)}]",
        "training.learning_rate": published.training_rate,
        "server.optimizer": optimizer,
        "server.learning_rate": published.server_rate,
        **{f"server.{key}": value for key, value in published.server.items()},
    }
    if leave_out:
        others = len(HOSPITALS) - 1
        settings |= {"evaluation.sites": json.dumps([leave_out])}
        settings |= {"cohort.min_clients": others, "cohort.minimum": others}
    return settings


# --- what they are compared with


def compare(console: Console, optimizer: str, runs: Sequence[Path], rows: Mapping[str, Rows]) -> int:
    """The table, and 0 if the federation is where the published one is."""
    seeds = range(len(runs))
    published = PUBLISHED[optimizer]
    federated = [accuracy(model_of(run), rows["pooled"]) for run in runs]

    def alone(name: str) -> list[float]:
        return [accuracy(adam(rows[name], seed), rows["pooled"]) for seed in seeds]

    tests = len(rows["pooled"]["y_test"])
    table = _table(f"Accuracy on all {tests} test rows, {len(runs)} seed(s)", "trained", "here", "published")
    table.add_row(f"in the federation, {optimizer}", spread(federated), published.accuracy, style="bold")
    table.add_row("on everybody's rows in one place", spread(alone("pooled")), PUBLISHED_POOLED)
    for name in HOSPITALS:
        table.add_row(f"at {name} alone", spread(alone(name)), PUBLISHED_ALONE[name])
    console.print(table)
    _show_as_seen(console, runs)
    away = abs(fmean(federated) - published.mean)
    verdict = "within" if away <= TOLERANCE else "not within"
    console.print(f"The federation is {away:.3f} from the published mean: {verdict} {TOLERANCE}.")
    return 0 if away <= TOLERANCE else 1


def _show_as_seen(console: Console, runs: Sequence[Path]) -> None:
    """The federation's own evaluation: the last version, at the hospitals, each on its own scale."""
    scores = [json.loads((run / "evaluation.json").read_text(encoding="utf-8")) for run in runs]
    table = _table("On the hospitals' own scales", "scored at", "accuracy")
    for name in HOSPITALS:
        table.add_row(name, spread([score["clients"][f"{name}/0"]["accuracy"] for score in scores]))
    table.add_row("all, by rows", spread([score["metrics"]["accuracy"] for score in scores]))
    console.print(table)


def show_left_out(console: Console, name: str, runs: Sequence[Path], rows: Mapping[str, Rows]) -> None:
    """How well a hospital is served by a model that never saw it."""
    mine = rows[name]
    common = max(np.bincount(mine["y"], minlength=2)) / len(mine["y"])
    answer = int(common == np.mean(mine["y"]))
    table = _table(f"Accuracy on {len(mine['y_test'])} test rows of {name}", "trained", "accuracy")
    federated = [accuracy(model_of(run), mine) for run in runs]
    alone = [accuracy(adam(mine, seed), mine) for seed in range(len(runs))]
    table.add_row("in the federation of the other three", spread(federated), style="bold")
    table.add_row(f"at {name} alone", spread(alone))
    table.add_row("not at all: its commoner answer always", f"{np.mean(mine['y_test'] == answer):.3f}")
    console.print(table)


def model_of(run: Path) -> Weights:
    with np.load(run / "model.npz", allow_pickle=False) as file:
        return dict(file)


def accuracy(weights: Weights, rows: Rows) -> float:
    return _trainer().evaluate(weights, rows)[1]["accuracy"]


def adam(rows: Rows, seed: int) -> Weights:
    """Training without a federation, as the benchmark does it."""
    trainer, rng = _trainer(), np.random.default_rng(seed)
    weights = trainer.initial_weights(seed)
    gradients, m, v = ({name: np.zeros_like(value) for name, value in weights.items()} for _ in range(3))
    beta1, beta2 = ADAM["beta1"], ADAM["beta2"]
    steps = EPOCHS * math.ceil(len(rows["y"]) / BATCH_SIZE)
    chosen = itertools.islice(batches(len(rows["y"]), BATCH_SIZE, rng), steps)
    for step, batch in enumerate(chosen, start=1):
        trainer.gradients(weights, rows["x"][batch], rows["y"][batch], gradients)
        rate = ADAM["learning_rate"] / (1 - beta1**step)
        for name, gradient in gradients.items():
            m[name] += (1 - beta1) * (gradient - m[name])
            v[name] += (1 - beta2) * (gradient**2 - v[name])
            weights[name] -= rate * m[name] / (np.sqrt(v[name] / (1 - beta2**step)) + ADAM["tau"])
    return weights


def _trainer() -> SoftmaxRegression:
    return SoftmaxRegression(features=13, classes=2, init="uniform")


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation, where there are several."""
    return f"{fmean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


if __name__ == "__main__":
    try:
        sys.exit(main())
    except WarrenError as error:
        print(f"heart: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
