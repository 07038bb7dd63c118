"""The command line `warren`, and the commands that lead. The others are in `coordinator.reading_cli`.

What a command needs is imported when it runs, so that help comes at once.
"""

from __future__ import annotations

import gc
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from coordinator import quarantine_cli, reading_cli, replay_cli
from coordinator.options import (
    BrokerOption,
    FileArgument,
    FormatOption,
    FreshOption,
    JsonOption,
    OutOption,
    SetOption,
    StateOption,
    ThreadsOption,
    VerboseOption,
)
from shared.errors import ConfigError, UnreachableError
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


for command in (*reading_cli.COMMANDS, *replay_cli.COMMANDS):
    app.command()(command)
app.add_typer(quarantine_cli.app, name="quarantine")


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
    target.stop = stop
    with target:
        if fresh:
            lifecycle.start_anew(target, config)
        observers: list[Observer] = [] if live else [lifecycle.JsonLines() if as_json else LogLines()]
        with lifecycle.watching(config.name, live, observers, target.folder / "coordinator.log"):
            coordinator = lifecycle.Leading(lambda: lifecycle.build(config, target, threads, observers, stop))
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: coordinator.stop())
            workers = workers_of(coordinator.stop) if workers_of else None
            try:
                if workers is not None:
                    workers.start()
                # What was made until now stays: no collection needs to look through it again.
                gc.freeze()
                code = coordinator.run()
            except UnreachableError:
                if not stop.is_set():
                    raise
                code = 130  # told to stop while it waited for a service
            finally:
                if workers is not None:
                    workers.close()
    return code
