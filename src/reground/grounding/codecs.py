"""How boxes become text: in which frame, in which grammar, to how many decimals.

:meth:`Codec.spell` writes boxes; :func:`reground.grounding.answers.parse` reads them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from reground.errors import ConfigError, DataError
from reground.grounding.boxes import (
    BINS,
    OF_999,
    OF_1024,
    PATCHES,
    THOUSAND,
    UNIT,
    Box,
    Frame,
    FrameKind,
)
from reground.grounding.grammars import LARGEST, Grammar, spell

FORM_TAG = re.compile(r"<(/?)(think|rethink|answer|function|tool)>")


class Form(StrEnum):
    """What surrounds the boxes of an answer."""

    DIRECT = "direct"  # nothing
    THINK = "think"  # <think>..</think><answer>..</answer>
    THINK_RETHINK = "think_rethink"  # think, perhaps function and tool, rethink, answer


@dataclass(frozen=True, slots=True)
class PixelLimits:
    """The fewest and most pixels that an image is to be encoded at; None leaves the model's own.

    Raises ``ConfigError`` for limits below 1 and for two that contradict each other.

    >>> PixelLimits(most=401_408).over(PixelLimits(3136, 640_000))
    PixelLimits(fewest=3136, most=401408)
    """

    fewest: int | None = None
    most: int | None = None

    def __post_init__(self) -> None:
        for name, limit in (("min_pixels", self.fewest), ("max_pixels", self.most)):
            if limit is not None and limit < 1:
                raise ConfigError(f"{name} {limit}: expected at least 1", help="limits-of-pixels")
        if self.fewest is not None and self.most is not None and self.fewest > self.most:
            raise ConfigError(
                f"min_pixels {self.fewest} is above max_pixels {self.most}; set both so that they "
                "agree",
                help="limits-of-pixels",
            )

    def over(self, other: PixelLimits) -> PixelLimits:
        """These, and where one is not set that of ``other``."""
        return PixelLimits(
            other.fewest if self.fewest is None else self.fewest,
            other.most if self.most is None else self.most,
        )

    def resized(self, width: int, height: int, *, factor: int) -> tuple[int, int]:
        """Width and height that an image is encoded at: multiples of ``factor``, in proportion.

        ``factor`` is patch x merge: 28 for Qwen2-VL and Qwen2.5-VL, 32 for Qwen3-VL. Source:
        ``smart_resize`` of transformers and qwen-vl-utils.

        >>> PixelLimits(most=1_003_520).resized(4000, 3000, factor=28)
        (1148, 840)
        >>> PixelLimits(fewest=200_704).resized(320, 240, factor=28)
        (532, 392)
        """
        own = width, height
        sides = [max(factor, round(side / factor) * factor) for side in own]
        pixels = sides[0] * sides[1]
        if self.most is not None and pixels > self.most:
            shrink = math.sqrt(width * height / self.most)
            sides = [max(factor, math.floor(side / shrink / factor) * factor) for side in own]
        elif self.fewest is not None and pixels < self.fewest:
            grow = math.sqrt(self.fewest / (width * height))
            sides = [math.ceil(side * grow / factor) * factor for side in own]
        return sides[0], sides[1]


@dataclass(frozen=True, slots=True)
class EncodedSize:
    """The recorded size of one encoded image: of its file, and of what the model saw, in pixels."""

    width: int
    height: int
    input_width: int
    input_height: int

    @property
    def pixels(self) -> Frame:
        """The frame of original pixels."""
        return Frame.pixels(self.width, self.height)

    def frame(self, kind: FrameKind) -> Frame:
        """The frame of ``kind`` of this image."""
        match kind:
            case FrameKind.PIXELS:
                return self.pixels
            case FrameKind.INPUT:
                return Frame.input(self.input_width, self.input_height)
            case FrameKind.THOUSAND:
                return THOUSAND
            case FrameKind.UNIT:
                return UNIT
            case FrameKind.SQUARE:
                return Frame.square(self.width, self.height)
            case FrameKind.OF_999:
                return OF_999
            case FrameKind.OF_1024:
                return OF_1024
            case FrameKind.BINS:
                return BINS
            case FrameKind.PATCHES:
                return PATCHES


@dataclass(frozen=True, slots=True)
class Codec:
    """The frame of a model's boxes, their grammar, and the decimals of their numbers."""

    frame: FrameKind
    grammar: Grammar
    decimals: int = 0

    def spell(self, boxes: Sequence[Box], *, size: EncodedSize) -> str:
        """``boxes`` (original pixels of the image of ``size``) as text.

        Numbers are rounded to units of the last decimal, so that an edge moves by at most half a
        unit; by a whole one at an edge of the image that no number hits (CogVLM has no 1000, the
        edge of a padded image can lie between two numbers). A box with an area keeps one: where
        rounding would take it, the box is widened to one unit. An empty list is ``[]`` in JSON and
        ``none`` elsewhere. Raises ``DataError`` for a box without area inside the image and
        ``ValueError`` for a box of another frame.

        >>> size = EncodedSize(640, 480, 644, 476)
        >>> box = Box(64, 120, 320, 360, size.pixels)
        >>> Codec(FrameKind.THOUSAND, Grammar.PAIRS).spell([box], size=size)
        '(100,250),(500,750)'
        """
        units = [self.units(box, size=size) for box in boxes]
        return spell(units, self.grammar, decimals=self.decimals)

    def units(self, box: Box, *, size: EncodedSize) -> list[int]:
        """The numbers of a box, counted in units of the last decimal; see :meth:`spell`."""
        if box.frame != size.pixels:
            raise ValueError(f"a gold box must be in {size.pixels}, found {box.frame}")
        inside = box.clipped()
        if inside.is_degenerate:
            raise DataError(
                f"a true box {box.xyxy} has no area inside its {size.width} x {size.height} image; "
                "mend the row, or let `reground data validate` set it aside"
            )
        frame, scale = size.frame(self.frame), 10**self.decimals
        x1, y1, x2, y2 = (scale * edge for edge in inside.to(frame).xyxy)
        right, lower = scale * (frame.left + frame.width), scale * (frame.upper + frame.height)
        if (most := LARGEST.get(self.grammar)) is not None:
            right, lower = min(right, most), min(lower, most)
        x1, x2 = _round_edges(x1, x2, scale * frame.left, right)
        y1, y2 = _round_edges(y1, y2, scale * frame.upper, lower)
        return [x1, y1, x2, y2]


def _round_edges(low: float, high: float, first: float, last: float) -> tuple[int, int]:
    """``low`` and ``high`` as different integers from ``first`` to ``last``."""
    least, most = math.ceil(first - 1e-6), math.floor(last + 1e-6)
    lower, upper = max(round(low), least), min(round(high), most)
    if lower < upper:
        return lower, upper
    lower = max(min(math.floor(low), most - 1), least)
    return lower, lower + 1
