"""A site's own Python, found by a spec: "module:name" or "path/to/file.py:name"."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from shared.errors import ConfigError


def find(spec: str, what: str) -> Any:
    """Imports what `spec` names. Modules of the current folder count, and so do a file's neighbours.

    `what` says in errors what was looked for, such as "trainer".

    Raises:
        ConfigError: the spec is malformed, its module is missing or fails, or has no such name.
    """
    place, colon, name = spec.rpartition(":")
    if not (colon and place and name.isidentifier()):
        raise ConfigError(f"{what} {spec!r} is not of the form MODULE:NAME or FILE.py:NAME")
    module = _from_file(Path(place), what) if place.endswith(".py") else _from_path(place, what)
    if not hasattr(module, name):
        raise ConfigError(f"{what} {spec!r}: {place} has no {name!r}")
    return getattr(module, name)


def _from_path(name: str, what: str) -> ModuleType:
    _search(os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _failed(what, name, error) from error
        raise ConfigError(
            f"{what}: there is no module {name!r}: install it, or start in the folder that holds it"
        ) from None
    except Exception as error:
        raise _failed(what, name, error) from error


def _from_file(file: Path, what: str) -> ModuleType:
    if not file.is_file():
        raise ConfigError(f"{what}: there is no file {file}")
    name = f"site_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{what}: {file} cannot be imported")
    _search(str(file.resolve().parent))
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and their like look their module up by its name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _failed(what, str(file), error) from error
    return module


def _search(folder: str) -> None:
    """Adds a folder behind all others, so that nothing in it hides an installed module."""
    if folder not in sys.path:
        sys.path.append(folder)


def _failed(what: str, place: str, error: Exception) -> ConfigError:
    return ConfigError(f"{what}: {place} cannot be imported: {type(error).__name__}: {error}")
