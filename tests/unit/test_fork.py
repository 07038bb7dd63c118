"""A fork's configuration and files, without a log."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from coordinator.config import load, parse
from coordinator.fork import fork_of
from coordinator.ledger import Ledger
from coordinator.weight_files import initial_weights, write_weights
from shared.errors import ConfigError
from shared.topology import Topology
from shared.weights import Weights

MODEL = Weights.from_arrays({"n": np.array([3], np.int64), "w": np.arange(4, dtype=np.float32)})
BINDING = parse(
    {
        "federation": {"name": "hospitals", "seed": 4},
        "model": {"initial": "/elsewhere/first.npz"},
        "training": {"epochs": 2, "note": 'in "quotes"'},
        "evaluation": {"sites": ["va"]},
    },
    "here",
).binding()
LOCAL = {"sites": [{"name": "a", "data": "/data/a.npz", "trainer": "m:T", "params": {"deep": {"er": [1]}}}]}


class Made:
    version, digest = 12, MODEL.digest


def ledger():
    return Ledger(Topology("hospitals"), "abc123", 0.0, BINDING, "", (), (), None)


def fork(tmp_path, name="clinics", overrides=(), local=LOCAL, to=None):
    return fork_of(ledger(), Made(), name, overrides, local, to or tmp_path / "clinics.toml")


def test_its_toml_can_be_run(tmp_path):
    made = fork(tmp_path, overrides=["training.epochs=5", "cohort.minimum=2"])
    assert made.command == f"warren run {tmp_path / 'clinics.toml'}"
    made.write(MODEL)
    config = load(made.toml)
    assert config.federation.forked_from == f"hospitals/abc123@12:{MODEL.digest}"
    assert config.training == {"epochs": 5, "note": 'in "quotes"'}
    assert (config.name, config.federation.seed, config.cohort.minimum) == ("clinics", 4, 2)
    assert config.model.initial == str(tmp_path / "clinics-initial.npz")
    assert config.local.sites[0].params == {"deep": {"er": [1]}}
    assert initial_weights(config).digest == MODEL.digest


def test_other_weights_are_refused(tmp_path):
    made = fork(tmp_path)
    made.write(MODEL)
    write_weights(made.initial, Weights.from_arrays({"w": np.zeros(2)}))
    with pytest.raises(
        ConfigError, match=r"not that of hospitals/abc123@12:[0-9a-f]{12}; take the file that"
    ):
        initial_weights(load(made.toml))


def test_weights_on_a_file_system_that_takes_nothing_are_refused_in_a_sentence(tmp_path, monkeypatch):
    def read_only(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "open", read_only)
    monkeypatch.setattr(Path, "unlink", read_only)
    with pytest.raises(ConfigError, match=r"can't be written to .* \(Read-only file system\): name another"):
        write_weights(tmp_path / "model.npz", MODEL)


def test_without_sites_of_its_own_it_is_coordinated(tmp_path):
    assert fork(tmp_path, local={}).command.startswith("warren coordinate ")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"name": "hospitals"}, "the federation itself is named 'hospitals': give its fork another name"),
        ({"name": "Our Clinics"}, "the fork: key 'federation.name' is 'Our Clinics'"),
        ({"overrides": ["model.initial=site"]}, "--set model.initial: the fork's name and initial weights"),
        ({"overrides": ["federation.name=x"]}, "--set federation.name: the fork's name"),
        ({"overrides": ["training.epochs"]}, "is not of the form table.key=value"),
        ({"overrides": ["cohort.minimun=2"]}, "the fork: key 'cohort.minimun' is not known; did you mean"),
    ],
)
def test_mistakes(tmp_path, wrong, sentence):
    with pytest.raises(ConfigError) as caught:
        fork(tmp_path, **wrong)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("there", ["clinics.toml", "clinics-initial.npz"])
def test_nothing_is_overwritten(tmp_path, there):
    (tmp_path / there).write_text("mine")
    with pytest.raises(ConfigError, match=f"{there} is there already"):
        fork(tmp_path)
    assert (tmp_path / there).read_text() == "mine"


def test_a_place_that_can_t_be_written_is_named(tmp_path):
    with pytest.raises(ConfigError, match="can't be written"):
        fork(tmp_path, to=tmp_path / "none" / "clinics.toml").write(MODEL)
