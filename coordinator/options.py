"""The options and arguments that several of `warren`'s commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.observability import LogFormat

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
