"""Checks every row of a JSONL and its images, and sets aside the rows that cannot be used."""

from __future__ import annotations

import json
import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from reground.data.images import MAX_ASPECT, ImageSize, exists, load
from reground.data.source import save_dataset
from reground.errors import DataError
from reground.grounding.boxes import Box
from reground.grounding.sample import Detection, ImageRef, Sample, Target, relocated
from reground.io import numbered_lines, parse_json

MAX_OVERHANG = 0.01  # share of a side; a box that reaches less far outside is clipped

# Boxes of a right file happen to look like 0-1000 throughout with at most this probability.
_LOG_CHANCE = math.log(1e-6)
# So many of at least this many boxes outside small images mean a wrong frame, not slips.
_OUTSIDE_SHARE, _OUTSIDE_COUNT = 0.2, 5


class Reason(StrEnum):
    """Why a row was set aside."""

    UNREADABLE = "unreadable row"
    DUPLICATE_ID = "duplicate id"
    MISSING_IMAGE = "missing image"
    CORRUPT_IMAGE = "corrupt image"
    SIZE_DIFFERS = "recorded size differs from the file"
    TOO_SMALL = "side under the factor"
    TOO_LONG = "aspect over 200"
    DEGENERATE = "degenerate box"
    OUTSIDE = "box outside the image"
    SUSPECT_FRAME = "suspect frame"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a row: the reason, and the numbers or names that show it."""

    reason: Reason
    detail: str


@dataclass(slots=True)
class Report:
    """What :func:`validate` found. ``reasons`` counts rows; a row may have several reasons."""

    quarantine: Path
    num_rows: int = 0
    num_clean: int = 0
    num_clipped: int = 0
    reasons: Counter[Reason] = field(default_factory=Counter)

    @property
    def num_quarantined(self) -> int:
        """Rows set aside."""
        return self.num_rows - self.num_clean


def validate(path: Path, *, factor: int = 28, out: Path | None = None) -> Report:
    """Check every row of the JSONL ``path`` and decode every image, never stopping at the first.

    Rows with a problem, if any, go to ``<name>.quarantine.jsonl`` beside ``path``, each with its
    line number, its reasons and the row as it stands; the others go to ``out``, if given, with
    boxes clipped to their images. ``factor``: no side of an image may be shorter, in pixels
    (patch x merge of the model family: 28 for Qwen2-VL and Qwen2.5-VL, 32 for Qwen3-VL).

    A frame is suspect where all four numbers of a box are at most 1, and where the file as a whole
    looks like 0-1000: no number above 1000, and either many boxes leave their (smaller) images, or
    boxes in larger images would all keep below 1000 only by a chance of one in a million.

    Raises ``DataError`` where the file is missing or holds no row.
    """
    report = Report(path.with_name(f"{path.stem}.quarantine.jsonl"))
    like_thousand = _like_thousand(row.sample for row in _rows(path) if row.sample)
    with report.quarantine.open("wb") as rejects:
        check = _Check(factor, like_thousand, rejects, report)
        clean = check.clean(_rows(path))
        if out:
            save_dataset(out, clean)
        else:
            deque(clean, maxlen=0)
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
        content = parse_json(line)
        return _Row(number, content, sample=relocated(Sample.from_json(content), folder))
    except DataError as error:
        return _Row(number, content, problem=Problem(Reason.UNREADABLE, str(error)))


def _like_thousand(samples: Iterable[Sample]) -> bool:
    """Whether the file's boxes, declared as pixels, look like 0-1000 as a whole.

    A box's lower right corner lies below 1000 of W pixels with a chance of about 1000 / W at most,
    so the product of these over all different boxes bounds the chance that pixels are meant.
    """
    boxes = {target.box for sample in samples for target in sample.targets}
    if any(max(box.xyxy) > 1000 for box in boxes):
        return False
    sides = [side for box in boxes for side in (box.frame.width, box.frame.height)]
    log_chance = sum(min(0.0, math.log(1000 / side)) for side in sides)
    outside = sum(box.overhang() > MAX_OVERHANG for box in boxes)
    many_outside = outside >= max(_OUTSIDE_COUNT, _OUTSIDE_SHARE * len(boxes))
    return many_outside or log_chance < _LOG_CHANCE


@dataclass(slots=True)
class _Check:
    """Goes through the rows once; knows the ids so far, and each image's size or problem."""

    factor: int
    like_thousand: bool
    rejects: IO[bytes]
    report: Report
    _ids: dict[str, int] = field(default_factory=dict)
    _images: dict[str, ImageSize | Problem] = field(default_factory=dict)

    def clean(self, rows: Iterable[_Row]) -> Iterator[Sample]:
        """The samples without a problem, clipped; the others are written to ``rejects``."""
        for row in rows:
            self.report.num_rows += 1
            if problems := [row.problem] if row.problem else list(self._problems(row)):
                self.report.reasons.update({problem.reason for problem in problems})
                self._reject(row, problems)
            elif row.sample:
                self.report.num_clean += 1
                yield self._finished(row.sample)

    def _reject(self, row: _Row, problems: list[Problem]) -> None:
        reasons = [{"reason": problem.reason, "detail": problem.detail} for problem in problems]
        entry = {"line": row.line, "reasons": reasons, "row": row.content}
        self.rejects.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")

    def _problems(self, row: _Row) -> Iterator[Problem]:
        sample = row.sample
        if sample is None:
            return
        first = self._ids.setdefault(sample.id, row.line)
        if first != row.line:
            yield Problem(Reason.DUPLICATE_ID, f"{sample.id!r} stands in line {first} too")
        for image in sample.images:
            yield from self._image_problems(image)
        found: list[Target | Detection] = [*sample.targets, *(sample.tool_results or ())]
        for target in found:
            yield from _box_problems(target.box)
        if self.like_thousand and sample.targets:
            yield Problem(Reason.SUSPECT_FRAME, "the whole file's boxes look like 0-1000")

    def _image_problems(self, image: ImageRef) -> Iterator[Problem]:
        recorded = ImageSize(image.width, image.height)
        found = self._measured(image.path)
        if isinstance(found, Problem):
            yield found
        elif found != recorded:
            detail = f"{image.path} is {found}, recorded {recorded}"
            yield Problem(Reason.SIZE_DIFFERS, detail)
        short, long = sorted((recorded.width, recorded.height))
        if short < self.factor:
            detail = f"{image.path} is {recorded}, the factor {self.factor}"
            yield Problem(Reason.TOO_SMALL, detail)
        if long > MAX_ASPECT * short:
            yield Problem(Reason.TOO_LONG, f"{image.path} is {recorded}")

    def _measured(self, path: str) -> ImageSize | Problem:
        if path not in self._images:
            self._images[path] = _decoded(path)
        return self._images[path]

    def _finished(self, sample: Sample) -> Sample:
        targets = tuple(Target(target.image, target.box.clipped()) for target in sample.targets)
        self.report.num_clipped += targets != sample.targets
        return replace(sample, targets=targets)


def _decoded(path: str) -> ImageSize | Problem:
    if not exists(path):
        return Problem(Reason.MISSING_IMAGE, path)
    try:
        return ImageSize(*load(path).size)
    except DataError as error:
        return Problem(Reason.CORRUPT_IMAGE, str(error))


def _box_problems(box: Box) -> Iterator[Problem]:
    detail = f"{[round(value, 2) for value in box.xyxy]} in {box.frame.width} x {box.frame.height}"
    if box.is_degenerate:
        yield Problem(Reason.DEGENERATE, detail)
    if box.overhang() > MAX_OVERHANG:
        yield Problem(Reason.OUTSIDE, detail)
    if not box.is_degenerate and min(box.xyxy) >= 0 and max(box.xyxy) <= 1:
        yield Problem(Reason.SUSPECT_FRAME, f"{detail}: numbers look like 0-1")
