"""Answers read in every frame and both corner orders, to see a mismatch at once.

No score or reward ever uses it: these read answers in the frame that the family declares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from reground.grounding.boxes import Box, FrameKind, iou
from reground.grounding.codecs import EncodedSize
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
class Reading:
    """What an answer's numbers may count, and in which order."""

    frame: FrameKind
    swapped: bool = False  # y before x

    @property
    def name(self) -> str:
        """As a person would say it."""
        return f"{self.frame}, {'y before x' if self.swapped else 'x before y'}"

    @property
    def key(self) -> str:
        """As a metric is called."""
        return f"{self.frame}_yx" if self.swapped else str(self.frame)


def overlaps(
    text: str, protocol: AnswerProtocol, size: EncodedSize, truth: Box | None
) -> Mapping[Reading, float]:
    """IoU of an answer's first box with ``truth`` (pixels), by every reading; the declared first.

    0 without a box that can be read, and without a true one.
    """
    declared = protocol.codec.frame
    plain = replace(protocol, codec=replace(protocol.codec, frame=FrameKind.PIXELS))
    found = plain.read(text, _ENDLESS).boxes[:1]  # with the very numbers that the text holds
    return {
        Reading(frame, swapped): _overlap(found[0], frame, swapped, size, truth)
        if found and truth
        else 0.0
        for frame in dict.fromkeys((declared, *TRIED))
        for swapped in (False, True)
    }


def _overlap(found: Box, kind: FrameKind, swapped: bool, size: EncodedSize, truth: Box) -> float:
    x1, y1, x2, y2 = found.xyxy
    numbers = (y1, x1, y2, x2) if swapped else (x1, y1, x2, y2)
    return iou(Box(*numbers, size.frame(kind)).clipped().to(size.pixels), truth)
