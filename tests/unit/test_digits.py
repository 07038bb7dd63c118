"""The demo's data: uneven sites, no row in two places, the same for the same seed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worker import data
from worker.loading import find

SCRIPT = Path(__file__).parents[2] / "deploy" / "digits.py"
Prepare = Callable[..., tuple[list[Path], Path]]


@pytest.fixture
def prepare(monkeypatch: pytest.MonkeyPatch) -> Prepare:
    monkeypatch.setattr(sys, "path", list(sys.path))
    found: Prepare = find(f"{SCRIPT}:prepare", "script")
    return found


def read(file: Path) -> Any:
    return data.load(str(file))["0"]


def test_every_row_is_in_one_place_and_every_site_has_enough(prepare: Prepare, tmp_path: Path) -> None:
    files, held_out = prepare(tmp_path, seed=1)
    sites, test = [read(file) for file in files], read(held_out)
    assert [file.name for file in files] == [f"site-{number:02d}.npz" for number in range(10)]
    assert all(len(site["y"]) + len(site["y_test"]) >= 20 for site in sites)
    assert all(len(site["y_test"]) > 0 for site in sites)
    images = [site[name] for site in sites for name in ("x", "x_test")] + [test["x"]]
    everything = np.concatenate(images)
    # The 1797 images are all different.
    assert len(np.unique(everything, axis=0)) == len(everything) == 1797
    assert everything.dtype == np.float32
    assert (everything.min(), everything.max()) == (0, 1)


def test_held_out_rows_are_stratified_and_sites_are_not(prepare: Prepare, tmp_path: Path) -> None:
    files, held_out = prepare(tmp_path, seed=2)
    counts = np.bincount(read(held_out)["y"], minlength=10)
    assert counts.sum() == 450
    assert counts.max() - counts.min() <= 3
    most = [np.bincount(read(file)["y"], minlength=10).max() / len(read(file)["y"]) for file in files]
    assert np.mean(most) > 0.3


def test_the_seed_decides_the_split(prepare: Prepare, tmp_path: Path) -> None:
    one, again, other = (prepare(tmp_path / name, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    for mine, same in zip(one[0], again[0], strict=True):
        np.testing.assert_array_equal(read(mine)["x"], read(same)["x"])
    assert [len(read(file)["y"]) for file in one[0]] != [len(read(file)["y"]) for file in other[0]]


def test_too_many_sites_are_refused(prepare: Prepare, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too few for 100 sites"):
        prepare(tmp_path, sites=100)
