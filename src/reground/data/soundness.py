"""What makes a sample usable: the one rule that converters write by and the validator checks by."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum

from reground.data.images import MAX_ASPECT, ImageSize, exists, load, split_view
from reground.errors import DataError
from reground.grounding.boxes import Box
from reground.grounding.sample import Detection, ImageRef, Sample, Target

MAX_OVERHANG = 0.01  # share of a side; a box that reaches less far outside is clipped
FACTOR = 28  # no side of an image may be shorter: patch x merge of Qwen2-VL and Qwen2.5-VL


class Reason(StrEnum):
    """Why a row is set aside."""

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
    PLACEHOLDER = "image placeholder in the question"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a row: the reason, and the numbers or names that show it."""

    reason: Reason
    detail: str


@dataclass(slots=True)
class Soundness:
    """Looks at one sample after another; knows the ids so far, and each image's size or problem.

    With ``may_lack`` images may be missing.
    """

    factor: int = FACTOR
    may_lack: bool = False
    _ids: dict[str, str] = field(default_factory=dict)
    _images: dict[str, ImageSize | Problem] = field(default_factory=dict)

    def problems(self, sample: Sample, where: str = "another row") -> Iterator[Problem]:
        """Everything wrong with a sample; ``where`` it stands is what later ones are told."""
        if first := self._ids.get(sample.id):
            yield Problem(Reason.DUPLICATE_ID, f"{sample.id!r} stands in {first} too")
        self._ids.setdefault(sample.id, where)
        if "<image>" in sample.question:
            yield Problem(Reason.PLACEHOLDER, "images are listed apart; take <image> out")
        for image in sample.images:
            yield from self._image_problems(image)
        found: list[Target | Detection] = [*sample.targets, *(sample.tool_results or ())]
        for target in found:
            yield from _box_problems(target.box)

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
        if all(target.box.overhang() == 0 for target in sample.targets):
            return sample
        targets = tuple(Target(target.image, target.box.clipped()) for target in sample.targets)
        return replace(sample, targets=targets)

    def _image_problems(self, image: ImageRef) -> Iterator[Problem]:
        found = self._measured(image.path)
        recorded = f"{image.width} x {image.height}"
        if isinstance(found, Problem):
            if not (self.may_lack and found.reason is Reason.MISSING_IMAGE):
                yield found
        elif (found.width, found.height) != (image.width, image.height):
            yield Problem(Reason.SIZE_DIFFERS, f"{image.path} is {found}, recorded {recorded}")
        short, long = sorted((image.width, image.height))
        if short < self.factor:
            detail = f"{image.path} is {recorded}, the factor {self.factor}"
            yield Problem(Reason.TOO_SMALL, detail)
        if long > MAX_ASPECT * short:
            yield Problem(Reason.TOO_LONG, f"{image.path} is {recorded}")

    def _measured(self, path: str) -> ImageSize | Problem:
        """The sides of an image or of a view; its file is decoded once."""
        try:
            file, view = split_view(path)
        except DataError as error:
            return Problem(Reason.CORRUPT_IMAGE, str(error))
        if file not in self._images:
            self._images[file] = _decoded(file)
        whole = self._images[file]
        if view is None or isinstance(whole, Problem):
            return whole
        if view.right > whole.width or view.lower > whole.height:
            return Problem(Reason.CORRUPT_IMAGE, f"{path}: reaches outside the file's {whole}")
        return ImageSize(view.right - view.left, view.lower - view.upper)


def _file_of(path: str) -> str | None:
    with suppress(DataError):  # of a view without pixels
        return split_view(path)[0]
    return None


def _decoded(path: str) -> ImageSize | Problem:
    try:
        if not exists(path):
            return Problem(Reason.MISSING_IMAGE, path)
        return ImageSize(*load(path).size)
    except DataError as error:
        return Problem(Reason.CORRUPT_IMAGE, str(error))


def _box_problems(box: Box) -> Iterator[Problem]:
    if box.is_degenerate:
        yield Problem(Reason.DEGENERATE, _shown(box))
    elif min(box.x1, box.y1) >= 0 and max(box.x2, box.y2) <= 1:
        yield Problem(Reason.SUSPECT_FRAME, f"{_shown(box)}: numbers look like 0-1")
    if box.overhang() > MAX_OVERHANG:
        yield Problem(Reason.OUTSIDE, _shown(box))


def _shown(box: Box) -> str:
    edges = [round(value, 2) for value in box.xyxy]
    return f"{edges} in {box.frame.width} x {box.frame.height}"
