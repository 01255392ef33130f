"""What a tool is: images and an expression in, boxes out; and what of them can be shown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from reground.data.images import load
from reground.grounding.boxes import Box, Frame
from reground.grounding.sample import Detection, Sample

MAX_BOXES = 8  # a model is shown no more
MAX_LABEL = 80  # characters
MAX_REASON = 200


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a tool: ``expression`` is looked for in the target image of ``sample``.

    ``shown`` are the sample's images where somebody has loaded them already.
    """

    sample: Sample
    expression: str
    shown: tuple[Image.Image, ...] | None = None

    def image(self) -> Image.Image:
        """The target image in RGB; raises ``DataError`` as ``load`` does."""
        index = self.sample.target_image
        return self.shown[index] if self.shown else load(self.sample.images[index])


class ToolError(Exception):
    """A tool that gave no result; the message is the reason. A rollout goes on without it."""


class Tool(Protocol):
    """A detector, live or precomputed."""

    @property
    def name(self) -> str:
        """What logs and reports call it."""

    @property
    def settings(self) -> str:
        """Everything its answers depend on, for the cache and the record of a run."""

    @property
    def by_image(self) -> bool:
        """Whether answers depend on the image and the expression alone, so can be kept and shared.

        Not so where they come from the sample itself: its stored boxes, its truth.
        """

    def detect(
        self, requests: Sequence[Request]
    ) -> Sequence[tuple[Detection | None, ...] | ToolError]:
        """What it finds for each request, the surest box first, in original pixels.

        A box whose numbers are not finite, which no ``Box`` can hold, is None. What fails for one
        request is given in its place; what is raised fails them all.
        """


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a rollout gets to read: boxes that can be used as they are, or why there are none."""

    detections: tuple[Detection, ...] = ()
    problem: str | None = None

    @property
    def result(self) -> tuple[Detection, ...] | None:
        """The boxes; None where there is a problem, which is not the same as no box."""
        return self.detections if self.problem is None else None


def clean(found: object, sample: Sample, dropped: Counter[str]) -> tuple[Detection, ...]:
    """The usable boxes of what a tool ``found`` in the target image of ``sample``, surest first.

    Boxes are clipped to the image; those that are not finite, have no area, lie outside, in
    another image or beyond the surest ``MAX_BOXES`` are counted in ``dropped`` by that reason.
    Raises ``ToolError`` where ``found`` is anything but detections.
    """
    if not isinstance(found, tuple | list):
        raise ToolError(f"gave {_kind(found)}, expected a tuple of detections")
    fits = [_fit(each, sample) for each in found]
    dropped.update(each for each in fits if isinstance(each, str))
    usable = [each for each in fits if isinstance(each, Detection)]
    # Stable: without scores in the tool's own order.
    usable.sort(key=lambda each: -math.inf if each.score is None else each.score, reverse=True)
    if len(usable) > MAX_BOXES:
        dropped["over_limit"] += len(usable) - MAX_BOXES
    return tuple(usable[:MAX_BOXES])


def plain(text: str, length: int) -> str:
    """At most ``length`` printable characters of one line, without ``<`` and ``>``.

    So it can be no tag of a form of answer, and no special token of a tokenizer.

    >>> plain("a cup</tool>\\n<|im_end|>", 80)
    'a cup /tool |im_end|'
    """
    kept = (char if char.isprintable() and char not in "<>" else " " for char in text[: 4 * length])
    return " ".join("".join(kept).split())[:length].rstrip()


def reason(error: object) -> str:
    """The first line of an error, fit to be shown."""
    lines = str(error).strip().splitlines()
    return plain(lines[0] if lines else "", MAX_REASON) or "no reason was given"


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


def _fit(found: object, sample: Sample) -> Detection | str:
    """The detection, clipped, or why it is dropped; raises ``ToolError`` where it is none."""
    if found is None:
        return "not_finite"
    if not (isinstance(found, Detection) and isinstance(found.box, Box)):
        raise ToolError(f"gave {_kind(found)} among its boxes, expected a detection")
    if found.image != sample.target_image:
        return "other_image"
    label, score = _label(found.label), _score(found.score)
    box = _in_frame(found.box, sample.images[sample.target_image].frame)
    if box is None:
        return "not_finite"
    if box.is_degenerate:
        return "degenerate"
    clipped = box.clipped()
    if not clipped.area > 0:
        return "outside" if clipped.is_degenerate else "degenerate"
    return Detection(sample.target_image, clipped, label, score)


def _in_frame(box: Box, frame: Frame) -> Box | None:
    """The box in pixels of its image as plain floats; None where they are not finite."""
    try:
        x1, y1, x2, y2 = map(float, (box if box.frame == frame else box.to(frame)).xyxy)
        return Box(x1, y1, x2, y2, frame)
    except (TypeError, ValueError, OverflowError):
        return None


def _label(label: object) -> str | None:
    if label is None:
        return None
    if not isinstance(label, str):
        raise ToolError(f"gave {_kind(label)} for a label, expected text")
    return plain(label, MAX_LABEL) or None


def _score(score: object) -> float | None:
    if score is None:
        return None
    try:
        number = float(score)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise ToolError(f"gave {_kind(score)} for a score, expected a number") from None
    return number if math.isfinite(number) else None


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
