"""What makes a sample usable: the one rule that converters write by and the validator checks by."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from reground.data.confine import OutsideError, confined
from reground.data.images import GREY_BITS, MAX_ASPECT, ImageSize, load, split_view
from reground.errors import DataError, shown
from reground.grounding.boxes import Box
from reground.grounding.paths import in_no_folder
from reground.grounding.sample import ImageRef, Sample, Target, is_file_path

MAX_OVERHANG = 0.01  # share of a side; a box that reaches less far outside is clipped
FLAT = 16  # levels of 256; a photo without more in any channel shows next to nothing
FACTOR = 28  # no side of an image may be shorter: patch x merge of Qwen2-VL and Qwen2.5-VL


class Reason(StrEnum):
    """Why a row is set aside."""

    UNREADABLE = "unreadable row"
    DUPLICATE_ID = "duplicate id"
    MISSING_IMAGE = "missing image"
    CORRUPT_IMAGE = "corrupt image"
    CONFINED = OutsideError.kind
    SIZE_DIFFERS = "recorded size differs from the file"
    TOO_SMALL = "side under the factor"
    TOO_LONG = "aspect over 200"
    DEGENERATE = "degenerate box"
    OUTSIDE = "box outside the image"
    SUSPECT_FRAME = "suspect frame"
    PLACEHOLDER = "image placeholder in the question"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a row: the reason, and the numbers or names that show it."""

    reason: Reason
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


_LACKING = Problem(Reason.MISSING_IMAGE, "which may be")
LIKE_THOUSAND = Problem(Reason.SUSPECT_FRAME, "the whole file's boxes look like 0-1000")


@dataclass(slots=True)
class Soundness:
    """Looks at one sample after another; knows the ids so far, and each image's size or problem.

    With ``may_lack`` images may be missing.
    """

    factor: int = FACTOR
    may_lack: bool = False
    _ids: dict[str, str] = field(default_factory=dict)
    _images: dict[str, _Photo | Problem] = field(default_factory=dict)
    _is_gone: Callable[[str], bool] = field(
        default_factory=lambda: in_no_folder(lambda folder: not _lacks(folder))
    )

    def problems(self, sample: Sample, where: str = "another row") -> Iterator[Problem]:
        """Everything wrong with a sample; ``where`` it stands is what later ones are told."""
        yield from self.row_problems(sample, where)
        for image in sample.images:
            if problem := self._file_problem(image):
                yield problem

    def check(self, sample: Sample, where: str) -> None:
        """Raise ``DataError`` for the first thing that is wrong with a sample's row."""
        for problem in self.row_problems(sample, where):
            raise DataError(str(problem))

    def row_problems(self, sample: Sample, where: str = "another row") -> Iterator[Problem]:
        """What is wrong with a sample by its row alone, whatever its pictures are."""
        if first := self._ids.get(sample.id):
            yield Problem(Reason.DUPLICATE_ID, f"{sample.id!r} stands in {first} too")
        self._ids.setdefault(sample.id, where)
        if "<image>" in sample.question:
            yield Problem(Reason.PLACEHOLDER, "images are listed apart; take <image> out")
        for image in sample.images:
            yield from self._side_problems(image)
        for mark in sample.marks:
            yield from _box_problems(mark.box)

    def doubts(self) -> Iterator[str]:
        """Sentences about the photos so far that set none aside, for a person to look at."""
        photos = {path: own for path, own in self._images.items() if isinstance(own, _Photo)}
        if flat := [path for path, own in photos.items() if own.is_flat]:
            yield f"{len(flat)} of {len(photos)} photos are almost of one colour: {_first(flat)}"
        bits = {path: own.bits for path, own in photos.items() if own.bits is not None}
        most = max(bits.values(), default=0)
        if fewer := [path for path, own in bits.items() if own < most]:
            yield (
                f"{len(fewer)} of {len(bits)} photos of 16 bits use fewer than the {most} of the "
                f"others, and are shown brighter: {_first(fewer)}; set {GREY_BITS}={most}"
            )

    def look_at(self, samples: Iterable[Sample]) -> None:
        """Decode the images of ``samples`` on all cores, before they are asked about one by one."""
        files = dict.fromkeys(
            file for each in samples for image in each.images if (file := _file_of(image.path))
        )
        new = [file for file in files if file not in self._images]
        with ThreadPoolExecutor(os.cpu_count()) as workers:  # decoding leaves Python's lock
            self._images.update(zip(new, workers.map(_decoded, new), strict=True))

    def finished(self, sample: Sample) -> Sample:
        """A sample without a problem, its targets clipped to their images."""
        if all(target.box.is_inside for target in sample.targets):
            return sample
        targets = tuple(Target(target.image, target.box.clipped()) for target in sample.targets)
        return replace(sample, targets=targets)

    def image_problems(self, image: ImageRef) -> Iterator[Problem]:
        """Everything wrong with an image, or with the size that is recorded of it."""
        if problem := self._file_problem(image):
            yield problem
        yield from self._side_problems(image)

    def _file_problem(self, image: ImageRef) -> Problem | None:
        found = self._measured(image.path)
        if isinstance(found, Problem):
            lacks = self.may_lack and found.reason is Reason.MISSING_IMAGE
            return None if lacks else found
        if (found.width, found.height) != (image.width, image.height):
            recorded = ImageSize(image.width, image.height)
            return Problem(Reason.SIZE_DIFFERS, f"{image.path} is {found}, recorded {recorded}")
        return None

    def _side_problems(self, image: ImageRef) -> list[Problem]:
        short, long = image.width, image.height
        if short > long:
            short, long = long, short
        if short >= self.factor and long <= MAX_ASPECT * short:
            return []
        recorded = f"{image.path} is {image.width} x {image.height}"
        found: list[Problem] = []
        if short < self.factor:
            found.append(Problem(Reason.TOO_SMALL, f"{recorded}, the factor {self.factor}"))
        if long > MAX_ASPECT * short:
            found.append(Problem(Reason.TOO_LONG, recorded))
        return found

    def _measured(self, path: str) -> ImageSize | Problem:
        """The sides of an image or of a view; its file is decoded once."""
        try:
            file, view = split_view(path)
        except DataError as error:
            return Problem(Reason.CORRUPT_IMAGE, str(error))
        if file not in self._images:
            if self.may_lack and (self._is_gone(file) or _lacks(file)):
                return _LACKING  # not kept: there may be a million
            self._images[file] = _decoded(file)
        found = self._images[file]
        if isinstance(found, Problem):
            return found
        whole = found.size
        if view is None:
            return whole
        if view.right > whole.width or view.lower > whole.height:
            return Problem(
                Reason.CORRUPT_IMAGE, f"{shown(path)}: reaches outside the file's {whole}"
            )
        return ImageSize(view.right - view.left, view.lower - view.upper)


def _file_of(path: str) -> str | None:
    with suppress(DataError):  # of a view without pixels
        return split_view(path)[0]
    return None


@dataclass(frozen=True, slots=True)
class _Photo:
    """What is to know of a decoded file; ``bits`` that are shown where it is grey in 16 bits."""

    size: ImageSize
    bits: int | None
    is_flat: bool


def _lacks(path: str) -> bool:
    with suppress(OutsideError):
        return is_file_path(path) and not os.path.exists(confined(path))
    return False


def _decoded(path: str) -> _Photo | Problem:
    try:
        image = load(path)
        is_flat = bool(np.ptp(image.getextrema(), axis=-1).max() <= FLAT)
        return _Photo(ImageSize(*image.size), image.info.get(GREY_BITS), is_flat)
    except OutsideError as error:
        return Problem(Reason.CONFINED, str(error))
    except DataError as error:
        is_there = not is_file_path(path) or os.path.exists(path)
        reason = Reason.CORRUPT_IMAGE if is_there else Reason.MISSING_IMAGE
        return Problem(reason, str(error))


def _first(paths: Sequence[str], most: int = 3) -> str:
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(paths[:most]) + more


def _box_problems(box: Box) -> list[Problem]:
    found: list[Problem] = []
    if box.is_degenerate:
        found.append(Problem(Reason.DEGENERATE, _shown(box)))
    elif box.x2 <= 1 and box.y2 <= 1 and box.x1 >= 0 and box.y1 >= 0:
        found.append(Problem(Reason.SUSPECT_FRAME, f"{_shown(box)}: numbers look like 0-1"))
    if box.overhang() > MAX_OVERHANG:
        found.append(Problem(Reason.OUTSIDE, _shown(box)))
    return found


def _shown(box: Box) -> str:
    edges = [round(value, 2) for value in box.xyxy]
    return f"{edges} in {box.frame.width} x {box.frame.height}"
