"""The TOML: what is taken, and what a user is told about what isn't."""

from __future__ import annotations

import pytest

from coordinator.config import differences, load, parse
from coordinator.lifecycle import as_toml
from coordinator.target import Target
from coordinator.units import enough
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
    assert config.local.trainer == "worker.trainers.softmax:SoftmaxRegression"


def test_code_files_are_rooted_too(toml, tmp_path):
    config = load(
        toml(GOOD), ["local.trainer=code/ours.py:Trainer", 'local.sites=[{name="a", data="ours.py:load"}]']
    )
    assert config.local.trainer == f"{tmp_path / 'code' / 'ours.py'}:Trainer"
    assert config.local.sites[0].data == f"{tmp_path / 'ours.py'}:load"


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
        (
            ("[cohort]", "[training]\nx = [1]\n[cohort]"),
            "key 'training.x' is [1]: take a number, a text, true or false",
        ),
        (("[cohort]", "[training]\nx = nan\n[cohort]"), "key 'training.x' is nan: take a finite number"),
        (
            ("rounds = 15", 'rounds = "15"'),
            "key 'federation.rounds' is '15': input should be a valid integer",
        ),
        (
            ("rounds = 15", "rounds = true"),
            "key 'federation.rounds' is True: input should be a valid integer",
        ),
        (('name = "cleveland"', 'name = "cleveland"\nworker = 3'), "did you mean 'workers'"),
        (("[cohort]", '[log]\nmax_bytes = "20XB"\n[cohort]'), "'log.max_bytes' is '20XB': take a number"),
        (("[cohort]", "[log]\nmax_bytes = true\n[cohort]"), "'log.max_bytes' is True: take a number"),
        (("[cohort]", "[log]\nmax_bytes = inf\n[cohort]"), "'log.max_bytes' is inf: take a number"),
        (("[cohort]", '[log]\nmax_bytes = "9kB"\n[cohort]'), "greater than or equal to 1000000"),
        (("[cohort]", '[log]\nmax_age = "1w"\n[cohort]'), 'one with s, m, h, d, as in "30d"'),
        (("[cohort]", '[log]\nmax_byte = "9MB"\n[cohort]'), "did you mean 'max_bytes'"),
        (
            ("[cohort]", '[log]\nmax_age = "2m"\n[cohort]'),
            "log.max_age is 120 s, and the rounds of one update can take 120 (cohort",
        ),
        (("[cohort]", '[aggregation]\nrule = "krum"\n[cohort]'), "'mean', 'median' or 'trimmed-mean'"),
        (
            ("[cohort]", '[aggregation]\nrule = "trimmed-mean"\ntrim = 0.5\n[cohort]'),
            "'aggregation.trim' is 0.5: input should be less than 0.5",
        ),
        (("[cohort]", "[aggregation]\ntrim = 0.2\n[cohort]"), 'trim goes with rule = "trimmed-mean"'),
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


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (('"1.5GB"', '"30d"'), (1_500_000_000, 2_592_000)),
        (('"2 MB"', '"12h"'), (2_000_000, 43_200)),
        (('"3000kB"', '"90m"'), (3_000_000, 5400)),
        (("5000000", "7200"), (5_000_000, 7200)),
        (('"1TB"', '"500s"'), (10**12, 500)),
    ],
)
def test_limits_of_the_logs_have_units(toml, written, read):
    config = load(toml(GOOD), [f"log.max_bytes={written[0]}", f"log.max_age={written[1]}"])
    assert (config.limits().max_bytes, config.limits().max_age_s) == read
    assert config.digest() != load(toml(GOOD)).digest()


def test_the_same_limit_in_another_unit_is_the_same_configuration(toml):
    days = load(toml(GOOD), ["log.max_age=1d", "log.max_bytes=1GB"])
    assert load(toml(GOOD), ["log.max_age=24h", "log.max_bytes=1000MB"]).digest() == days.digest()


def test_max_age_outlasts_the_rounds_that_an_update_may_be_of(toml):
    slow = ["cohort.deadline_s=3600", "staleness.max=4"]
    with pytest.raises(ConfigError, match="21601s"):
        load(toml(GOOD), [*slow, "log.max_age=6h"])
    assert load(toml(GOOD), [*slow, "log.max_age=21601s"]).log.max_age == 21601


@pytest.mark.parametrize("count", [1, 999, 1000, 999_950, 4_114_286, 999_999_999, 20 * 10**9, 3 * 10**15])
def test_a_size_that_is_enough_is_no_less_and_reads_back(toml, count):
    size = enough(count)
    read = load(toml(GOOD), [f"log.max_bytes={size}"]).log.max_bytes if count >= 10**6 else count
    assert count <= read <= count * 1.1
    assert len(size) < 9


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


def test_a_folder_or_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no .*typo: name a run's folder, or a federation's TOML"):
        Target.of_arguments(tmp_path / "typo", "", "", "")


def test_a_store_beside_the_run_of_a_broker_elsewhere_gets_its_folder(toml, tmp_path):
    with Target.of_run(load(toml(GOOD)), tmp_path / "run", "amqp://h", "") as target:
        target.create()
        assert target.store().read().leader is None


def test_copies_need_a_cluster(toml, tmp_path):
    config = load(toml(GOOD), ["log.copies=3"])
    assert config.binding()["log"]["copies"] == 3
    with pytest.raises(ConfigError, match="copies is 3, and the embedded broker is one folder"):
        Target.of_run(config, tmp_path, "", "")
    assert not Target.of_run(config, tmp_path, "amqp://h1,h2,h3", "redis://h").embedded
    with pytest.raises(ConfigError, match="copies"):
        load(toml(GOOD), ["log.copies=2"])
