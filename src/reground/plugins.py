"""What others add without a change here: a package by its entry points, a user by a file's path."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from reground.errors import ConfigError, did_you_mean


@cache
def installed(group: str) -> dict[str, EntryPoint]:
    """What installed packages register under the entry points ``reground.GROUP``, by name.

    >>> installed("no_such_group")
    {}
    """
    return {each.name: each for each in entry_points(group=f"reground.{group}")}


def from_path(spec: str) -> Any:
    """The object that ``FILE.py:NAME`` names, such as ``my_rewards.py:centre``.

    Raises ``ConfigError`` where there is no such file, where it fails when it is imported, and
    where it holds no such name.
    """
    file, colon, name = spec.rpartition(":")
    path = Path(file)
    if not colon or path.suffix != ".py" or not name.isidentifier():
        raise ConfigError(f"{spec!r}: expected FILE.py:NAME, such as my_rewards.py:centre")
    if not path.is_file():
        raise ConfigError(f"{spec}: no such file; expected a Python file that holds {name}")
    module = _imported(path)
    if not hasattr(module, name):
        public = [each for each in vars(module) if not each.startswith("_")]
        raise ConfigError(f"{spec}: {path} holds no {name!r}; {did_you_mean(name, public)}")
    return getattr(module, name)


def _imported(path: Path) -> ModuleType:
    """The module in ``path``, executed once a process."""
    known = f"reground_user_{abs(hash(str(path.resolve())))}"
    if known in sys.modules:
        return sys.modules[known]
    spec = importlib.util.spec_from_file_location(known, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[known] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[known]
        raise ConfigError(
            f"{path}: fails when it is imported ({type(error).__name__}: {error}); mend the file"
        ) from error
    return module
