"""One folder for data of strangers: no picture and no file of annotations is opened outside it.

The setting is the environment variable ``REGROUND_CONFINE``, so that ranks, workers and engines of
a command have it too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reground.errors import ConfigError, DataError, shown

CONFINE = "REGROUND_CONFINE"


class OutsideError(DataError):
    """A file that data of strangers name, and that is not theirs to name."""

    help = "outside-of-the-confined-folder"

    kind = "file outside --confine"


def confined(path: str) -> str:
    """The path to open for ``path``: with a setting, where its links lead.

    Raises ``OutsideError`` where that is outside the folder of the setting.
    """
    folder = os.environ.get(CONFINE)
    if not folder or "\0" in path:  # which nothing can be opened by
        return path
    root, real = os.path.realpath(folder), os.path.realpath(path)
    if os.path.commonpath((root, real)) != root:
        raise OutsideError(
            f"{shown(path)}: leads outside {folder}, the folder of --confine; nothing is "
            "opened there: take it out, or confine to a folder that holds it"
        )
    return real


@contextmanager
def confined_to(folder: Path) -> Iterator[None]:
    """The setting, for a while; raises ``ConfigError`` where ``folder`` is none."""
    if not folder.is_dir():
        raise ConfigError(f"--confine {folder}: no such folder; expected one that holds the data")
    before = os.environ.get(CONFINE)
    os.environ[CONFINE] = os.path.realpath(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[CONFINE]
        else:
            os.environ[CONFINE] = before
