"""Answers of tools kept on disk, so that nothing is asked twice, by whatever process."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reground.errors import DataError
from reground.grounding.boxes import Box
from reground.grounding.sample import Detection, Sample
from reground.rollout.tools.cleaning import clean
from reground.rollout.tools.tool import ToolError

_LOG = logging.getLogger(__name__)
_WAIT_S = 60.0  # for another process that writes


@dataclass(slots=True)
class Cache:
    """Texts by key in ``folder/tools.sqlite``, which several processes may share.

    Every access is a connection of its own: none is carried over to a thread or a forked process.
    What fails later, as a full disk, is logged once; then nothing is kept any more. Raises
    ``DataError`` where there can be no such file.
    """

    folder: Path
    _works: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._open() as db:
                db.execute("PRAGMA journal_mode=WAL")  # readers do not wait for a writer
                db.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT)")
        except (sqlite3.Error, OSError) as error:
            raise DataError(
                f"{self.path}: cannot keep answers of tools there ({error}); "
                "delete the file, or name another folder"
            ) from None

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / "tools.sqlite"

    def get(self, keys: Sequence[str]) -> dict[str, str]:
        """What is kept, of these keys."""
        found: dict[str, str] = {}
        if self._works:
            with self._failing_once(), self._open() as db:
                for key in keys:
                    row = db.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
                    if row:
                        found[key] = str(row[0])
        return found

    def put(self, replies: Mapping[str, str]) -> None:
        """Keep texts by their keys, all or none."""
        if self._works and replies:
            with self._failing_once(), self._open() as db:
                db.executemany("INSERT OR REPLACE INTO replies VALUES (?, ?)", replies.items())

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=_WAIT_S)) as db, db:
            yield db

    @contextmanager
    def _failing_once(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            self._works = False
            _LOG.warning("%s: %s; answers of tools are kept no longer", self.path, error)


def to_rows(detections: Sequence[Detection]) -> list[list[Any]]:
    """Edges in original pixels, label and score of each, for JSON."""
    return [[*each.box.xyxy, each.label, each.score] for each in detections]


def from_rows(rows: object, sample: Sample) -> tuple[Detection, ...] | None:
    """The inverse, in the target image of ``sample``; None for anything but such rows."""
    image = sample.target_image
    frame = sample.images[image].frame
    try:
        found = tuple(
            Detection(image, Box(x1, y1, x2, y2, frame), label, score)
            for x1, y1, x2, y2, label, score in rows  # type: ignore[attr-defined]
        )
        return clean(found, sample, Counter()) if isinstance(rows, list) else None
    except (TypeError, ValueError, ToolError):
        return None
