"""Loading a site's trainer, and running one training off the caller's thread."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shared.errors import ConfigError
from worker import training
from worker.trainers.mlp import MultilayerPerceptron
from worker.training import Training

OWN = """
from dataclasses import dataclass

@dataclass
class Mine:
    rate: float = 0.5
    def initial_weights(self, seed): return {"seed": seed}
    def fit(self, weights, data, config, seed): return weights, 1, {}
    def evaluate(self, weights, data): return 1, {}

class Half:
    def initial_weights(self, seed): return {}

class Picky(Mine):
    def __init__(self): raise ValueError("the licence has run out")

def made(rate): return Mine(rate)

value = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = tmp_path / "own_trainers.py"
    file.write_text(OWN)
    return file


def refusal(spec: str, **params: object) -> str:
    with pytest.raises(ConfigError) as raised:
        training.load(spec, params)
    return str(raised.value)


def test_a_ready_made_trainer_is_made_with_its_parameters() -> None:
    made = training.load("worker.trainers.mlp:MultilayerPerceptron", {"features": 4, "hidden": [3]})
    assert isinstance(made, MultilayerPerceptron)
    assert made.initial_weights(0)["weight0"].shape == (4, 3)


def test_a_class_in_a_file(own: Path) -> None:
    made = training.load(f"{own}:Mine", {"rate": 0.25})
    assert made.rate == 0.25  # type: ignore[attr-defined]
    assert made.initial_weights(5) == {"seed": 5}


def test_a_function_that_makes_a_trainer(own: Path) -> None:
    assert training.load(f"{own}:made", {"rate": 2}).evaluate({}, None) == (1, {})


def test_a_module_in_the_current_folder(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parent)
    monkeypatch.delitem(sys.modules, "own_trainers", raising=False)
    assert training.load("own_trainers:Mine", {}).fit({}, None, {}, 0) == ({}, 1, {})


def test_the_current_folder_hides_no_installed_module(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own.parent / "json.py").write_text("raise RuntimeError('a file of the site')\n")
    monkeypatch.chdir(own.parent)
    assert "json has no 'Mine'" in refusal("json:Mine")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Absent", "has no 'Absent'"),
        ("Half", "has no method 'fit': it needs initial_weights, fit, evaluate"),
        ("value", "is a int: name a class"),
        ("Picky", "cannot be made with the parameters {}: the licence has run out"),
    ],
)
def test_what_is_no_trainer_is_refused(own: Path, name: str, said: str) -> None:
    assert said in refusal(f"{own}:{name}")


def test_wrong_parameters_are_named(own: Path) -> None:
    assert "parameters {'speed': 1}" in refusal(f"{own}:Mine", speed=1)
    assert "unexpected keyword argument 'speed'" in refusal(f"{own}:Mine", speed=1)
    assert "features is -1" in refusal("worker.trainers.softmax:SoftmaxRegression", features=-1)


@pytest.mark.parametrize("spec", ["", "Mine", "module:", ":Mine", "module:a b", "file.py"])
def test_malformed_specs_are_refused(spec: str) -> None:
    assert "is not of the form MODULE:NAME or FILE.py:NAME" in refusal(spec)


def test_missing_and_broken_modules_are_told_apart(own: Path, tmp_path: Path) -> None:
    assert "there is no module 'no_such'" in refusal("no_such:Mine")
    assert "there is no module 'worker.no_such'" in refusal("worker.no_such:Mine")
    assert f"there is no file {tmp_path / 'no.py'}" in refusal(f"{tmp_path / 'no.py'}:Mine")
    own.write_text("import no_such_library\n")
    assert "cannot be imported: ModuleNotFoundError: No module named 'no_such_library'" in refusal(
        f"{own}:Mine"
    )
    own.write_text("1 +\n")
    assert "cannot be imported: SyntaxError" in refusal(f"{own}:Mine")


def test_a_modules_own_missing_import_is_not_the_module_missing(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own.parent / "needs_more.py").write_text("import no_such_library\n")
    monkeypatch.chdir(own.parent)
    assert "needs_more cannot be imported: ModuleNotFoundError" in refusal("needs_more:Mine")


def test_a_training_runs_elsewhere_and_gives_its_result() -> None:
    here, free, seen = threading.get_ident(), threading.Event(), []

    def call() -> str:
        seen.append(threading.get_ident())
        assert free.wait(10)
        return "done"

    running = Training(call)
    assert running.wait(0) is False
    assert running.wait(0.01) is False
    free.set()
    assert running.wait(10) is True
    assert running.result() == "done"
    assert running.result() == "done"
    assert seen != [here]


def test_a_trainings_error_is_raised_where_it_is_awaited() -> None:
    def call() -> None:
        raise KeyError("no such column")

    running = Training(call)
    assert running.wait(10) is True
    with pytest.raises(KeyError, match="no such column"):
        running.result()


def test_a_training_keeps_no_process_alive() -> None:
    code = (
        "import threading\nfrom worker.training import Training\n"
        "running = Training(threading.Event().wait)\nassert not running.wait(0.01)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_importing_the_ready_made_trainers_stays_light() -> None:
    code = (
        "import sys, worker.data, worker.training, worker.trainers.mlp, worker.trainers.softmax\n"
        "assert not {'pydantic', 'sklearn', 'scipy', 'pika', 'rich', 'pyarrow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
