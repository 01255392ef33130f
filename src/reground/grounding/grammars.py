"""How boxes are spelt: :func:`spell` writes them, :func:`read` reads them.

Every reading is linear in the text's length, whatever the text: all quantifiers below are
possessive, so that no regular expression can go back.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeGuard

NO_BOX = "none"  # an explicit empty list in every grammar but JSON, which has []


class Grammar(StrEnum):
    """How boxes are spelt."""

    BOX_TOKENS = "box_tokens"  # <|box_start|>(x1,y1),(x2,y2)<|box_end|>, one box a line
    PAIRS = "pairs"  # (x1,y1),(x2,y2), one box a line
    JSON = "json"  # [{"bbox_2d": [x1, y1, x2, y2], ...}, ...], fenced or not
    BRACKETS = "brackets"  # [x1, y1, x2, y2], one box a line
    BRACKET_LIST = "bracket_list"  # <box>[[x1, y1, x2, y2], ...]</box>
    SEMICOLONS = "semicolons"  # [x1,y1,x2,y2;...]
    THREE_DIGITS = "three_digits"  # [[x1,y1,x2,y2;...]], numbers 000 to 999
    BOX_NUMBERS = "box_numbers"  # <box>x1 y1 x2 y2</box>, one box a line


@dataclass(frozen=True, slots=True)
class Reading:
    """The boxes of a text, four numbers each, as they stand there; None where it spells none."""

    quads: Sequence[Sequence[float]] | None
    image_index: int | None = None  # from 0; None where the boxes name no image or different ones
    is_strict: bool = False  # the whole text is one answer in the grammar


# ---- writing -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Spelling:
    box: str
    between: str = "\n"
    around: str = "{}"


_SPELLINGS = {
    Grammar.BOX_TOKENS: _Spelling("<|box_start|>({},{}),({},{})<|box_end|>"),
    Grammar.PAIRS: _Spelling("({},{}),({},{})"),
    Grammar.JSON: _Spelling('{{"bbox_2d": [{}, {}, {}, {}]}}', ", ", "[{}]"),
    Grammar.BRACKETS: _Spelling("[{}, {}, {}, {}]"),
    Grammar.BRACKET_LIST: _Spelling("[{}, {}, {}, {}]", ", ", "<box>[{}]</box>"),
    Grammar.SEMICOLONS: _Spelling("{},{},{},{}", ";", "[{}]"),
    Grammar.THREE_DIGITS: _Spelling("{},{},{},{}", ";", "[[{}]]"),
    Grammar.BOX_NUMBERS: _Spelling("<box>{} {} {} {}</box>"),
}


def spell(boxes: Sequence[Sequence[int]], grammar: Grammar, *, decimals: int = 0) -> str:
    """``boxes`` in ``grammar``; their numbers count units of the last of ``decimals``.

    >>> spell([[100, 250, 500, 750]], Grammar.BRACKETS, decimals=3)
    '[0.100, 0.250, 0.500, 0.750]'
    """
    if not boxes and grammar is not Grammar.JSON:
        return NO_BOX
    spelling = _SPELLINGS[grammar]
    width = 3 if grammar is Grammar.THREE_DIGITS else 0
    texts = [[f"{n / 10**decimals:0{width}.{decimals}f}" for n in box] for box in boxes]
    return spelling.around.format(spelling.between.join(spelling.box.format(*t) for t in texts))


# ---- reading -----------------------------------------------------------------------------------

_NUMBER = r"[-+]?+[0-9]++(?:\.[0-9]*+)?+"
_COMMA = r"\s*+,\s*+"
_FOUR = _COMMA.join([_NUMBER] * 4)
_POINT = rf"\(\s*+{_NUMBER}{_COMMA}{_NUMBER}\s*+\)"
_PAIR = rf"{_POINT}{_COMMA}{_POINT}"
_LIST = rf"\[\s*+{_FOUR}\s*+\]"
_SEMICOLONS = rf"\[\s*+{_FOUR}(?:\s*+;\s*+{_FOUR})*+\s*+\]"
_OF_POINTS = rf"{_POINT}|\([^()]*+\Z"
_REF = r"<ref>[^<]*+</ref>"  # names the object; its boxes stand behind it


@dataclass(frozen=True, slots=True)
class _Listing:
    """How a grammar lists boxes, in regular expressions.

    ``group`` is what holds boxes, ``silent`` the marks that say nothing, ``remains`` what a bad box
    leaves, or one that was cut off.
    """

    group: str
    silent: str = rf"{_REF}|</?+box>"
    remains: str = r"[\[\]]|</?+box"


_LISTINGS = {
    Grammar.BOX_TOKENS: _Listing(_PAIR, r"<\|box_(?:start|end)\|>", _OF_POINTS),
    Grammar.PAIRS: _Listing(_PAIR, r"(?!)", _OF_POINTS),
    Grammar.BRACKETS: _Listing(_LIST),
    Grammar.BRACKET_LIST: _Listing(rf"\[\s*+{_LIST}(?:{_COMMA}{_LIST})*+\s*+\]"),
    Grammar.SEMICOLONS: _Listing(_SEMICOLONS),
    Grammar.THREE_DIGITS: _Listing(rf"\[\s*+{_SEMICOLONS}\s*+\]"),
    Grammar.BOX_NUMBERS: _Listing(
        r"<box>\s*+" + r"\s++".join([_NUMBER] * 4) + r"\s*+</box>", silent=_REF
    ),
}
_GAP = ";)"  # in place of a good box: it joins nothing, and closes an open point
_NUMBER_SCAN = re.compile(_NUMBER)
_LIST_SCAN = re.compile(_LIST)
_KEY_SCAN = re.compile(r'"bbox_2d"\s*+:\s*+')
_FENCE = re.compile(r"```(?:json)?+")
_MAX_DIGITS = 64  # a longer number is no coordinate, and reading it takes more than linear time


def read(text: str, grammar: Grammar) -> Reading:
    """The boxes of ``text`` in ``grammar``; never raises.

    Words may stand around the boxes, and then the reading is not strict. One bad or cut-off box
    spoils all: none is picked out or guessed at. Marks that decoding may leave out say nothing.
    """
    if grammar is Grammar.JSON:
        return _read_json(text)
    return _read_listed(text, _LISTINGS[grammar])


def _read_listed(text: str, listing: _Listing) -> Reading:
    group = listing.group
    text = re.sub(listing.silent, " ", text)
    if text.strip().casefold() == NO_BOX:
        return Reading([], is_strict=True)
    parts = [part for each in re.findall(group, text) for part in _NUMBER_SCAN.findall(each)]
    if not parts or re.search(listing.remains, re.sub(group, _GAP, text)):
        return Reading(None)
    numbers = [_number(part) for part in parts]
    quads = [numbers[start : start + 4] for start in range(0, len(numbers), 4)]
    is_strict = re.fullmatch(rf"\s*+{group}(?:\s*+,?+\s*+{group})*+\s*+", text) is not None
    return Reading(quads, is_strict=is_strict)


def _read_json(text: str) -> Reading:
    fences = [*_FENCE.finditer(text)]
    is_fenced = len(fences) == 2  # one block; the boxes of several are found by the scan
    body = text[fences[0].end() : fences[1].start()] if is_fenced else text
    try:
        value = json.loads(body, parse_int=_number, parse_float=_number, parse_constant=_nan)
    except (ValueError, RecursionError):  # not JSON, or nested deeper than any answer
        return Reading(_scan_quads(text))
    is_whole = not is_fenced or (text.startswith("```") and text[fences[1].start() :] == "```")
    return _items(value, is_strict=is_whole)


def _items(value: Any, *, is_strict: bool) -> Reading:
    items = [value] if isinstance(value, dict) or _is_quad(value) else value
    if not isinstance(items, list):
        return Reading(None)
    values = [item.get("bbox_2d") if isinstance(item, dict) else item for item in items]
    quads = [value for value in values if _is_quad(value)]
    if len(quads) < len(items):
        return Reading(None)
    images = {_image_index(item) for item in items}
    return Reading(quads, images.pop() if len(images) == 1 else None, is_strict)


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
        matches = [_LIST_SCAN.match(text, key.end()) for key in keys]
    else:
        matches = list(_LIST_SCAN.finditer(text))
    quads = [[_number(n) for n in _NUMBER_SCAN.findall(match[0])] for match in matches if match]
    is_cut = not keys and text.rfind("[") > text.rfind("]")  # generation ended inside a list
    return quads if quads and len(quads) == len(matches) and not is_cut else None


def _number(text: str) -> float:
    return float(text) if len(text) <= _MAX_DIGITS else math.inf


def _nan(_: str) -> float:
    return math.nan
