"""The command line `warren`. What a command needs is imported when it runs, so that help comes at once."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared.errors import ConfigError
from shared.observability import LogFormat, set_up

if TYPE_CHECKING:
    from coordinator.config import Config
    from coordinator.target import Target

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Federated learning over a message queue: run, look at, and take models out of federations.",
)

FileArgument = Annotated[Path, typer.Argument(help="The federation's TOML file.")]
TargetArgument = Annotated[
    Path | None, typer.Argument(help="A run's folder, or a TOML file (or use --federation).")
]
BrokerOption = Annotated[
    str,
    typer.Option(help="amqp://USER:PASSWORD@HOST/VHOST; embedded if not given.", envvar="WARREN_BROKER_URL"),
]
StateOption = Annotated[
    str, typer.Option(help="redis://HOST/DB; beside the run if not given.", envvar="WARREN_STATE_URL")
]
OutOption = Annotated[
    Path | None, typer.Option(help="Folder for model, history and logs.", show_default="runs/NAME")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Overrides a key: cohort.minimum=3.")]
FreshOption = Annotated[
    bool, typer.Option("--fresh", help="Delete the federation's logs first, and begin anew.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
FormatOption = Annotated[LogFormat, typer.Option(help="Lines for people, or JSON for machines.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")]
FederationOption = Annotated[str, typer.Option(help="The federation's name, instead of a file.")]
ThreadsOption = Annotated[int, typer.Option(min=1, help="Threads that fold; the bits do not depend on it.")]


@app.command()
def run(
    file: FileArgument,
    broker: BrokerOption = "",
    state: StateOption = "",
    out: OutOption = None,
    fresh: FreshOption = False,
    overrides: SetOption = None,
    threads: ThreadsOption = 2,
    as_json: JsonOption = False,
    log_format: FormatOption = "plain",
    verbose: VerboseOption = False,
) -> None:
    """Runs the whole federation here: the coordinator, and the workers of its table local.

    With nothing installed it uses an embedded broker in the run's folder. Ended early, it goes on where it
    was when it is run again.
    """
    from coordinator import lifecycle
    from coordinator.local import Workers, check_data

    config, target = _prepared(file, broker, state, out, overrides, log_format, verbose)
    if not config.local.sites:
        raise ConfigError(f"{file} has no [[local.sites]]: name some, or use 'warren coordinate'")
    check_data(config)
    stop = threading.Event()
    failures: list[str] = []

    def workers_of(on_failure: Any) -> Workers:
        def failed(reason: str) -> None:
            failures.append(reason)
            on_failure()

        return Workers(config, target.broker_url, target.folder / "workers", failed)

    code = _lead(config, target, fresh, threads, as_json, log_format, stop, workers_of)
    if failures:
        raise ConfigError(failures[0])
    lifecycle.say_goodbye(code, target, as_json)
    sys.exit(code)


@app.command()
def coordinate(
    file: FileArgument,
    broker: BrokerOption = "",
    state: StateOption = "",
    out: OutOption = None,
    fresh: FreshOption = False,
    overrides: SetOption = None,
    threads: ThreadsOption = 2,
    as_json: JsonOption = False,
    log_format: FormatOption = "plain",
    verbose: VerboseOption = False,
) -> None:
    """Runs the coordinator alone; workers are started elsewhere, with 'warren-worker'.

    A second one for the same federation stands by, and takes over when the first is gone.
    """
    from coordinator import lifecycle

    config, target = _prepared(file, broker, state, out, overrides, log_format, verbose)
    code = _lead(config, target, fresh, threads, as_json, log_format, threading.Event(), None)
    lifecycle.say_goodbye(code, target, as_json)
    sys.exit(code)


@app.command()
def status(
    target: TargetArgument = None,
    federation: FederationOption = "",
    broker: BrokerOption = "",
    state: StateOption = "",
    as_json: JsonOption = False,
) -> None:
    """Shows where a federation stands: round, sites, workers, what was refused and why, what is kept."""
    from coordinator import reports
    from coordinator.kept import kept

    set_up()
    with _opened(target, federation, broker, state) as place:
        standing = reports.standing(place.federation, place.store().read())
        standing["kept"] = kept(place, standing["history"])
    if as_json:
        print(json.dumps(standing))
    else:
        reports.print_standing(standing)


@app.command()
def log(
    target: TargetArgument = None,
    federation: FederationOption = "",
    broker: BrokerOption = "",
    as_json: JsonOption = False,
) -> None:
    """Prints the closed rounds, newest first: version, digest, parent, who contributed, what was refused."""
    from coordinator import reports

    set_up()
    with _opened(target, federation, broker, "") as place:
        versions = reports.versions(place.broker(), place.topology)
    for version in versions:
        print(json.dumps(version) if as_json else reports.version_text(version), flush=True)


@app.command()
def export(
    target: TargetArgument = None,
    version: Annotated[
        int | None, typer.Option(min=0, help="Which version.", show_default="the last")
    ] = None,
    to: Annotated[Path, typer.Option(help="The .npz file to write.")] = Path("model.npz"),
    federation: FederationOption = "",
    broker: BrokerOption = "",
    as_json: JsonOption = False,
) -> None:
    """Writes a version of the global model, from the log, to an .npz file with the tensors by name."""
    from coordinator import reports
    from coordinator.models import write_weights

    set_up()
    with _opened(target, federation, broker, "") as place:
        number, weights = reports.model(place.broker(), place.topology, version)
    write_weights(to, weights)
    if as_json:
        print(json.dumps({"version": number, "digest": weights.digest, "file": str(to)}))
    else:
        print(f"version {number} (digest {weights.digest[:12]}) is in {to}")


# --- what the commands share


def _prepared(
    file: Path,
    broker: str,
    state: str,
    out: Path | None,
    overrides: list[str] | None,
    log_format: LogFormat,
    verbose: bool,
) -> tuple[Config, Target]:
    from coordinator.config import load
    from coordinator.target import Target

    set_up(log_format, verbose=verbose)
    config = load(file, overrides or ())
    return config, Target.of_run(config, out, broker, state)


def _opened(target: Path | None, federation: str, broker: str, state: str) -> Target:
    from coordinator.target import Target

    return Target.of_arguments(target, federation, broker, state)


def _lead(
    config: Config,
    target: Target,
    fresh: bool,
    threads: int,
    as_json: bool,
    log_format: LogFormat,
    stop: threading.Event,
    workers_of: Any,
) -> int:
    """Builds a coordinator with its adapters, and runs it with whoever watches."""
    from coordinator import lifecycle
    from coordinator.output import LogLines, Observer

    live = sys.stdout.isatty() and not as_json and log_format == "plain"
    with target:
        if fresh:
            lifecycle.start_anew(target, config)
        observers: list[Observer] = [] if live else [lifecycle.JsonLines() if as_json else LogLines()]
        with lifecycle.watching(config.name, live, observers, target.folder / "coordinator.log"):
            coordinator = lifecycle.build(config, target, threads, observers, stop)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: coordinator.stop())
            workers = workers_of(coordinator.stop) if workers_of else None
            try:
                if workers is not None:
                    workers.start()
                code = coordinator.run()
            finally:
                if workers is not None:
                    workers.close()
    return code
