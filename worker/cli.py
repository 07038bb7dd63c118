"""The command line of a worker. Heavy imports wait until the number of BLAS threads is set."""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
from typing import Annotated, Any

import typer

from shared.errors import ConfigError
from shared.observability import LogFormat, set_up

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

#: What the common BLAS libraries and OpenMP read when they are loaded.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@app.command()
def work(
    federation: Annotated[str, typer.Option(help="The federation's name.")],
    site: Annotated[str, typer.Option(help="This site's name, as the broker's login has it.")],
    data: Annotated[
        str, typer.Option(help="An .npz, .csv or .parquet file, a folder of them, or MODULE:LOADER.")
    ],
    trainer: Annotated[str, typer.Option(help="The site's training code: MODULE:CLASS or FILE.py:CLASS.")],
    params: Annotated[str, typer.Option(help="What the trainer is made with, as a JSON object.")] = "{}",
    broker: Annotated[
        str,
        typer.Option(
            help="amqp://USER:PASSWORD@HOST/VHOST, or an embedded broker's folder.",
            envvar="WARREN_BROKER_URL",
        ),
    ] = "",
    threads: Annotated[
        int, typer.Option(min=1, help="BLAS threads; one gives the same bits every time.")
    ] = 1,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds for the training in hand when told to stop.")
    ] = 20.0,
    log_format: Annotated[LogFormat, typer.Option(help="Lines for people, or JSON for machines.")] = "plain",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
    end_with_stdin: Annotated[bool, typer.Option("--end-with-stdin", hidden=True)] = False,
) -> None:
    """Trains for one site: takes assignments from its queue, trains on its data, publishes updates.

    Any number of workers may share a site's queue and data. Raw data never leaves the site.
    """
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(threads)
    set_up(log_format, verbose=verbose)
    if not broker:
        raise ConfigError("no broker is named: give --broker, or set WARREN_BROKER_URL")

    from shared.broker.connect import connect
    from shared.topology import Topology, check_slug
    from worker import data as site_data
    from worker import training
    from worker.service import Worker

    Topology(federation)
    check_slug("site", site)
    partitions = site_data.load(data)
    made = training.load(trainer, _params(params))
    stopping = threading.Event()
    connection = connect(broker, site, stop=stopping)
    worker = Worker(federation, site, connection, made, partitions, grace_s=grace)

    def stop(*_: Any) -> None:
        stopping.set()
        worker.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if end_with_stdin:
        threading.Thread(target=_when_stdin_closes, args=(stop,), daemon=True).start()
    # What was made until now stays: no collection needs to look through it again.
    gc.freeze()
    try:
        worker.run()
    finally:
        connection.close()


def _params(text: str) -> dict[str, Any]:
    try:
        params = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--params is no JSON: {error}") from None
    if not isinstance(params, dict):
        raise ConfigError("--params takes a JSON object, such as '{\"features\": 64}'")
    return params


def _when_stdin_closes(stop: Any) -> None:
    """The process that started this worker holds its standard input open for as long as it lives."""
    while os.read(0, 4096):
        pass
    stop()
