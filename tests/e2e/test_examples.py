"""The examples that people are told to copy, as they stand."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import numpy as np

from coordinator.config import Config, load, parse

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


def test_readme_s_tables_are_configurations():
    for block in re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        parse(tomllib.loads(block), "README.md")


def test_example_federations_are_configurations():
    for file in (ROOT / "deploy" / "federations").glob("*.toml"):
        assert load(file).name == file.stem


def test_readme_names_every_key():
    shown = (ROOT / "README.md").read_text()
    for table, field in Config.model_fields.items():
        for key in getattr(field.annotation, "model_fields", {}):
            assert f"{table}.{key}" in shown or f"`.{key}`" in shown or f"`{key}`" in shown, f"{table}.{key}"


def test_readme_s_promises_link_to_their_tests():
    links = re.findall(r"\[`([^`]+)`\]\((tests/[^)]*)\)", (ROOT / "README.md").read_text())
    assert len(links) > 20
    for name, path in links:
        assert (ROOT / path).exists(), path
        if name.startswith("test_"):
            assert f"def {name}(" in (ROOT / path).read_text(), f"{path} has no {name}"
