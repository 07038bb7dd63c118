"""The folder of a run: a full disk is said once, and made up for."""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.folder import Folder
from shared.errors import DiskFull
from shared.weights import Weights

WEIGHTS = Weights.from_arrays({"w": np.arange(4, dtype=np.float32)})
LINES: list[dict[str, Any]] = [{"round": number} for number in range(4)]


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process gets longer than a few bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path)
    made.write_config("name = 1")
    made.rewrite_history(LINES[:2])
    return made


def text(folder: Folder, name: str) -> str:
    return (folder.path / name).read_text()


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: folder.write_model(WEIGHTS),
        lambda folder: folder.write_model(WEIGHTS, "best.npz"),
        lambda folder: folder.add_history(LINES[:3]),
        lambda folder: folder.rewrite_history(LINES[:3]),
        lambda folder: folder.write_evaluation({"version": 3}),
        lambda folder: folder.write_config("name = 'another'"),
    ],
)
def test_what_finds_no_room_leaves_all_as_it_was(folder: Folder, write: Callable[[Folder], None]) -> None:
    before = {path.name: path.read_bytes() for path in folder.path.iterdir()}
    with full_disk():
        write(folder)
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == before
    with full_disk(), pytest.raises(DiskFull, match="make room"):
        folder.check()
    folder.check()
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} != before


def test_it_is_said_once_and_made_up_for_with_the_next_write(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with full_disk():
        folder.write_model(WEIGHTS)
        folder.add_history(LINES[:3])
        folder.write_evaluation({"version": 2})
    folder.add_history(LINES)
    assert text(folder, "history.jsonl").splitlines() == [f'{{"round": {number}}}' for number in range(4)]
    assert "version" in text(folder, "evaluation.json")
    with np.load(folder.path / "model.npz") as model:
        assert model["w"].tolist() == [0, 1, 2, 3]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    folder.check()
