"""A new federation that begins with a recorded version of another one."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.config import Config, parse
from coordinator.ledger import Ledger, Round
from coordinator.lifecycle import as_toml
from coordinator.overrides import override
from coordinator.weight_files import write_weights
from shared.errors import ConfigError
from shared.weights import Weights

#: Keys that say what the fork is.
ITS_OWN = ("federation.name", "federation.forked_from", "model.initial")


@dataclass(frozen=True)
class Fork:
    """The new federation's configuration, and the files that it and its initial weights go to."""

    config: Config
    toml: Path
    initial: Path

    @property
    def command(self) -> str:
        """What runs it, for a shell."""
        verb = "run" if self.config.local.sites else "coordinate"
        return f"warren {verb} {self.toml}"

    def write(self, weights: Weights) -> None:
        """Writes the weights, then the TOML.

        Raises:
            ConfigError: a file can't be written.
        """
        write_weights(self.initial, weights)
        try:
            with self.toml.open("x", encoding="utf-8") as file:
                file.write(f"# Forked from {self.config.federation.forked_from}\n{as_toml(self.config)}")
        except OSError as error:
            raise ConfigError(
                f"{self.toml} can't be written ({error.strerror}): name another file with --to"
            ) from None


def fork_of(
    ledger: Ledger,
    made: Round,
    name: str,
    overrides: Sequence[str],
    local: Mapping[str, Any],
    to: Path | None,
) -> Fork:
    """The fork named `name` of the version that a round made; `local` is the table of that name to take over.

    Raises:
        ConfigError: the name is the federation's own or no name, a file is there already, or a key is wrong.
    """
    federation = ledger.topology.federation
    if name == federation:
        raise ConfigError(f"the federation itself is named {name!r}: give its fork another name")
    toml = to or Path(f"{name}.toml")
    initial = toml.with_name(f"{name}-initial.npz")
    raw = copy.deepcopy(dict(ledger.binding))
    raw["local"] = copy.deepcopy(dict(local))
    for key in (override(raw, text) for text in overrides):
        if key in ITS_OWN:
            raise ConfigError(f"--set {key}: the fork's name and initial weights are its own, leave it out")
    origin = f"{federation}/{ledger.run}@{made.version}:{made.digest}"
    raw["federation"] = {**raw["federation"], "name": name, "forked_from": origin}
    raw["model"] = {"initial": initial.name}
    config = parse(raw, "the fork")
    for file in (toml, initial):
        if file.exists():
            raise ConfigError(f"{file} is there already: name another file with --to, or remove it")
    return Fork(config, toml, initial)
