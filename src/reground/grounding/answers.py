"""The one reader of model answers: reward, validation, evaluation and API all call :func:`parse`.

Two scans, each linear in the text's length whatever the text: the first cuts the response into
blocks (think, rethink, function, tool, answer), the second reads the boxes in what remains
(:func:`reground.grounding.grammars.read`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import NamedTuple

from reground.grounding.boxes import Box, Frame, scaled, set_iou
from reground.grounding.codecs import FORM_TAG, Codec, EncodedSize, Form
from reground.grounding.grammars import Reading, read
from reground.grounding.sample import Sample

RIGHT = 0.5  # a box is right with IoU above this (VG-Refiner)
MAX_OVERHANG = 0.01  # of a side; a box that reaches further outside is an error, not rounding
_ROUNDING = 1e-9  # of a side: 0.875 + 0.001 - 0.875 is no exact thousandth


class Status(StrEnum):
    """What became of an answer; only ``OK`` can earn an accuracy reward or be a hit."""

    OK = "ok"
    NO_ANSWER = "no_answer"  # no text where the answer belongs
    UNPARSABLE = "unparsable"  # text that does not spell boxes
    OUT_OF_BOUNDS = "out_of_bounds"
    DEGENERATE = "degenerate"  # right <= left or lower <= upper edge
    ABSTAINED = "abstained"  # boxes that can be read, less sure than was asked for; never read


@dataclass(frozen=True, slots=True)
class Answer:
    """What a response says.

    ``boxes`` are in original pixels, clipped to the image, and empty unless ``status`` is ok; ok
    with no box is an explicit empty list. ``num_clipped`` of them reached at most 1 % outside.
    ``image_index`` counts from 0 and is None where the boxes name no image, or different ones.
    ``well_formed`` is the form term: it looks at the form alone, not at where the boxes are.
    """

    status: Status
    boxes: tuple[Box, ...] = ()
    image_index: int | None = None
    think: str | None = None
    rethink: str | None = None
    tool_call: str | None = None
    well_formed: bool = False
    num_clipped: int = 0


def parse(
    text: str, codec: Codec, size: EncodedSize, *, form: Form = Form.DIRECT, calls: bool = False
) -> Answer:
    """Read a response about the image of ``size``; never raises, whatever the text.

    ``calls`` says that functions were offered: their blocks then do not spoil the form.

    Where the answer stands: the direct form's answer is all text outside think, rethink, function
    and tool blocks; the other forms' answer is the last closed ``<answer>`` block that stands
    outside those blocks, and nothing else. A block that is never closed reaches to the end of the
    text, and a ``</think>`` that nothing opened makes everything before it a thought (some chat
    templates open the block in the prompt).

    How it is read: every box in the answer counts, and one bad or cut-off box spoils the answer; a
    box is never picked out, guessed at, or turned the right way round. In JSON every box under the
    key ``"bbox_2d"`` counts, also of a repeated key and in further lists and objects, which spoil
    the form; brackets may be missing at its end. JSON that does not decode is read by its
    ``"bbox_2d": [...]`` entries, and without any such key by its lists of four numbers. An item's
    ``"image"`` counts from 0.

    >>> from reground.grounding.boxes import FrameKind
    >>> from reground.grounding.grammars import Grammar
    >>> text = "<think>Left.</think><answer>(0,0), (500,500)</answer>"
    >>> codec, size = Codec(FrameKind.THOUSAND, Grammar.PAIRS), EncodedSize(640, 480, 644, 476)
    >>> answer = parse(text, codec, size, form=Form.THINK)
    >>> answer.boxes[0].xyxy, answer.think, answer.well_formed
    ((0.0, 0.0, 320.0, 240.0), 'Left.', True)
    """
    text = text[: _content_end(text)]
    response = _split(text, direct=form is Form.DIRECT)
    spoken = _spoken(response, form)
    reading, found = Reading(None), Judgement(Status.NO_ANSWER)
    if spoken:
        reading = read(spoken, codec.grammar)
        found = judge(reading.quads, size.frame(codec.frame), size.pixels)
    return Answer(
        found.status,
        found.boxes,
        num_clipped=found.num_clipped,
        image_index=reading.image_index if found.status is Status.OK else None,
        think=response.first("think"),
        rethink=response.first("rethink"),
        tool_call=response.last_closed("function"),
        well_formed=_has_form(response, form, is_strict=reading.is_strict, calls=calls),
    )


def quads(text: str, codec: Codec, *, form: Form = Form.DIRECT) -> Sequence[Sequence[float]]:
    """The numbers of the boxes that :func:`parse` reads, as they stand in the text, four a box."""
    text = text[: _content_end(text)]
    spoken = _spoken(_split(text, direct=form is Form.DIRECT), form)
    return read(spoken, codec.grammar).quads or ()


def score(answer: Answer, sample: Sample) -> float:
    """The IoU that counts, for the reward and our metrics alike: of an ok answer, otherwise 0.

    It is matched with the sample's true boxes, in [0, 1]; with one box on either side it is the
    plain IoU. An answer that names another image than the sample's target scores 0, however its
    box lies.
    """
    right_image = answer.image_index in (None, sample.target_image)
    if answer.status is not Status.OK or not right_image:
        return 0.0
    return set_iou(answer.boxes, sample.boxes)


_SPECIAL_ENDINGS = ("<|im_end|>", "<|endoftext|>", "</s>")  # of Qwen's and Llama's tokenizers


def _content_end(text: str) -> int:
    end = len(text)
    while True:
        while end and text[end - 1].isspace():
            end -= 1
        if not text.endswith(_SPECIAL_ENDINGS, 0, end):
            return end
        end -= next(len(token) for token in _SPECIAL_ENDINGS if text.endswith(token, 0, end))


# ---- blocks ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Block:
    tag: str
    span: slice
    is_closed: bool


@dataclass(frozen=True, slots=True)
class _Response:
    text: str
    blocks: Sequence[_Block]
    gaps: Sequence[slice]  # what stands between the blocks

    @property
    def outside(self) -> str:
        return " ".join([self.text[gap] for gap in self.gaps]).strip()

    def first(self, tag: str) -> str | None:
        return next((self.content(block) for block in self.blocks if block.tag == tag), None)

    def last_closed(self, tag: str) -> str | None:
        closed = [block for block in self.blocks if block.tag == tag and block.is_closed]
        return self.content(closed[-1]) if closed else None

    def content(self, block: _Block) -> str:
        return self.text[block.span].strip()


def _split(text: str, *, direct: bool) -> _Response:
    """Cut ``text`` by its tags; inside a block only its own closing tag is a tag."""
    blocks: list[_Block] = []
    gaps: list[slice] = []
    opened: str | None = None
    start = 0  # of the open block, or of the gap
    for match in FORM_TAG.finditer(text):
        is_closing, tag = bool(match[1]), match[2]
        if direct and tag == "answer":
            continue
        if opened is None and not is_closing:
            gaps.append(slice(start, match.start()))
            opened, start = tag, match.end()
        elif opened == tag and is_closing:
            blocks.append(_Block(tag, slice(start, match.start()), is_closed=True))
            opened, start = None, match.end()
        elif opened is None and tag == "think":  # opened by the prompt
            blocks = [_Block(tag, slice(0, match.start()), is_closed=True)]
            gaps, start = [], match.end()
    rest = slice(start, len(text))
    if opened is None:
        gaps.append(rest)
    else:
        blocks.append(_Block(opened, rest, is_closed=False))
    return _Response(text, blocks, gaps)


def _spoken(response: _Response, form: Form) -> str:
    if form is Form.DIRECT:
        return response.outside
    answer = response.last_closed("answer") or ""
    return _split(answer, direct=True).outside  # a thought inside the answer is still a thought


_TAGS = {
    Form.THINK: ["<think>", "</think>", "<answer>", "</answer>"],
    Form.THINK_RETHINK: ["think", "rethink", "answer"],
}
_OF_CALLS = ("function", "tool")


def _has_form(response: _Response, form: Form, *, is_strict: bool, calls: bool) -> bool:
    """The format reward's condition.

    Direct: the whole text is an answer in the grammar, after an empty thought at most, which is how
    chat templates write none. Think (UniVG-R1): one think block, then one answer block with an
    answer in the grammar, and nothing else. Think-rethink (VG-Refiner): the think, rethink and
    answer blocks are all there, once each and in this order. Where ``calls`` were offered, a call
    and what was said to it are no part of the form.
    """
    ignored = _OF_CALLS if calls else ()
    match form:
        case Form.DIRECT:
            said = [each for each in response.blocks if each.tag not in ignored]
            return is_strict and all(
                each.tag == "think" and not response.content(each) for each in said
            )
        case Form.THINK:
            found = FORM_TAG.finditer(response.text)
            tags = [match.group() for match in found if match[2] not in ignored]
            return is_strict and tags == _TAGS[form] and not response.outside
        case Form.THINK_RETHINK:
            named = [block for block in response.blocks if block.tag in _TAGS[form]]
            in_order = [block.tag for block in named] == _TAGS[form]
            return in_order and all(block.is_closed for block in named)


# ---- judgement ---------------------------------------------------------------------------------


class Judgement(NamedTuple):
    """What becomes of the numbers of an answer, as :class:`Answer` has it."""

    status: Status
    boxes: tuple[Box, ...] = ()
    num_clipped: int = 0


def judge(quads: Sequence[Sequence[float]] | None, frame: Frame, pixels: Frame) -> Judgement:
    """What numbers of ``frame`` say as boxes of the image with the frame ``pixels``."""
    if quads is None or not all(map(math.isfinite, chain.from_iterable(quads))):
        return Judgement(Status.UNPARSABLE)
    boxes: list[Box] = []
    num_clipped = 0
    x_min, y_min, x_max, y_max = frame.edges
    for left, upper, right, lower in quads:
        if x_min <= left < right <= x_max and y_min <= upper < lower <= y_max:  # as most are
            boxes.append(scaled(left, upper, right, lower, frame, pixels).clipped())
            continue
        box = Box(left, upper, right, lower, frame)
        overhang = box.overhang()
        if overhang > MAX_OVERHANG + _ROUNDING:
            return Judgement(Status.OUT_OF_BOUNDS)
        inside = box.clipped() if overhang else box
        if inside.is_degenerate:
            return Judgement(Status.DEGENERATE)
        num_clipped += overhang > _ROUNDING
        boxes.append(inside.to(pixels).clipped())  # the scale may round past the edge
    return Judgement(Status.OK, tuple(boxes), num_clipped)
