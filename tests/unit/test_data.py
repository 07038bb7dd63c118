"""A site's data: every way to name it, how it is parted into clients, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.errors import ConfigError
from worker import data

X = np.arange(12, dtype=np.float32).reshape(6, 2)
Y = np.array([0, 1, 0, 1, 0, 1])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "site.npz"


def refusal(spec: Path | str) -> str:
    """The sentence with which data are refused."""
    with pytest.raises(ConfigError) as raised:
        data.load(str(spec))
    assert str(raised.value).count("\n") == 0
    return str(raised.value)


def test_a_file_without_partitions_is_one_client_with_all_its_arrays(file: Path) -> None:
    np.savez(file, x=X, y=Y, x_test=X[:2], y_test=Y[:2], mean=np.ones(2))
    loaded = data.load(str(file))
    assert list(loaded) == ["0"]
    assert set(loaded["0"]) == {"x", "y", "x_test", "y_test", "mean"}
    np.testing.assert_array_equal(loaded["0"]["x"], X)
    assert loaded["0"]["x"].dtype == np.float32


def test_partitions_take_their_own_rows_in_order(file: Path) -> None:
    partition = ["north", "south", "north", "east", "south", "north"]
    np.savez(
        file, x=X, y=Y, weight=np.arange(6), scale=np.ones(2), partition=partition,
        x_test=X[:3] + 100, y_test=Y[:3], partition_test=["south", "north", "south"],
    )  # fmt: skip
    loaded = data.load(str(file))
    assert list(loaded) == ["east", "north", "south"]
    np.testing.assert_array_equal(loaded["north"]["x"], X[[0, 2, 5]])
    np.testing.assert_array_equal(loaded["north"]["y"], Y[[0, 2, 5]])
    np.testing.assert_array_equal(loaded["north"]["weight"], [0, 2, 5])
    np.testing.assert_array_equal(loaded["north"]["scale"], np.ones(2))
    np.testing.assert_array_equal(loaded["south"]["x_test"], X[[0, 2]] + 100)
    assert len(loaded["east"]["x_test"]) == len(loaded["east"]["y_test"]) == 0
    assert "partition" not in loaded["east"]
    assert "partition_test" not in loaded["east"]


def test_whole_numbers_name_partitions_too(file: Path) -> None:
    np.savez(file, x=X, y=Y, partition=[10, 9, 10, 9, 9, 10])
    loaded = data.load(str(file))
    assert list(loaded) == ["9", "10"]
    np.testing.assert_array_equal(loaded["9"]["y"], Y[[1, 3, 4]])


def test_every_row_of_many_partitions_is_in_exactly_one(file: Path) -> None:
    rng = np.random.default_rng(0)
    partition = rng.integers(0, 300, 5000)
    np.savez(file, x=np.arange(5000)[:, None], y=partition, partition=partition)
    loaded = data.load(str(file))
    assert all(set(part["y"].tolist()) == {int(name)} for name, part in loaded.items())
    rows = np.concatenate([part["x"][:, 0] for part in loaded.values()])
    np.testing.assert_array_equal(np.sort(rows), np.arange(5000))


def test_csv_takes_the_label_out_and_keeps_the_columns_order(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("b,target,a\n1.5,0,2\n\n3,1,-4e-1\n", encoding="utf-8-sig")
    loaded = data.load(str(file))["0"]
    np.testing.assert_array_equal(loaded["x"], [[1.5, 2], [3, -0.4]])
    np.testing.assert_array_equal(loaded["y"], [0, 1])
    assert loaded["y"].dtype == np.int64


def test_csv_labels_that_are_not_whole_stay_so(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("a,y\n1,0.5\n2,2\n")
    np.testing.assert_array_equal(data.load(str(file))["0"]["y"], [0.5, 2])


def test_csv_with_partitions(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('partition,a,y\n"ward 1",1,0\n')
    assert "'ward 1' is no usable partition name" in refusal(file)
    file.write_text('partition,a,y\n"ward-2",1,0\nward-1,2,1\nward-2,3,1\n')
    loaded = data.load(str(file))
    assert list(loaded) == ["ward-1", "ward-2"]
    np.testing.assert_array_equal(loaded["ward-2"]["x"], [[1], [3]])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no rows"),
        ("a,y\n", "no rows"),
        ("a,b\n1,2\n", "column 'y' or 'target'"),
        ("a,y,target\n1,2,3\n", "one of them only"),
        ("y\n1\n", "no column for array 'x'"),
        ("a,y,a\n1,2,3\n", "stands twice"),
        ("a,y\nred,1\n", "'red'"),
        ("a,y\n,1\n", "''"),
        ("a,y\n1\n", "row 1"),
        ("a,y\nnan,1\nnan,0\n", "array 'x' holds no finite number"),
    ],
)
def test_csv_mistakes_are_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "a.csv"
    file.write_text(text)
    sentence = refusal(file)
    assert said in sentence
    assert str(file) in sentence


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.parquet"
    file.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert refusal(file).endswith("needs pyarrow to be read: pip install 'warren-fl[parquet]'")


def test_parquet_is_read_like_csv(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "a.parquet"
    columns = {"partition": ["q", "p", "q"], "a": [1, 2, 3], "y": [0, 1, 1], "b": [0.5, None, 2]}
    parquet.write_table(arrow.table(columns), file)
    loaded = data.load(str(file))
    assert list(loaded) == ["p", "q"]
    np.testing.assert_array_equal(loaded["q"]["x"], [[1, 0.5], [3, 2]])
    np.testing.assert_array_equal(loaded["p"]["x"], [[2, np.nan]])
    parquet.write_table(arrow.table({"a": ["red"], "y": [0]}), file)
    assert "column 'a' holds something else than numbers" in refusal(file)
    file.write_bytes(b"nothing of the kind")
    assert "cannot be read as .parquet" in refusal(file)


def test_a_folders_files_are_clients_named_by_their_stems(tmp_path: Path) -> None:
    np.savez(tmp_path / "phone_1.npz", x=X, y=Y)
    (tmp_path / "phone-2.CSV").write_text("a,b,y\n1,2,0\n")
    (tmp_path / "README").write_text("not data")
    loaded = data.load(str(tmp_path))
    assert set(loaded) == {"phone_1", "phone-2"}
    np.testing.assert_array_equal(loaded["phone-2"]["x"], [[1, 2]])


def test_a_folders_mistakes_are_named(tmp_path: Path) -> None:
    assert "has no .npz, .csv, .parquet file" in refusal(tmp_path)
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    (tmp_path / "a.csv").write_text("a,y\n1,0\n")
    assert "another file of the folder is named 'a'" in refusal(tmp_path)
    (tmp_path / "a.csv").unlink()
    np.savez(tmp_path / "b.npz", x=X, y=Y, partition=Y)
    assert "array 'partition' has no place in a folder" in refusal(tmp_path)
    (tmp_path / "b.npz").rename(tmp_path / "b c.npz")
    np.savez(tmp_path / "b c.npz", x=X, y=Y)
    assert "'b c' is no usable partition name" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"y": Y}, "no array 'x'; it has y"),
        ({"x": X}, "no array 'y'; it has x"),
        ({}, "no array 'x'; it is empty"),
        ({"x": X, "y": Y[:5]}, "array 'y' has 5 rows, array 'x' 6"),
        ({"x": X, "y": 3}, "array 'y' is a single value"),
        ({"x": X[:0], "y": Y[:0]}, "array 'x' has no rows"),
        ({"x": X, "y": Y, "x_test": X}, "an array 'x_test', but no array 'y_test'"),
        ({"x": X, "y": Y, "y_test": Y}, "an array 'y_test', but no array 'x_test'"),
        ({"x": X, "y": Y, "x_test": X, "y_test": Y[:1]}, "array 'y_test' has 1 rows, array 'x_test' 6"),
        ({"x": X * np.nan, "y": Y}, "array 'x' holds no finite number"),
        ({"x": X, "y": np.full(6, np.inf)}, "array 'y' holds no finite number"),
        ({"x": X, "y": Y, "partition": Y[:2]}, "array 'partition' has 2 rows, array 'x' 6"),
        ({"x": X, "y": Y, "partition": Y / 2}, "array 'partition' holds something else than texts"),
        ({"x": X, "y": Y, "partition": ["a/b"] * 6}, "'a/b' is no usable partition name"),
        ({"x": X, "y": Y, "partition": [""] * 6}, "'' is no usable partition name"),
        ({"x": X, "y": Y, "partition": ["a" * 65] * 6}, "no usable partition name"),
        ({"x": X, "y": Y, "x_test": X, "y_test": Y, "partition": Y}, "needs an array 'partition_test'"),
        (
            {"x": X, "y": Y, "x_test": X, "y_test": Y, "partition": Y, "partition_test": Y + 1},
            "array 'partition_test' names '2'",
        ),
    ],
)
def test_npz_mistakes_are_named(file: Path, arrays: dict[str, Any], said: str) -> None:
    np.savez(file, **arrays)
    sentence = refusal(file)
    assert said in sentence
    assert str(file) in sentence


def test_some_missing_values_are_the_trainers_business(file: Path) -> None:
    x = X.copy()
    x[0, 0] = np.nan
    np.savez(file, x=x, y=Y)
    assert np.isnan(data.load(str(file))["0"]["x"][0, 0])


def test_objects_are_never_unpickled(file: Path) -> None:
    np.savez(file, x=X, y=np.array([{"a": 1}] * 6, dtype=object))
    assert "array 'y' cannot be read: Object arrays cannot be loaded" in refusal(file)


def test_files_that_are_something_else_are_named(tmp_path: Path, file: Path) -> None:
    assert refusal(tmp_path / "none.npz").startswith(f"there is no data at {tmp_path / 'none.npz'}")
    file.write_bytes(b"PK\x03\x04 torn")
    assert f"{file}: it cannot be read as .npz" in refusal(file)
    np.savez_compressed(file, x=np.random.default_rng(0).normal(size=(50, 20)), y=np.zeros(50))
    torn = bytearray(file.read_bytes())
    torn[200:300] = bytes(100)
    file.write_bytes(torn)
    assert f"{file}: array 'x' cannot be read" in refusal(file)
    file.write_bytes(b"")
    assert f"{file}: it cannot be read as .npz" in refusal(file)
    file.write_bytes(bytes(range(200, 256)))
    assert refusal(file) == f"{file}: it cannot be read as .npz: write it with numpy.savez"
    with file.open("wb") as bare:
        np.save(bare, X)
    assert "one array without a name" in refusal(file)
    (tmp_path / "notes.txt").write_text("x")
    assert "is no data file: known are .npz, .csv, .parquet" in refusal(tmp_path / "notes.txt")


LOADERS = """
import numpy as np
from neighbour import ROWS

class Rows:
    pass

def one():
    return {"x": np.zeros((ROWS, 2)), "note": "text"}

def many():
    return {"a": {"x": np.zeros(1)}, 7: Rows()}

def other():
    return Rows()

def empty():
    return {}

def broken():
    raise OSError("the archive is not mounted")

def bad_name():
    return {"a b": {}}

number = 3
"""


@pytest.fixture
def loaders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site's own file, with another one beside it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "neighbour.py").write_text("ROWS = 3\n")
    (tmp_path / "loaders.py").write_text(LOADERS)
    monkeypatch.delitem(sys.modules, "neighbour", raising=False)
    return tmp_path / "loaders.py"


def test_a_loaders_dict_with_arrays_is_one_client(loaders: Path) -> None:
    loaded = data.load(f"{loaders}:one")
    assert list(loaded) == ["0"]
    assert loaded["0"]["x"].shape == (3, 2)


def test_a_loaders_dict_without_arrays_is_partitions(loaders: Path) -> None:
    loaded = data.load(f"{loaders}:many")
    assert list(loaded) == ["a", "7"]
    assert type(loaded["7"]).__name__ == "Rows"


def test_a_loaders_other_things_are_one_client(loaders: Path) -> None:
    assert type(data.load(f"{loaders}:other")["0"]).__name__ == "Rows"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("empty", "gave an empty dict"),
        ("broken", "failed: OSError: the archive is not mounted"),
        ("bad_name", "'a b' is no usable partition name"),
        ("number", "is a int: name a function"),
        ("nothing", "has no 'nothing'"),
    ],
)
def test_a_loaders_mistakes_are_named(loaders: Path, name: str, said: str) -> None:
    assert said in refusal(f"{loaders}:{name}")


def test_missing_loaders_are_named(tmp_path: Path) -> None:
    assert "there is no module 'no_such_module'" in refusal("no_such_module:load")
    assert f"there is no file {tmp_path / 'no.py'}" in refusal(f"{tmp_path / 'no.py'}:load")
