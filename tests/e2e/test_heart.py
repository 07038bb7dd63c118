"""Four hospitals: the example as a user runs it. The records themselves are no part of the repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.errors import ConfigError
from worker import data
from worker.loading import find
from worker.trainers.softmax import SoftmaxRegression

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "heart.py"
#: Rows to train on, and to test on, as the benchmark has them.
HOSPITALS = {"cleveland": (199, 104), "hungarian": (172, 89), "switzerland": (30, 16), "va": (85, 45)}


@pytest.fixture(scope="session")
def records() -> Path:
    """The folder with the four UCI files, where there is one."""
    named = os.environ.get("WARREN_HEART_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data" / "heart"
    if not folder.is_dir():
        pytest.skip(
            "the four hospitals were NOT tried: name the folder of the UCI files in WARREN_HEART_DATA"
            + (f" ({named} is no folder)" if named else "")
        )
    return folder


@pytest.fixture
def prepare(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Path], dict[str, Any]]:
    """Prepares a folder of records; returns what the files then hold, by name."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    found = find(f"{SCRIPT}:prepare", "script")

    def prepared(source: Path, folder: Path) -> dict[str, Any]:
        return {file.stem: data.load(str(file))["0"] for file in found(source, folder)}

    return prepared


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The example's TOML file as it stands; it looks for its data in demo-run/heart."""
    toml = tmp_path / "deploy" / "federations" / "heart.toml"
    toml.parent.mkdir(parents=True)
    shutil.copy(ROOT / "deploy" / "federations" / "heart.toml", toml)
    return toml


@pytest.fixture
def sites(prepare, tmp_path: Path, records: Path) -> dict[str, Any]:
    """The records, where the example looks for them."""
    return prepare(records, tmp_path / "demo-run" / "heart")


@pytest.fixture
def heart(make_fed):
    return make_fed("heart", [])


def accuracy_of(fed, rows):
    trainer = SoftmaxRegression(features=13, classes=2)
    with np.load(fed.out / "model.npz") as model:
        return trainer.evaluate(dict(model), rows)[1]["accuracy"]


def archive(folder: Path, **instead: str) -> Path:
    """Made-up records in the archive's form, of older patients in each further hospital; or a text instead.

    Of the 65 a hospital, five have a gap where it matters, and all have where it does not. Three of four are
    ill. All but age, sex, pain and ECG is the same everywhere.
    """
    rng = np.random.default_rng(5)
    folder.mkdir()
    for number, hospital in enumerate(HOSPITALS):
        lines = []
        for row in range(65):
            age, pain, ecg = 40 + 10 * number + rng.integers(10), rng.integers(1, 5), rng.integers(3)
            cholesterol = "?" if row >= 60 else "250"
            lines.append(f"{age},{row % 2},{pain},130,{cholesterol},0,{ecg},150,1,1.1,?,?,?,{row % 4}\n")
        (folder / f"processed.{hospital}.data").write_text(instead.get(hospital, "".join(lines)))
    return folder


def test_a_hospital_s_file_holds_its_complete_rows_on_its_own_scale(prepare, tmp_path):
    sites = prepare(archive(tmp_path / "archive"), tmp_path / "sites")
    assert list(sites) == [*HOSPITALS, "pooled"]
    varies = np.array([True, True, *[False] * 6, *[True] * 5])
    for name, rows in sites.items():
        hospitals = 4 if name == "pooled" else 1
        assert rows["x"].shape == (39 * hospitals, 13)
        assert rows["x_test"].shape == (21 * hospitals, 13)
        assert rows["y"].mean() == pytest.approx(0.75, abs=0.02)
        assert rows["y_test"].mean() == pytest.approx(0.75, abs=0.03)
        np.testing.assert_allclose(rows["x"].mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(rows["x"].std(axis=0, ddof=1), np.where(varies, 1, 0), atol=1e-5)


def test_the_pooled_rows_are_on_one_scale(prepare, tmp_path):
    pooled = prepare(archive(tmp_path / "archive"), tmp_path / "sites")["pooled"]
    for name in ("x", "x_test"):
        ages = [block.mean() for block in np.split(pooled[name][:, 0], 4)]
        assert min(np.diff(ages)) > 0.5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<html>\n", "14 columns"),
        ("1,2\n1\n", "14 columns"),
        (",".join("sick" * 14) + "\n", "14 columns"),
        (",".join(["sick"] * 14) + "\n", "sick"),
        (",".join(["?"] * 14) + "\n", "0 complete rows"),
        ("", "0 complete rows"),
    ],
)
def test_another_file_is_named_and_nothing_is_written(prepare, tmp_path, text, says):
    with pytest.raises(ConfigError, match=rf"processed\.va\.data is not the file .*{says}"):
        prepare(archive(tmp_path / "archive", va=text), tmp_path / "sites")
    assert not (tmp_path / "sites").exists()


def test_a_missing_file_is_named(tmp_path):
    command = [sys.executable, SCRIPT, tmp_path, "--to", tmp_path / "sites"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("heart: there is no ")
    assert "processed.cleveland.data" in result.stderr


def test_an_example_without_its_data_says_so(heart, example):
    result = heart.run(example)
    assert result.returncode == 2
    assert "the data of site 'cleveland' is not there" in result.stderr


def test_the_split_is_the_benchmark_s(sites):
    sizes = {name: (len(rows["y"]), len(rows["y_test"])) for name, rows in sites.items()}
    assert sizes == {**HOSPITALS, "pooled": (486, 254)}


def test_four_hospitals_learn(heart, example, sites):
    result = heart.run(example)
    assert result.returncode == 0, result.stderr
    assert all(line["accepted"] == 4 for line in heart.history()[1:])
    assert accuracy_of(heart, sites["pooled"]) > 0.70


def test_a_hospital_left_out_scores_a_model_that_never_saw_it(heart, example, sites, tmp_path, wait_for):
    coordinator = heart.warren(
        "coordinate", example, "--out", heart.out, "--set", 'evaluation.sites=["va"]',
        "--set", "cohort.min_clients=3", "--set", "cohort.minimum=3",
    )  # fmt: skip

    def start(name: str) -> None:
        file = tmp_path / "demo-run" / "heart" / f"{name}.npz"
        trainer = "worker.trainers.softmax:SoftmaxRegression"
        heart.worker({"name": name, "data": file, "trainer": trainer, "params": {"features": 13}})

    wait_for(lambda: (heart.out / "log").exists(), timeout_s=20, what="the broker's folder")
    # No round waits for those who only score, so va comes first.
    start("va")
    wait_for(lambda: '"va": {' in heart.ask("status", "--json").stdout, timeout_s=30, what="va")
    for name in ("cleveland", "hungarian", "switzerland"):
        start(name)
    result = heart.done(coordinator)
    assert result.returncode == 0, result.stderr
    trained = {who["client"] for version in heart.versions()[1:] for who in version["contributors"]}
    assert trained == {"cleveland/0", "hungarian/0", "switzerland/0"}
    last = json.loads((heart.out / "evaluation.json").read_text())["clients"]
    assert set(last) == {*trained, "va/0"}
    assert last["va/0"]["accuracy"] == pytest.approx(accuracy_of(heart, sites["va"]))


def test_the_benchmark_leaves_a_hospital_out(tmp_path, records, rabbit_url, redis_url):
    script = ROOT / "tests" / "benchmarks" / "heart.py"
    options = ["--data", records, "--folder", tmp_path, "--broker", rabbit_url, "--state", redis_url]
    result = subprocess.run(
        [sys.executable, script, *options, "--seeds", "1", "--leave-out", "hungarian"],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "Accuracy on 89 test rows of hungarian" in result.stdout
