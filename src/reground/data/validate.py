"""Checks every row of a JSONL and its images, and sets aside the rows that cannot be used."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

from reground.data.frames import Boxes
from reground.data.images import sides
from reground.data.soundness import FACTOR, LIKE_THOUSAND, Problem, Reason, Soundness
from reground.data.source import save_dataset
from reground.errors import DataError
from reground.grounding.sample import Sample, read_row
from reground.io import numbered_lines, parse_row

_BATCH = 256  # rows whose images are decoded together


@dataclass(slots=True)
class Report:
    """What :func:`validate` found. ``reasons`` counts rows; a row may have several reasons.

    ``doubts`` are sentences about the whole file, for a person to look at.
    """

    quarantine: Path
    num_rows: int = 0
    num_clean: int = 0
    num_clipped: int = 0
    reasons: Counter[Reason] = field(default_factory=Counter)
    doubts: list[str] = field(default_factory=list)

    @property
    def num_quarantined(self) -> int:
        """Rows set aside."""
        return self.num_rows - self.num_clean


def validate(path: Path, *, factor: int = FACTOR, out: Path | None = None) -> Report:
    """Check every row of the JSONL ``path`` and decode every image, never stopping at the first.

    Rows with a problem, if any, go to ``<name>.quarantine.jsonl`` beside ``path``, each with its
    line number, its reasons and the row as it stands; the others go to ``out``, if given, with
    boxes clipped to their images. ``factor``: no side of an image may be shorter, in pixels
    (patch x merge of the model family: 28 for Qwen2-VL and Qwen2.5-VL, 32 for Qwen3-VL).

    A frame is suspect where all four numbers of a box are at most 1, and where the file as a whole
    looks like 0-1000: no number above 1000, and either many boxes leave their (smaller) images, or
    boxes in larger images would all keep below 1000 only by a chance of one in a million. Doubts
    that set no row aside (boxes that look like those of a resized copy, photos of one colour or of
    other bits than the rest) are sentences of the report.

    Raises ``DataError`` where the file is missing or holds no row.
    """
    report = Report(path.with_name(f"{path.stem}.quarantine.jsonl"))
    boxes = Boxes.of(row.sample for row in _rows(path) if row.sample)
    like_thousand, soundness = boxes.like_thousand(), Soundness(factor)
    with report.quarantine.open("wb") as rejects:
        check = _Check(soundness, like_thousand, rejects, report)
        clean = check.clean(_rows(path))
        if out:
            save_dataset(out, clean)
        else:
            deque(clean, maxlen=0)
    report.doubts += [] if like_thousand else boxes.doubts()
    report.doubts += soundness.doubts()
    if not report.num_quarantined:
        report.quarantine.unlink()
    if not report.num_rows:
        raise DataError(f"{path}: holds no row; expected one JSON object a line")
    return report


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of the file: its number, its content, and the sample or what is wrong instead."""

    line: int
    content: Any
    sample: Sample | None = None
    problem: Problem | None = None


def _rows(path: Path) -> Iterator[_Row]:
    lines = numbered_lines(path, expected="a JSONL as `reground data convert` writes")
    return (_parsed(number, line, path.parent) for number, line in lines if not line.isspace())


def _parsed(number: int, line: bytes, folder: Path) -> _Row:
    content: Any = line.decode("utf-8", errors="replace").rstrip("\n")
    try:
        content = parse_row(line)
        return _Row(number, content, sample=read_row(content, folder, sides))
    except DataError as error:
        return _Row(number, content, problem=Problem(Reason.UNREADABLE, str(error)))


@dataclass(slots=True)
class _Check:
    """Goes through the rows once."""

    soundness: Soundness
    like_thousand: bool
    rejects: IO[bytes]
    report: Report

    def clean(self, rows: Iterable[_Row]) -> Iterator[Sample]:
        """The samples without a problem, clipped; the others are written to ``rejects``."""
        for row in self._looked_at(rows):
            self.report.num_rows += 1
            if problems := [row.problem] if row.problem else list(self._problems(row)):
                self.report.reasons.update({problem.reason for problem in problems})
                self._reject(row, problems)
            elif row.sample:
                self.report.num_clean += 1
                finished = self.soundness.finished(row.sample)
                self.report.num_clipped += finished != row.sample
                yield finished

    def _looked_at(self, rows: Iterable[_Row]) -> Iterator[_Row]:
        """The rows, after a look at the images of so many together."""
        rows = iter(rows)
        while batch := list(islice(rows, _BATCH)):
            self.soundness.look_at(row.sample for row in batch if row.sample)
            yield from batch

    def _reject(self, row: _Row, problems: list[Problem]) -> None:
        reasons = [{"reason": problem.reason, "detail": problem.detail} for problem in problems]
        entry = {"line": row.line, "reasons": reasons, "row": row.content}
        self.rejects.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")

    def _problems(self, row: _Row) -> Iterator[Problem]:
        if row.sample is None:
            return
        yield from self.soundness.problems(row.sample, f"row {self.report.num_rows}")
        if self.like_thousand and row.sample.targets:
            yield LIKE_THOUSAND
