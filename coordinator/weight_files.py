"""Models in files: initial weights to begin with, and versions to take away."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.aggregation import check_model
from coordinator.config import Config
from shared.errors import ConfigError, MessageError
from shared.weights import Weights


def initial_weights(config: Config) -> Weights:
    """The weights that a federation begins with, from its file.

    Raises:
        ConfigError: the file is missing, no such file, or not the version that the federation is forked from.
    """
    path = Path(config.model.initial)
    weights = read_weights(path)
    origin = config.federation.forked_from
    if origin is not None and weights.digest != origin.rpartition(":")[2]:
        raise ConfigError(
            f"{path} does not hold what federation.forked_from says: its digest is {weights.digest[:12]}, "
            f"not that of {origin[: -64 + 12]}; take the file that 'warren fork' wrote"
        )
    return weights


def read_weights(path: Path) -> Weights:
    """A model from an .npz or .safetensors file.

    Raises:
        ConfigError: the file is missing, or not such a file.
    """
    if path.suffix not in (".npz", ".safetensors"):
        raise ConfigError(f"initial weights come from an .npz or .safetensors file, not {path.name}")
    try:
        arrays = _safetensors(path) if path.suffix == ".safetensors" else _npz(path)
        weights = Weights.from_arrays(arrays)
        check_model(weights.layout)
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path} with initial weights") from None
    except (OSError, ValueError, MessageError) as error:
        raise ConfigError(f"{path} cannot be read as weights: {error}") from error
    return weights


def write_weights(path: Path, weights: Weights) -> None:
    """Writes an .npz with the tensors by name; a reader sees the old file or the new one, whole.

    Raises:
        ConfigError: the place can't be written to.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: name a file to write the model to")
    beside = path.with_name(f".{path.name}")
    try:
        with beside.open("wb") as file:
            np.savez(file, **weights.arrays)  # type: ignore[arg-type]
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):  # where nothing can be written, nothing can be removed
            beside.unlink()
        raise ConfigError(
            f"the model can't be written to {path} ({error.strerror}): name another place"
        ) from None


def make_folder(path: Path) -> None:
    """Makes a folder for models, if it isn't there.

    Raises:
        ConfigError: it can't be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {path} can't be made ({error.strerror}): name another") from None


def _npz(path: Path) -> Mapping[str, Any]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _safetensors(path: Path) -> Mapping[str, Any]:
    try:
        from safetensors.numpy import load_file
    except ImportError:
        raise ConfigError(
            "reading .safetensors takes the package safetensors: pip install safetensors"
        ) from None
    return dict(load_file(path))
