"""A disk that is full, told in one sentence, whichever library was writing."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reground.errors import RunError, UserError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FULL_IN_WORDS = tuple(f"(os error {number})" for number in _FULL)  # as libraries in Rust say it


@contextmanager
def room_in(folder: Path) -> Iterator[None]:
    """Raises ``RunError`` where what is written, as a rule below ``folder``, finds a full disk."""
    try:
        yield
    except UserError:  # told already
        raise
    except Exception as error:
        full = next((each for each in _chain(error) if _is_full(each)), None)
        if full is None:
            raise
        where = Path(str(getattr(full, "filename", None) or folder))
        raise RunError(
            f"{where}: no space is left on its disk ({_free_mib(where):.0f} MiB are free now), or "
            "its quota is used up; make room, then give the same command with --resume: what was "
            "saved before is whole"
        ) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that it replaced: torch tells of a full disk in its own words."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL
    return str(error).endswith(_FULL_IN_WORDS)


def _free_mib(path: Path) -> float:
    path = path.absolute()
    existing = next(each for each in (path, *path.parents) if each.exists())
    return shutil.disk_usage(existing).free / 2**20
