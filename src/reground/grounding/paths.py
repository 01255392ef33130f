"""Paths as they are from another folder, worked out once for each folder that files are in."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

Move = Callable[[str], str]
"""A path, as it is from another folder."""


def by_folder(move: Move) -> Move:
    """The same move of paths, worked out once for each folder that the files are in."""

    @lru_cache(maxsize=4096)
    def before(folder: str) -> str:
        moved = move(folder)
        return "" if moved == "." else os.path.join(moved, "")

    def own(path: str) -> str:
        folder, slash, name = path.rpartition("/")
        if name in ("", ".", "..") or folder.endswith("/"):
            return move(path)
        return before(folder or slash or ".") + name

    return own


def in_no_folder(exists: Callable[[str], bool]) -> Callable[[str], bool]:
    """Whether a path is in a folder of which ``exists`` says no, which is asked of each once."""
    has_folder = lru_cache(maxsize=4096)(exists)

    def own(path: str) -> bool:
        folder, _, name = path.rpartition("/")
        return bool(folder) and name not in ("", ".", "..") and not has_folder(folder)

    return own


@lru_cache(maxsize=16)
def below(folder: Path) -> Move:
    """Puts ``folder`` before paths that are relative."""
    return by_folder(lambda path: str(folder / path))
