"""Settings of a recorded federation that a replay may change, and why it can't change others."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.config import Config, differences, parse
from coordinator.overrides import override
from shared.errors import ConfigError

#: Keys by which it is decided which updates count.
DECIDING = frozenset(
    {"cohort.deadline_s", "cohort.target", "cohort.minimum", "cohort.on_missing", "staleness.max"}
)
#: Tables and keys by which a model is made of the updates that count.
FOLDING = ("aggregation.", "server.", "staleness.", "buffered.normalise")
#: Tables and keys that the clients' work depends on, and those that say who is asked for it.
TRAINED = ("training.", "federation.seed", "federation.forked_from", "model.")
ASKED = ("cohort.", "buffered.", "evaluation.sites", "federation.mode", "security.")
#: Of the rules, the parameter that goes with one alone.
_WITH = {"aggregation.rule": "aggregation", "server.optimizer": "server"}


@dataclass(frozen=True)
class Settings:
    """A federation's configuration with some other settings: `changed` are the keys that really differ."""

    config: Config
    changed: tuple[str, ...]

    @property
    def decides(self) -> bool:
        """Whether other updates may count."""
        return not DECIDING.isdisjoint(self.changed)

    @property
    def optimizes(self) -> bool:
        """Whether the server optimiser is another one, whose state begins anew."""
        return any(key.startswith("server.") for key in self.changed)


def settings_of(binding: Mapping[str, Any], overrides: Sequence[str]) -> Settings:
    """The configuration in a journal, with these keys overridden.

    Another rule or server optimiser begins with its own defaults, where nothing else is said.

    Raises:
        ConfigError: a key is not known or its value wrong, or no replay can tell what it would have changed.
    """
    recorded, raw = _timeless(binding), _timeless(binding)
    keys = [override(raw, text) for text in overrides]
    for key, table in _WITH.items():
        if key in keys and raw[table].get(key.partition(".")[2]) != _value(recorded, key):
            raw[table] = {name: raw[table][name] for name in raw[table] if f"{table}.{name}" in keys}
    config = parse(raw, "--set")
    changed = tuple(differences(parse(recorded, "the journal").binding(), config.binding()))
    for key in changed:
        _check(key, buffered=config.federation.mode == "buffered")
    return Settings(config, changed)


def _check(key: str, *, buffered: bool) -> None:
    if key.startswith(FOLDING) or (key in DECIDING and not buffered):
        return
    if key.startswith(TRAINED):
        why = "what the clients computed depends on it"
    elif key.startswith(ASKED):
        why = "who was asked to train depends on it"
    else:
        raise ConfigError(f"{key} changes no model: leave it out of a replay")
    raise ConfigError(f"{key} can't be replayed, since {why}: try it in a federation forked from a version")


def _timeless(binding: Mapping[str, Any]) -> dict[str, Any]:
    """A copy whose log keeps everything: how long it does must not forbid a longer deadline in a replay."""
    raw = copy.deepcopy(dict(binding))
    raw["log"] = {**raw.get("log", {}), "max_age": 2**40 - 1}
    return raw


def _value(raw: Mapping[str, Any], key: str) -> Any:
    table, _, name = key.partition(".")
    return raw.get(table, {}).get(name)
