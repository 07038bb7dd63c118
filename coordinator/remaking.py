"""A version of the model for somebody who wants it: from its round task, or made again."""

from __future__ import annotations

from pathlib import Path

from coordinator.kept import oldest_weights
from coordinator.ledger import Ledger, Round
from coordinator.optimizers import make as make_optimizer
from coordinator.recipe import Recipe
from coordinator.recording import Recording
from coordinator.tapes import NotRecorded
from shared.broker.port import Broker
from shared.errors import ConfigError, VerificationFailed
from shared.weights import Weights


def weights(broker: Broker, ledger: Ledger, version: int, folder: Path) -> tuple[Weights, str]:
    """A version's weights, and why they had to be made again ("" if they are those in the log).

    `folder` is where large payloads lie meanwhile.

    Raises:
        ConfigError: neither the version nor what it was made of is in the log.
        VerificationFailed: made again, it is another one.
    """
    round_ = ledger.versions[version]
    with Recording(broker, ledger, folder, since=version) as recording:
        try:
            return recording.weights(version), ""
        except NotRecorded as error:
            why = str(error)
        try:
            made = _again(recording, round_)
        except NotRecorded as error:
            raise _nowhere(broker, ledger, version, why, error) from error
    if made.digest != round_.digest:
        raise VerificationFailed(
            f"{why}, and made again it has digest {made.digest[:12]}, not {round_.digest[:12]}: "
            f"let 'warren verify' tell what was changed"
        )
    return made, why


def _again(recording: Recording, round_: Round) -> Weights:
    if round_.version == 0:
        return recording.initial_weights(round_)
    config, before = recording.ledger.config, round_.version - 1
    updates = [(update.row, update.payload) for update in recording.updates(round_)]
    base, state = recording.weights(before), recording.optimizer_state(before)
    return Recipe(config, make_optimizer(config.server)).follow(base, state, before, updates)[0]


def _nowhere(broker: Broker, ledger: Ledger, version: int, why: str, error: NotRecorded) -> ConfigError:
    oldest = oldest_weights(broker, ledger.topology)
    there = "no versions" if oldest is None else f"versions {oldest} to {max(ledger.versions)}"
    return ConfigError(
        f"the weights of version {version} are not in the log any more; it holds {there} "
        f"({why}; to make it again: {error})"
    )
