"""The one reader of model answers: reward, validation, evaluation and API all call :func:`parse`.

Two scans, each linear in the text's length whatever the text: the first cuts the response into
blocks (think, rethink, function, tool, answer), the second reads the boxes in what remains. All
quantifiers below are possessive, so that no regular expression can go back.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeGuard

from reground.grounding.boxes import Box, Frame
from reground.grounding.families import FORM_TAG, NO_BOX, EncodedSize, Family, Form, Grammar

MAX_OVERHANG = 0.01  # of a side; a box that reaches further outside is an error, not rounding


class Status(StrEnum):
    """What became of an answer; only ``OK`` can earn an accuracy reward or be a hit."""

    OK = "ok"
    NO_ANSWER = "no_answer"  # no text where the answer belongs
    UNPARSABLE = "unparsable"  # text that does not spell boxes
    OUT_OF_BOUNDS = "out_of_bounds"
    DEGENERATE = "degenerate"  # right <= left or lower <= upper edge


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


def parse(text: str, family: Family, size: EncodedSize) -> Answer:
    """Read a response of ``family`` about the image of ``size``; never raises, whatever the text.

    Where the answer stands: the direct form's answer is all text outside think, rethink, function
    and tool blocks; the other forms' answer is the last closed ``<answer>`` block that stands
    outside those blocks, and nothing else. A block that is never closed reaches to the end of the
    text, and a ``</think>`` that nothing opened makes everything before it a thought (some chat
    templates open the block in the prompt).

    How it is read: every box in the answer counts, and one bad or cut-off box spoils the answer; a
    box is never picked out, guessed at, or turned the right way round. JSON that does not decode
    is read by its ``"bbox_2d": [...]`` entries, and without any such key by its lists of four
    numbers. An item's ``"image"`` counts from 0.

    >>> from reground.grounding.families import get_family
    >>> text = "<think>Left.</think><answer>(0,0), (500,500)</answer>"
    >>> answer = parse(text, get_family("univg_r1"), EncodedSize(640, 480, 644, 476))
    >>> answer.boxes[0].xyxy, answer.think, answer.well_formed
    ((0.0, 0.0, 320.0, 240.0), 'Left.', True)
    """
    text = text[: _content_end(text)]
    response = _split(text, direct=family.form is Form.DIRECT)
    spoken = _spoken(response, family.form)
    reading = _read(spoken, family.grammar) if spoken else _Reading(None)
    verdict = _judge(reading.quads, size.frame(family.frame), size.pixels)
    return Answer(
        status=verdict.status if spoken else Status.NO_ANSWER,
        boxes=verdict.boxes,
        image_index=reading.image_index if verdict.status is Status.OK else None,
        think=response.first("think"),
        rethink=response.first("rethink"),
        tool_call=response.last_closed("function"),
        well_formed=_has_form(response, family.form, is_strict=reading.is_strict),
        num_clipped=verdict.num_clipped,
    )


_SPECIAL_ENDINGS = ("<|im_end|>", "<|endoftext|>")


def _content_end(text: str) -> int:
    end = len(text)
    while True:
        while end and text[end - 1].isspace():
            end -= 1
        ending = next((token for token in _SPECIAL_ENDINGS if text.endswith(token, 0, end)), None)
        if ending is None:
            return end
        end -= len(ending)


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
        return " ".join(self.text[gap] for gap in self.gaps).strip()

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


def _has_form(response: _Response, form: Form, *, is_strict: bool) -> bool:
    """The format reward's condition.

    Direct: the whole text is an answer in the grammar. Think (UniVG-R1): one think block, then one
    answer block with an answer in the grammar, and nothing else. Think-rethink (VG-Refiner): the
    think, rethink and answer blocks are all there, once each and in this order.
    """
    match form:
        case Form.DIRECT:
            return is_strict and not response.blocks
        case Form.THINK:
            tags = [match.group() for match in FORM_TAG.finditer(response.text)]
            return is_strict and tags == _TAGS[form] and not response.outside
        case Form.THINK_RETHINK:
            named = [block for block in response.blocks if block.tag in _TAGS[form]]
            in_order = [block.tag for block in named] == _TAGS[form]
            return in_order and all(block.is_closed for block in named)


# ---- boxes -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reading:
    quads: Sequence[Sequence[float]] | None  # None: not boxes
    image_index: int | None = None
    is_strict: bool = False  # the whole text is one answer in the grammar


_NUMBER = r"([-+]?+[0-9]++(?:\.[0-9]*+)?+)"
_POINT = rf"\(\s*+{_NUMBER}\s*+,\s*+{_NUMBER}\s*+\)"
_PAIR = rf"{_POINT}\s*+,\s*+{_POINT}"
_QUAD = r"\[\s*+" + r"\s*+,\s*+".join([_NUMBER] * 4) + r"\s*+\]"
_POINT_SCAN = re.compile(_POINT)
_PAIR_SCAN = re.compile(_PAIR)
_PAIR_LIST = re.compile(rf"\s*+{_PAIR}(?:\s*+,?+\s*+{_PAIR})*+\s*+")
_QUAD_SCAN = re.compile(_QUAD)
_KEY_SCAN = re.compile(r'"bbox_2d"\s*+:\s*+')
_FENCE = re.compile(r"```(?:json)?+")
_MAX_DIGITS = 64  # a longer number is no coordinate, and reading it takes more than linear time


def _read(text: str, grammar: Grammar) -> _Reading:
    if grammar is Grammar.JSON:
        return _read_json(text)
    return _read_pairs(text, with_tokens=grammar is Grammar.BOX_TOKENS)


def _read_pairs(text: str, *, with_tokens: bool) -> _Reading:
    if with_tokens:  # decoding may leave the tokens out, so they say nothing that may be needed
        text = text.replace("<|box_start|>", " ").replace("<|box_end|>", " ")
    if text.strip().casefold() == NO_BOX:
        return _Reading([], is_strict=True)
    quads = [[_number(part) for part in match.groups()] for match in _PAIR_SCAN.finditer(text)]
    num_points = sum(1 for _ in _POINT_SCAN.finditer(text))
    is_cut = text.rfind("(") > text.rfind(")")  # generation ended inside a point
    if not quads or num_points != 2 * len(quads) or is_cut:
        return _Reading(None)
    return _Reading(quads, is_strict=_PAIR_LIST.fullmatch(text) is not None)


def _read_json(text: str) -> _Reading:
    fences = [*_FENCE.finditer(text)]
    is_fenced = len(fences) == 2  # one block; the boxes of several are found by the scan
    body = text[fences[0].end() : fences[1].start()] if is_fenced else text
    try:
        value = json.loads(body, parse_int=_number, parse_float=_number, parse_constant=_nan)
    except (ValueError, RecursionError):  # not JSON, or nested deeper than any answer
        return _Reading(_scan_quads(text))
    is_whole = not is_fenced or (text.startswith("```") and text[fences[1].start() :] == "```")
    return _items(value, is_strict=is_whole)


def _items(value: Any, *, is_strict: bool) -> _Reading:
    items = [value] if isinstance(value, dict) or _is_quad(value) else value
    if not isinstance(items, list):
        return _Reading(None)
    values = [item.get("bbox_2d") if isinstance(item, dict) else item for item in items]
    quads = [value for value in values if _is_quad(value)]
    if len(quads) < len(items):
        return _Reading(None)
    images = {_image_index(item) for item in items}
    return _Reading(quads, images.pop() if len(images) == 1 else None, is_strict)


def _is_quad(value: Any) -> TypeGuard[list[float]]:
    is_four = isinstance(value, list) and len(value) == 4
    return is_four and all(isinstance(number, float) for number in value)


def _image_index(item: Any) -> int | None:
    image = item.get("image") if isinstance(item, dict) else None
    if isinstance(image, float) and image.is_integer() and image >= 0:
        return int(image)
    return None


def _scan_quads(text: str) -> list[list[float]] | None:
    keys = list(_KEY_SCAN.finditer(text))
    if keys:
        matches = [_QUAD_SCAN.match(text, key.end()) for key in keys]
    else:
        matches = list(_QUAD_SCAN.finditer(text))
    quads = [[_number(part) for part in match.groups()] for match in matches if match]
    return quads if quads and len(quads) == len(matches) else None


def _number(text: str) -> float:
    return float(text) if len(text) <= _MAX_DIGITS else math.inf


def _nan(_: str) -> float:
    return math.nan


# ---- judgement ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Verdict:
    status: Status
    boxes: tuple[Box, ...] = ()
    num_clipped: int = 0


def _judge(quads: Sequence[Sequence[float]] | None, frame: Frame, pixels: Frame) -> _Verdict:
    if quads is None or not all(math.isfinite(number) for quad in quads for number in quad):
        return _Verdict(Status.UNPARSABLE)
    boxes: list[Box] = []
    num_clipped = 0
    for left, upper, right, lower in quads:
        box = Box(left, upper, right, lower, frame)
        if box.overhang() > MAX_OVERHANG + 1e-9:  # 1010 / 1000 - 1 is a little above 0.01
            return _Verdict(Status.OUT_OF_BOUNDS)
        inside = box.clipped()
        if inside.is_degenerate:
            return _Verdict(Status.DEGENERATE)
        num_clipped += inside != box
        boxes.append(inside.to(pixels).clipped())  # the scale may round past the edge
    return _Verdict(Status.OK, tuple(boxes), num_clipped)
