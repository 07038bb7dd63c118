"""A site's data, by partition. Each partition is a client of the federation.

- A file holds `x` (one row an example), `y`, and in an .npz possibly `x_test` and `y_test`, and others.
  With a `partition` beside them (texts or whole numbers, one a row; `partition_test` for test rows) each of
  its values is a client, and arrays as long as `x` are parted with it; without, there is one, named "0".
- A .csv or .parquet file has a column `y` or `target`, possibly a column `partition`; `x` is all others, in
  their order.
- In a folder each such file is a client, named by its stem.
- "module:callable" or "file.py:callable" is the site's own loader, called with nothing. If it returns a
  dict without any array in it, that is partition → data, whatever the data are; anything else is the data
  of one client.
"""

from __future__ import annotations

import csv
import importlib
import itertools
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.errors import ConfigError
from shared.weights import Array
from worker.loading import find

#: What a trainer is handed: arrays by name, or whatever the site's loader returns.
Data = Any
Arrays = dict[str, Array]

PARTITION = re.compile(r"[A-Za-z0-9_.-]{1,64}")
#: The only partition of data that names none.
ONLY = "0"
LABELS = ("y", "target")


def load(spec: str) -> dict[str, Data]:
    """The data that a file, a folder or a loader gives, by partition.

    Raises:
        ConfigError: it isn't there or isn't usable; the sentence names file and array.
    """
    path = Path(spec)
    if path.is_dir():
        return _from_folder(path)
    if path.exists():
        return _from_file(path)
    if ":" in spec:
        return _from_loader(spec)
    raise ConfigError(f"there is no data at {spec}: name a file, a folder, or MODULE:LOADER")


def _from_folder(folder: Path) -> dict[str, Data]:
    files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in READERS]
    if not files:
        raise ConfigError(f"folder {folder} has no {', '.join(READERS)} file: each is a client's data")
    data: dict[str, Data] = {}
    for file in files:
        arrays = _read(file)
        if "partition" in arrays:
            raise ConfigError(
                f"{file}: array 'partition' has no place in a folder, where each file is a client: "
                f"name the file itself"
            )
        if file.stem in data:
            raise ConfigError(f"{file}: another file of the folder is named {file.stem!r} too: rename one")
        data[_partition_name(file.stem, str(file))] = arrays
    return data


def _from_file(path: Path) -> dict[str, Data]:
    arrays = _read(path)
    return _parted(path, arrays) if "partition" in arrays else {ONLY: arrays}


def _from_loader(spec: str) -> dict[str, Data]:
    loader = find(spec, "data")
    if not callable(loader):
        raise ConfigError(f"data {spec!r} is a {type(loader).__name__}: name a function")
    try:
        data = loader()
    except Exception as error:
        raise ConfigError(f"data {spec!r} failed: {type(error).__name__}: {error}") from error
    if not isinstance(data, Mapping) or any(isinstance(value, np.ndarray) for value in data.values()):
        return {ONLY: data}
    if not data:
        raise ConfigError(f"data {spec!r} gave an empty dict: it must hold arrays, or partitions")
    return {_partition_name(str(name), spec): each for name, each in data.items()}


# --- files


def _read(path: Path) -> Arrays:
    """A file's arrays, checked."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"{path} is no data file: known are {', '.join(READERS)}")
    arrays = reader(path)
    _check(path, arrays)
    return arrays


def _read_npz(path: Path) -> Arrays:
    name = ""
    arrays: Arrays = {}
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ConfigError(f"{path} holds one array without a name: write it with numpy.savez")
        with file:
            for name in file.files:
                arrays[name] = file[name]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        array = f"array {name!r} cannot be read" if name else "it cannot be read as .npz"
        # Of bytes that are no archive numpy says how to unpickle them.
        foreign = isinstance(error, ValueError) and not name
        raise ConfigError(f"{path}: {array}: {'write it with numpy.savez' if foreign else error}") from error
    return arrays


def _read_csv(path: Path) -> Arrays:
    try:
        header = _csv_header(path)
        numbers = [place for place, name in enumerate(header) if name != "partition"]
        values = _csv_columns(path, numbers, float)
        columns = {header[place]: values[:, column] for column, place in enumerate(numbers)}
        if "partition" in header:
            columns["partition"] = _csv_columns(path, [header.index("partition")], str)[:, 0]
    except (OSError, csv.Error, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as .csv with a header and numbers: {error}") from error
    return _table(path, columns)


def _csv_header(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = [name.strip() for name in next(csv.reader(file), [])]
        rows = any(line.strip() for line in file)
    if not rows:
        raise ValueError("it has no rows")
    if len(set(header)) != len(header):
        raise ValueError("a column's name stands twice in the header")
    return header


def _csv_columns(path: Path, places: list[int], dtype: type) -> Array:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = itertools.islice((line for line in file if line.strip()), 1, None)
        return np.loadtxt(rows, dtype, comments=None, delimiter=",", usecols=places, ndmin=2, quotechar='"')


def _read_parquet(path: Path) -> Arrays:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise ConfigError(f"{path} needs pyarrow to be read: pip install 'warren-fl[parquet]'") from None
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are one or the other
        raise ConfigError(f"{path} cannot be read as .parquet: {error}") from error
    names = table.column_names
    return _table(path, {name: table.column(name).to_numpy(zero_copy_only=False) for name in names})


READERS: Mapping[str, Callable[[Path], Arrays]] = {
    ".npz": _read_npz,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _table(path: Path, columns: Mapping[str, Array]) -> Arrays:
    """A table's columns as x, y, and partition if there is one."""
    labels = [name for name in LABELS if name in columns]
    if len(labels) != 1:
        raise ConfigError(f"{path} needs a column 'y' or 'target', and one of them only")
    features = [name for name in columns if name not in (*LABELS, "partition")]
    if not features:
        raise ConfigError(f"{path} has no column for array 'x': it has the label alone")
    numeric = {name: _numbers(path, name, columns[name]) for name in [*features, *labels]}
    label = numeric[labels[0]]
    whole = bool(np.all(np.mod(label, 1) == 0))
    arrays = {
        "x": np.stack([numeric[name] for name in features], axis=1),
        "y": label.astype(np.int64) if whole else label,
    }
    if "partition" in columns:
        arrays["partition"] = columns["partition"].astype(str)
    return arrays


def _numbers(path: Path, name: str, column: Array) -> npt.NDArray[np.float64]:
    try:
        return column.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: column {name!r} holds something else than numbers: {error}") from error


# --- checks


def _check(path: Path, arrays: Arrays) -> None:
    for name in ("x", "y"):
        if name not in arrays:
            have = f"it has {', '.join(arrays)}" if arrays else "it is empty"
            raise ConfigError(f"{path} has no array {name!r}; {have}")
    for name, other in (("x_test", "y_test"), ("y_test", "x_test"), ("partition_test", "x_test")):
        if name in arrays and other not in arrays:
            raise ConfigError(f"{path} has an array {name!r}, but no array {other!r}")
    for name, like in (("y", "x"), ("partition", "x"), ("y_test", "x_test"), ("partition_test", "x_test")):
        if name in arrays:
            _check_length(path, arrays, name, like)
    if not len(arrays["x"]):
        raise ConfigError(f"{path}: array 'x' has no rows")
    for name in ("x", "y", "x_test", "y_test"):
        if name in arrays:
            _check_values(path, name, arrays[name])


def _check_length(path: Path, arrays: Arrays, name: str, like: str) -> None:
    for each in (name, like):
        if arrays[each].ndim == 0:
            raise ConfigError(f"{path}: array {each!r} is a single value: it needs one row an example")
    if len(arrays[name]) != len(arrays[like]):
        raise ConfigError(
            f"{path}: array {name!r} has {len(arrays[name])} rows, array {like!r} {len(arrays[like])}"
        )


def _check_values(path: Path, name: str, array: Array) -> None:
    """Some missing values are the trainer's to deal with; nothing but missing values is a mistake."""
    if array.size and array.dtype.kind in "fc" and not np.isfinite(array).any():
        raise ConfigError(f"{path}: array {name!r} holds no finite number")


# --- partitions


def _parted(path: Path, arrays: Arrays) -> dict[str, Data]:
    if "x_test" in arrays and "partition_test" not in arrays:
        raise ConfigError(f"{path}: array 'x_test' needs an array 'partition_test' to go with 'partition'")
    rows = _rows_by_name(path, "partition", arrays["partition"])
    tests = _rows_by_name(path, "partition_test", arrays.get("partition_test", np.array([], str)))
    strangers = [name for name in tests if name not in rows]
    if strangers:
        raise ConfigError(
            f"{path}: array 'partition_test' names {strangers[0]!r}, which has no row in array 'partition'"
        )
    none = np.array([], np.int64)
    return {name: _part(arrays, rows[name], tests.get(name, none)) for name in rows}


def _part(arrays: Arrays, rows: Array, tests: Array) -> Arrays:
    part: Arrays = {}
    for name, array in arrays.items():
        if name in ("x_test", "y_test"):
            part[name] = array[tests]
        elif name not in ("partition", "partition_test"):
            along = array.ndim > 0 and len(array) == len(arrays["x"])
            part[name] = array[rows] if along else array
    return part


def _rows_by_name(path: Path, array: str, names: Array) -> dict[str, Array]:
    """The rows of each partition, in the file's order."""
    if names.ndim != 1 or names.dtype.kind not in "iuU":
        raise ConfigError(f"{path}: array {array!r} holds something else than texts or whole numbers")
    found, counts = np.unique(names, return_counts=True)
    rows = np.split(np.argsort(names, kind="stable"), np.cumsum(counts)[:-1])
    pairs = zip(found.tolist(), rows, strict=False)
    return {_partition_name(str(name), f"{path}: array {array!r}"): part for name, part in pairs}


def _partition_name(name: str, where: str) -> str:
    if not PARTITION.fullmatch(name):
        raise ConfigError(
            f"{where}: {name!r} is no usable partition name: take 1 to 64 of A-Z, a-z, 0-9, '_', '.', '-'"
        )
    return name
