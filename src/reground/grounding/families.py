"""What each model family writes: the frame of its boxes, how it spells them, what stands around.

:meth:`Family.render` writes the gold answer; :func:`reground.grounding.answers.parse` reads one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from reground.errors import ConfigError, DataError, did_you_mean
from reground.grounding.boxes import THOUSAND, UNIT, Box, Frame, FrameKind

NO_BOX = "none"  # how the grammars of bare numbers spell an explicit empty list
FORM_TAG = re.compile(r"<(/?)(think|rethink|answer|function|tool)>")


class Grammar(StrEnum):
    """How boxes are spelt."""

    BOX_TOKENS = "box_tokens"  # <|box_start|>(x1,y1),(x2,y2)<|box_end|>, one box a line
    PAIRS = "pairs"  # (x1,y1),(x2,y2), one box a line
    JSON = "json"  # [{"bbox_2d": [x1, y1, x2, y2], ...}, ...], fenced or not


class Form(StrEnum):
    """What stands around the boxes."""

    DIRECT = "direct"  # nothing
    THINK = "think"  # <think>..</think><answer>..</answer>
    THINK_RETHINK = "think_rethink"  # think, perhaps function and tool, rethink, answer


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


@dataclass(frozen=True, slots=True)
class Family:
    """One way of answering: frame, grammar and form, and the prompt profile that asks for it."""

    name: str
    frame: FrameKind
    grammar: Grammar
    form: Form
    prompt: str

    def render(
        self,
        boxes: Sequence[Box],
        *,
        size: EncodedSize,
        think: str | None = None,
        rethink: str | None = None,
    ) -> str:
        """The gold answer for ``boxes`` (original pixels of the image of ``size``).

        Numbers are integers of the family's frame, and a box with an area keeps one: where rounding
        would take it, the box is widened to one unit. An empty list is ``[]`` in JSON and ``none``
        elsewhere. Forms without a think or rethink block leave those texts out. Raises
        ``DataError`` for a box without area inside the image, and for a chain that holds the tags
        of the form; ``ValueError`` for a box of another frame.

        >>> size = EncodedSize(640, 480, 644, 476)
        >>> box = Box(64, 120, 320, 360, size.pixels)
        >>> FAMILIES["univg_r1"].render([box], size=size, think="The left one.")
        '<think>The left one.</think><answer>(100,250),(500,750)</answer>'
        """
        frame = size.frame(self.frame)
        answer = _spell([_to_integers(box, size, frame) for box in boxes], self.grammar)
        match self.form:
            case Form.DIRECT:
                return answer
            case Form.THINK:
                return _block("think", think) + f"<answer>{answer}</answer>"
            case Form.THINK_RETHINK:
                thoughts = _block("think", think) + "\n" + _block("rethink", rethink)
                return thoughts + f"\n<answer>{answer}</answer>"


FAMILIES = {
    family.name: family
    for family in (
        Family("qwen2_vl", FrameKind.THOUSAND, Grammar.BOX_TOKENS, Form.DIRECT, "qwen2_vl"),
        Family("qwen2_5_vl", FrameKind.INPUT, Grammar.JSON, Form.DIRECT, "qwen2_5_vl"),
        Family("qwen3_vl", FrameKind.THOUSAND, Grammar.JSON, Form.DIRECT, "qwen3_vl"),
        Family("univg_r1", FrameKind.THOUSAND, Grammar.PAIRS, Form.THINK, "univg_r1"),
        Family(
            "univg_r1_direct", FrameKind.THOUSAND, Grammar.PAIRS, Form.DIRECT, "univg_r1_direct"
        ),
        Family("vlm_r1", FrameKind.INPUT, Grammar.JSON, Form.THINK, "vlm_r1"),
        Family("vg_refiner", FrameKind.INPUT, Grammar.JSON, Form.THINK_RETHINK, "vg_refiner"),
    )
}


PITER = "piter"


def get_family(name: str) -> Family:
    """The family called ``name``; raises ``ConfigError`` that suggests the nearest name.

    ``NAME/piter`` is the family NAME under the PiTER protocol of VG-Refiner: one turn for every
    model, answered with JSON boxes in the frame that the family knows.
    """
    if name.endswith(f"/{PITER}"):
        family = get_family(name.removesuffix(f"/{PITER}"))
        return replace(family, name=name, grammar=Grammar.JSON, form=Form.DIRECT, prompt=PITER)
    if name in FAMILIES:
        return FAMILIES[name]
    raise ConfigError(f"unknown family {name!r}; {did_you_mean(name, FAMILIES)}")


def _to_integers(box: Box, size: EncodedSize, frame: Frame) -> list[int]:
    if box.frame != size.pixels:
        raise ValueError(f"a gold box must be in {size.pixels}, found {box.frame}")
    inside = box.clipped()
    if inside.is_degenerate:
        raise DataError(
            f"a true box {box.xyxy} has no area inside its {size.width} x {size.height} image; "
            "mend the row, or let `reground data validate` set it aside"
        )
    x1, y1, x2, y2 = inside.to(frame).xyxy
    left, right = _round_edges(x1, x2, int(frame.width))
    upper, lower = _round_edges(y1, y2, int(frame.height))
    return [left, upper, right, lower]


def _round_edges(low: float, high: float, limit: int) -> tuple[int, int]:
    first, second = round(low), min(round(high), limit)
    if first < second:
        return first, second
    first = min(math.floor(low), limit - 1)
    return first, first + 1


def _spell(boxes: Sequence[list[int]], grammar: Grammar) -> str:
    if grammar is Grammar.JSON:
        return json.dumps([{"bbox_2d": box} for box in boxes])
    pairs = ["({},{}),({},{})".format(*box) for box in boxes]
    if grammar is Grammar.BOX_TOKENS:
        pairs = [f"<|box_start|>{pair}<|box_end|>" for pair in pairs]
    return "\n".join(pairs) or NO_BOX


def _block(tag: str, text: str | None) -> str:
    if found := FORM_TAG.search(text or ""):
        raise DataError(
            f"a {tag} text holds the tag {found.group()!r}, which would end or open a block of the "
            "answer; take the tags out of the reasoning chain"
        )
    return f"<{tag}>{text or ''}</{tag}>"
