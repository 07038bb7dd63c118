"""The TOML: what is taken, and what a user is told about what isn't."""

from __future__ import annotations

import pytest

from coordinator.config import differences, load, parse
from coordinator.lifecycle import as_toml
from shared.errors import ConfigError

GOOD = """
[federation]
name = "hospitals"
rounds = 15
[cohort]
minimum = 2
[local]
trainer = "worker.trainers.softmax:SoftmaxRegression"
params = { features = 13, classes = 2 }
[[local.sites]]
name = "cleveland"
data = "data/cleveland.npz"
"""


@pytest.fixture
def toml(tmp_path):
    def write(text):
        path = tmp_path / "federation.toml"
        path.write_text(text)
        return path

    return write


def test_reads_and_roots_paths_at_the_file(toml, tmp_path):
    config = load(toml(GOOD))
    assert config.federation.rounds == 15
    assert config.local.sites[0].data == str(tmp_path / "data" / "cleveland.npz")


def test_overrides_take_toml_values_and_bare_words(toml):
    config = load(toml(GOOD), ["cohort.minimum=3", "cohort.on_missing=stop", "training.learning_rate=0.5"])
    assert (config.cohort.minimum, config.cohort.on_missing) == (3, "stop")
    assert config.training == {"learning_rate": 0.5}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("rounds = 15", "runds = 15"), "'federation.runds' is not known; did you mean 'rounds'"),
        (("[cohort]", "[kohort]"), "'kohort' is not known; did you mean 'cohort'"),
        (
            ("rounds = 15", "rounds = 0"),
            "'federation.rounds' is 0: input should be greater than or equal to 1",
        ),
        (("minimum = 2", 'select = "best"'), "'cohort.select' is 'best': input should be 'all' or 'random'"),
        (("minimum = 2", "minimum = 3\ntarget = 2"), "target (2) is below minimum (3)"),
        (("minimum = 2", 'select = "random"'), "takes either fraction or size"),
        (('name = "hospitals"', 'name = "Our Hospitals"'), "'federation.name' is 'Our Hospitals'"),
        (('name = "hospitals"', ""), "'federation.name' is missing"),
        (("rounds = 15", "rounds = "), "cannot be read as TOML"),
        (('name = "cleveland"', 'name = "cleveland"\nworker = 3'), "did you mean 'workers'"),
    ],
)
def test_mistakes_name_the_key_and_what_is_allowed(toml, change, sentence):
    with pytest.raises(ConfigError) as caught:
        load(toml(GOOD.replace(*change)))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_bad_override(tmp_path, toml):
    with pytest.raises(ConfigError, match="there is no file"):
        load(tmp_path / "nothing.toml")
    with pytest.raises(ConfigError, match=r"table\.key=value"):
        load(toml(GOOD), ["cohort.minimum"])


def test_local_is_no_part_of_the_digest(toml):
    before = load(toml(GOOD))
    assert load(toml(GOOD), ["local.sites=[]"]).digest() == before.digest()
    assert load(toml(GOOD), ["cohort.minimum=3"]).digest() != before.digest()


def test_differences_name_dotted_keys(toml):
    before, after = load(toml(GOOD)), load(toml(GOOD), ["cohort.minimum=3", "training.mu=0.1"])
    assert differences(before.binding(), after.binding()) == ["cohort.minimum", "training.mu"]


def test_written_as_toml_it_reads_back_the_same(toml, tmp_path):
    config = load(toml(GOOD), ['training.note="a \\"b\\" \\u00fc"', "training.learning_rate=1e-05"])
    again = tmp_path / "again.toml"
    again.write_text(as_toml(config))
    assert load(again) == config


def test_rules_never_wait_for_fewer_than_the_minimum():
    config = parse({"federation": {"name": "a"}, "cohort": {"minimum": 3, "min_clients": 1}}, "test")
    assert config.rules().min_clients == 3
