"""Answers read in every frame and both corner orders, to see a mismatch at once.

A reading that beats the declared one by far says that frames or corners were mixed up somewhere.
No score ever uses it: a score reads answers in the frame that the family declares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from reground.evaluation.records import Prediction
from reground.grounding.boxes import Box, FrameKind, iou
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import Sample
from reground.protocols.protocol import AnswerProtocol

_ENDLESS = EncodedSize(10**9, 10**9, 10**9, 10**9)  # in which no number is outside
TRIED = (  # others differ from one of them by less than an answer's rounding
    FrameKind.PIXELS,
    FrameKind.INPUT,
    FrameKind.THOUSAND,
    FrameKind.UNIT,
    FrameKind.SQUARE,
)
CLEAR = 0.1  # of mean IoU: a lead that is no accident


@dataclass(frozen=True, slots=True)
class FrameFit:
    """The mean IoU of all answers if their numbers were of ``frame``, corners swapped or not."""

    frame: FrameKind
    swapped: bool  # y before x
    declared: bool
    mean_iou: float

    @property
    def name(self) -> str:
        """As a person would say it."""
        return f"{self.frame}, {'y before x' if self.swapped else 'x before y'}"


def diagnose(
    predictions: Sequence[Prediction], protocol_for: Callable[[Sample], AnswerProtocol]
) -> list[FrameFit]:
    """Every reading of the first box of each answer, best first; the declared one on a tie.

    An answer without a box that can be read, and a sample without a true box, count 0.
    """
    boxes = [_numbers(row, protocol_for) for row in predictions if row.error is None]
    own_frame = protocol_for(predictions[0].sample).codec.frame
    asked = [row for row in predictions if row.error is None]
    readings = []
    for frame in dict.fromkeys((*TRIED, own_frame)):
        for swapped in (False, True):
            total = sum(
                _overlap(found[0], row, frame, swapped)
                for found, row in zip(boxes, asked, strict=True)
                if found and row.sample.boxes
            )
            declared = frame is own_frame and not swapped
            readings.append(FrameFit(frame, swapped, declared, total / max(1, len(asked))))
    return sorted(readings, key=lambda own: (-own.mean_iou, not own.declared))


def _numbers(row: Prediction, protocol_for: Callable[[Sample], AnswerProtocol]) -> tuple[Box, ...]:
    """The boxes of an answer with the very numbers that it holds."""
    own = protocol_for(row.sample)
    plain = replace(own, codec=replace(own.codec, frame=FrameKind.PIXELS))
    return plain.read(row.text, _ENDLESS).boxes


def describe(readings: Sequence[FrameFit]) -> str:
    """A line for every reading, then the verdict."""
    lines = [
        f"  {own.mean_iou:.3f}  {own.name}{'  <- declared' if own.declared else ''}"
        for own in readings
    ]
    return "\n".join([*lines, verdict(readings)])


def verdict(readings: Sequence[FrameFit]) -> str:
    """What the readings say, in one sentence."""
    best, declared = readings[0], next(own for own in readings if own.declared)
    if best.mean_iou - declared.mean_iou > CLEAR:
        return (
            f"frame mismatch: the answers fit best as {best.name} (mean IoU {best.mean_iou:.3f}), "
            f"but are scored as {declared.name} ({declared.mean_iou:.3f})"
        )
    return f"no mismatch: the answers fit as declared, {declared.name} ({declared.mean_iou:.3f})"


def _overlap(found: Box, row: Prediction, kind: FrameKind, swapped: bool) -> float:
    size = row.sizes[row.sample.target_image]
    x1, y1, x2, y2 = found.xyxy
    numbers = (y1, x1, y2, x2) if swapped else (x1, y1, x2, y2)
    box = Box(*numbers, size.frame(kind)).clipped().to(size.pixels)
    return iou(box, row.sample.boxes[0])
