"""Settings of a replay: what may be other than it was, and what a person is told about what may not."""

from __future__ import annotations

import pytest

from coordinator.config import parse
from coordinator.replayable import settings_of
from shared.errors import ConfigError


def binding(**tables):
    return parse({"federation": {"name": "hospitals"}, **tables}, "here").binding()


@pytest.mark.parametrize(
    ("override", "decides"),
    [
        ("aggregation.rule=median", False),
        ("server.learning_rate=0.5", False),
        ("staleness.discount=constant", False),
        ("staleness.exponent=1", False),
        ("staleness.max=3", True),
        ("cohort.deadline_s=5", True),
        ("cohort.target=2", True),
        ("cohort.minimum=2", True),
        ("cohort.on_missing=skip", True),
    ],
)
def test_what_may_change(override, decides):
    settings = settings_of(binding(), [override])
    assert settings.changed == (override.partition("=")[0],)
    assert settings.decides is decides
    assert settings.optimizes is override.startswith("server")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("training.epochs=2", "training.epochs can't be replayed, since what the clients computed depends"),
        ("federation.seed=2", "federation.seed can't be replayed, since what the clients computed"),
        ("model.initial=x.npz", "model.initial can't be replayed, since what the clients computed"),
        ("cohort.over_select=1.5", "cohort.over_select can't be replayed, since who was asked to train"),
        ("cohort.min_clients=3", "cohort.min_clients can't be replayed, since who was asked"),
        ("security.attest=true", "security.attest can't be replayed, since who was asked"),
        ("buffered.buffer=2", "buffered.buffer can't be replayed, since who was asked"),
        ("evaluation.best=loss", "evaluation.best changes no model: leave it out of a replay"),
        ("log.max_age=20d", "log.max_age changes no model"),
        ("federation.rounds=99", "federation.rounds changes no model"),
        ("cohort.minimun=2", "'cohort.minimun' is not known; did you mean 'minimum'"),
        ("aggregation.trim=0.2", 'trim goes with rule = "trimmed-mean"'),
        ("cohort", "is not of the form table.key=value"),
    ],
)
def test_what_may_not_is_named(override, sentence):
    with pytest.raises(ConfigError) as caught:
        settings_of(binding(training={"epochs": 1}), [override])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_set_to_what_it_was_is_no_change():
    settings = settings_of(binding(training={"epochs": 1}), ["training.epochs=1", "cohort.minimum=1"])
    assert settings.changed == ()


def test_a_deadline_beyond_the_log_s_age_is_no_mistake_here():
    assert settings_of(binding(), ["cohort.deadline_s=9000000"]).changed == ("cohort.deadline_s",)


def test_another_rule_or_optimizer_begins_with_its_own_defaults():
    recorded = binding(
        aggregation={"rule": "trimmed-mean", "trim": 0.3},
        server={"optimizer": "fedadam", "learning_rate": 0.01, "beta2": 0.5},
    )
    config = settings_of(recorded, ["aggregation.rule=median", "server.optimizer=fedavgm"]).config
    assert (config.aggregation.trim, config.server.learning_rate, config.server.beta2) == (None, 1.0, None)
    config = settings_of(recorded, ["server.optimizer=fedavgm", "server.momentum=0.5"]).config
    assert (config.server.momentum, config.aggregation.trim) == (0.5, 0.3)
    # The same one again keeps what it has.
    config = settings_of(recorded, ["server.optimizer=fedadam", "aggregation.rule=trimmed-mean"]).config
    assert (config.server.beta2, config.aggregation.trim) == (0.5, 0.3)


def test_buffered_mode_leaves_its_rounds_where_they_are():
    recorded = binding(federation={"name": "phones", "mode": "buffered"})
    for override in ("staleness.max=3", "buffered.normalise=weights"):
        assert settings_of(recorded, [override]).changed == (override.partition("=")[0],)
    for override in ("cohort.deadline_s=5", "cohort.minimum=2", "cohort.target=3", "cohort.on_missing=stop"):
        with pytest.raises(ConfigError, match="who was asked to train depends on it"):
            settings_of(recorded, [override])
