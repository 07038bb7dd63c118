"""Four hospitals' records of heart disease as four sites: Fed-Heart-Disease of the FLamby benchmark.

The four `processed.*.data` files of the UCI archive (Janosi, Steinbrunn, Pfisterer, Detrano 1988; CC BY 4.0)
stay where they are; what the sites need is written to a folder: an .npz for each hospital, its rows scaled by
what is known at that hospital alone. `pooled.npz` is for comparisons, and no site ever sees it: everybody's
rows, scaled by everybody's training rows.

    python deploy/heart.py FOLDER [--to demo-run/heart]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import train_test_split

from shared.errors import ConfigError, WarrenError

Array = npt.NDArray[Any]
Rows = Mapping[str, Array]

FOLDER = Path(__file__).parents[1] / "demo-run" / "heart"
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
POOLED = "pooled"
SOURCE = "https://archive.ics.uci.edu/dataset/45/heart+disease"
#: Age, sex, blood pressure, cholesterol, blood sugar, heart rate, angina, ST depression.
NUMBERS = (0, 1, 3, 4, 5, 7, 8, 9)
#: Kind of pain and resting ECG: a column for each level, but the first. Columns 10 to 12 are mostly missing.
LEVELS = {2: (2, 3, 4), 6: (1, 2)}
#: How far the arteries are narrowed: 0, or 1 to 4, which all count as ill.
TARGET = 13
#: The benchmark's own split.
TEST_SHARE = 0.34
SPLIT_SEED = 43
#: A class with no more rows at a hospital can't be split in the same proportion.
FEW = 2


def prepare(source: Path, folder: Path = FOLDER) -> list[Path]:
    """Writes a file for each hospital, and at last pooled.npz; returns them in that order.

    Raises:
        ConfigError: a file of the archive is missing in `source`, or is not what it should be.
    """
    sites = {name: _split(*_read(source / f"processed.{name}.data")) for name in HOSPITALS}
    names = next(iter(sites.values()))
    pooled = {name: np.concatenate([site[name] for site in sites.values()]) for name in names}
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(folder / f"{name}.npz", rows) for name, rows in {**sites, POOLED: pooled}.items()]


def _read(file: Path) -> tuple[Array, Array]:
    """The complete rows of a hospital: 13 features, and whether the heart is ill."""
    try:
        table = _table(file)
    except FileNotFoundError:
        raise ConfigError(f"there is no {file}: name a folder with the four files from {SOURCE}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} is not the file from {SOURCE}: {error}") from error
    levels = [table[:, column] == level for column, known in LEVELS.items() for level in known]
    return np.column_stack([table[:, NUMBERS], *levels]), (table[:, TARGET] > 0).astype(np.int64)


def _table(file: Path) -> Array:
    """The rows with a value in every column that is used; ValueError if that can't be."""
    lines = [line.split(",") for line in file.read_text(encoding="ascii").splitlines() if line.strip()]
    if not all(len(line) == TARGET + 1 for line in lines):
        raise ValueError(f"each line should have {TARGET + 1} columns")
    table = np.array([[np.nan if cell == "?" else float(cell) for cell in line] for line in lines])
    used = (*NUMBERS, *LEVELS, TARGET)
    complete = table[~np.isnan(table[:, used]).any(axis=1)] if lines else table
    if len(complete) <= FEW:
        raise ValueError(f"it has {len(complete)} complete rows")
    return complete


def _split(x: Array, y: Array) -> Rows:
    splittable = np.bincount(y, minlength=2).min() > FEW
    train, test = train_test_split(
        np.arange(len(y)), test_size=TEST_SHARE, random_state=SPLIT_SEED, stratify=y if splittable else None
    )
    return {"x": x[train], "y": y[train], "x_test": x[test], "y_test": y[test]}


def _write(file: Path, rows: Rows) -> Path:
    """Features in standard deviations from the mean of the training rows; a constant one becomes zero."""
    mean, spread = rows["x"].mean(axis=0), rows["x"].std(axis=0, ddof=1)
    spread[np.ptp(rows["x"], axis=0) == 0] = 1
    scaled = {name: ((rows[name] - mean) / spread).astype(np.float32) for name in ("x", "x_test")}
    arrays: dict[str, Any] = {**rows, **scaled}
    np.savez(file, **arrays)
    return file


def main() -> int:
    parser = argparse.ArgumentParser(description="Prepares the records of four hospitals as four sites.")
    parser.add_argument("source", type=Path, metavar="FOLDER", help=f"where the files from {SOURCE} lie")
    parser.add_argument("--to", type=Path, default=FOLDER, help="where to write (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        files = prepare(arguments.source, arguments.to)
    except WarrenError as error:
        print(f"heart: {error}", file=sys.stderr)
        return error.exit_code
    for file in files:
        with np.load(file, allow_pickle=False) as rows:
            print(f"{file}: {len(rows['y'])} rows to train on, {len(rows['y_test'])} to test on")
    return 0


if __name__ == "__main__":
    sys.exit(main())
