"""The folder that a run leaves behind, for people. The logs hold all of it, so it never holds a run up."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from coordinator.weight_files import write_weights
from shared.errors import ConfigError, DiskFull
from shared.weights import Weights

log = logging.getLogger(__name__)

HISTORY = "history.jsonl"


class Folder:
    """`DIR` after a run: model.npz, best.npz, history.jsonl, evaluation.json.

    What finds no room on the disk is said once, and made up for with the next write that finds some.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._owed: dict[str, Callable[[], None]] = {}
        self._trouble = ""

    def clear(self) -> None:
        """Removes what an earlier run left, for a federation that begins anew."""
        for name in ("model.npz", "best.npz", HISTORY, "evaluation.json"):
            (self.path / name).unlink(missing_ok=True)

    def write_config(self, toml: str) -> None:
        """Writes the configuration as it runs."""
        self._write_text("federation.toml", toml)

    def rewrite_history(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """A coordinator that goes on writes again what the journal says of the rounds before it."""
        self._write_text(HISTORY, "".join(json.dumps(line) + "\n" for line in lines))

    def add_history(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Writes the last of the history's lines."""
        if HISTORY in self._owed:
            self.rewrite_history(lines)
            return
        try:
            _append(self.path / HISTORY, json.dumps(lines[-1]) + "\n")
        except OSError:
            self.rewrite_history(lines)

    def write_evaluation(self, last: Mapping[str, Any]) -> None:
        """Writes how the last version did, in the mean and at each client."""
        self._write_text("evaluation.json", json.dumps(last, indent=1) + "\n")

    def write_model(self, weights: Weights, name: str = "model.npz") -> None:
        self._write(name, partial(write_weights, self.path / name, weights))

    def check(self) -> None:
        """Makes up for what is owed.

        Raises:
            DiskFull: there is still no room.
        """
        self._settle()
        if self._owed:
            raise DiskFull(
                f"the run is through, and {', '.join(self._owed)} can't be written ({self._trouble}): make "
                f"room in {self.path}, and run the same command again"
            )

    def _write_text(self, name: str, text: str) -> None:
        self._write(name, partial(_replace, self.path / name, text))

    def _write(self, name: str, write: Callable[[], None]) -> None:
        self._owed[name] = write
        self._settle()

    def _settle(self) -> None:
        for name, write in tuple(self._owed.items()):
            try:
                write()
            except (OSError, ConfigError) as error:
                self._complain(str(error))
            else:
                del self._owed[name]
        if self._trouble and not self._owed:
            log.info("the folder %s is written again", self.path)
            self._trouble = ""

    def _complain(self, trouble: str) -> None:
        if not self._trouble:
            log.warning(
                "the folder %s can't be written (%s): the federation goes on, and makes up for it later",
                self.path, trouble,
            )  # fmt: skip
        self._trouble = trouble


def _replace(path: Path, text: str) -> None:
    """Writes a file whole: a reader, or a full disk, sees the old one or the new one."""
    beside = path.with_name(f".{path.name}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def _append(path: Path, line: str) -> None:
    """Adds a line, or leaves the file as it was."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError:
        if path.exists():
            os.truncate(path, size)
        raise
