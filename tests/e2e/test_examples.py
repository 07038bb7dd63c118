"""The examples that people are told to copy, as they stand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]


def test_own_trainer_and_loader_learn(fed):
    example = ROOT / "deploy" / "own_trainer.py"
    toml = fed.folder / "own.toml"
    toml.write_text(
        f"""
        [federation]
        name = "{fed.name}"
        rounds = 10
        [training]
        steps = 20
        learning_rate = 0.2
        [cohort]
        min_clients = 2
        [evaluation]
        best = "-loss"
        """
    )
    coordinator = fed.warren("coordinate", toml, "--out", fed.out, *fed.urls)
    site = {"name": "ours", "data": f"{example}:patients", "trainer": f"{example}:LinearRegression"}
    fed.worker({**site, "params": {"features": 3}})
    result = fed.done(coordinator)
    assert result.returncode == 0, result.stderr
    with np.load(fed.out / "model.npz") as model:
        np.testing.assert_allclose(model["slope"], [1.0, -2.0, 0.5], atol=0.01)
        np.testing.assert_allclose(model["offset"], [3.0], atol=0.01)
    clients = json.loads((fed.out / "evaluation.json").read_text())["clients"]
    assert sorted(clients) == ["ours/north", "ours/south"]


def test_readme_shows_the_trainer_as_the_file_has_it():
    shown = (ROOT / "README.md").read_text()
    example = (ROOT / "deploy" / "own_trainer.py").read_text()
    begin = example.index("class LinearRegression")
    assert example[begin : example.index("def patients")].strip() in shown
