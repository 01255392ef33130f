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
from functools import cache
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
    BBOX_NUMBERS = "bbox_numbers"  # <bbox>x1 y1 x2 y2</bbox>, one box a line
    BOX_BLOCK = "box_block"  # <|begin_of_box|>[[x1, y1, x2, y2], ...]<|end_of_box|>
    DET_LIST = "det_list"  # <|ref|>label<|/ref|><|det|>[[x1, y1, x2, y2], ...]<|/det|>
    LOC_ROWS = "loc_rows"  # <loc0250><loc0100><loc0750><loc0500> label ; ..., y before x
    LOC_BINS = "loc_bins"  # label<loc_100><loc_250><loc_500><loc_750>label<loc_...
    PATCH_PAIRS = "patch_pairs"  # <object><patch_index_0044><patch_index_0863></object>
    JSON_ROWS = "json_rows"  # [{"box_2d": [y1, x1, y2, x2], ...}, ...], y before x
    JSON_SIDES = "json_sides"  # {"objects": [{"x_min": x1, "y_min": y1, ...}, ...]}


@dataclass(frozen=True, slots=True)
class Reading:
    """The boxes of a text, four numbers each, as they stand there; None where it spells none."""

    quads: Sequence[Sequence[float]] | None
    image_index: int | None = None  # from 0; None where the boxes name no image or different ones
    is_strict: bool = False  # the whole text is one answer in the grammar


# ---- writing -----------------------------------------------------------------------------------


_XYXY, _YXYX = (0, 1, 2, 3), (1, 0, 3, 2)


@dataclass(frozen=True, slots=True)
class _Spelling:
    box: str
    between: str = "\n"
    around: str = "{}"
    order: tuple[int, ...] = _XYXY
    digits: int = 0


_SPELLINGS = {
    Grammar.BOX_TOKENS: _Spelling("<|box_start|>({},{}),({},{})<|box_end|>"),
    Grammar.PAIRS: _Spelling("({},{}),({},{})"),
    Grammar.JSON: _Spelling('{{"bbox_2d": [{}, {}, {}, {}]}}', ", ", "[{}]"),
    Grammar.BRACKETS: _Spelling("[{}, {}, {}, {}]"),
    Grammar.BRACKET_LIST: _Spelling("[{}, {}, {}, {}]", ", ", "<box>[{}]</box>"),
    Grammar.SEMICOLONS: _Spelling("{},{},{},{}", ";", "[{}]"),
    Grammar.THREE_DIGITS: _Spelling("{},{},{},{}", ";", "[[{}]]", digits=3),
    Grammar.BOX_NUMBERS: _Spelling("<box>{} {} {} {}</box>"),
    Grammar.BBOX_NUMBERS: _Spelling("<bbox>{} {} {} {}</bbox>"),
    Grammar.BOX_BLOCK: _Spelling("[{}, {}, {}, {}]", ", ", "<|begin_of_box|>[{}]<|end_of_box|>"),
    Grammar.DET_LIST: _Spelling("[{}, {}, {}, {}]", ", ", "<|det|>[{}]<|/det|>"),
    Grammar.LOC_ROWS: _Spelling("<loc{}><loc{}><loc{}><loc{}>", " ; ", order=_YXYX, digits=4),
    Grammar.LOC_BINS: _Spelling("<loc_{}><loc_{}><loc_{}><loc_{}>", ""),
    Grammar.PATCH_PAIRS: _Spelling("<object><patch_index_{}><patch_index_{}></object>", digits=4),
    Grammar.JSON_ROWS: _Spelling('{{"box_2d": [{}, {}, {}, {}]}}', ", ", "[{}]", order=_YXYX),
    Grammar.JSON_SIDES: _Spelling(
        '{{"x_min": {}, "y_min": {}, "x_max": {}, "y_max": {}}}', ", ", '{{"objects": [{}]}}'
    ),
}
LARGEST = {Grammar.THREE_DIGITS: 999, Grammar.LOC_ROWS: 1023}
"""The largest number that a grammar can spell, where that is less than its frame's end."""
_JSON = (Grammar.JSON, Grammar.JSON_ROWS, Grammar.JSON_SIDES)
_GRID = 32  # patches of a side


def spell(boxes: Sequence[Sequence[int]], grammar: Grammar, *, decimals: int = 0) -> str:
    """``boxes`` in ``grammar``; their numbers count units of the last of ``decimals``.

    >>> spell([[100, 250, 500, 750]], Grammar.BRACKETS, decimals=3)
    '[0.100, 0.250, 0.500, 0.750]'
    """
    if not boxes and grammar not in _JSON:
        return NO_BOX
    spelling = _SPELLINGS[grammar]
    width = spelling.digits
    if grammar is Grammar.PATCH_PAIRS:
        boxes = [[box[1] * _GRID + box[0], box[3] * _GRID + box[2]] for box in boxes]
    ordered = [[box[place] for place in spelling.order[: len(box)]] for box in boxes]
    texts = [[f"{n / 10**decimals:0{width}.{decimals}f}" for n in box] for box in ordered]
    return spelling.around.format(spelling.between.join(spelling.box.format(*t) for t in texts))


# ---- reading -----------------------------------------------------------------------------------

NUMBER = r"[-+]?+[0-9]++(?:\.[0-9]*+)?+"
_COMMA = r"\s*+,\s*+"
_FOUR = _COMMA.join([NUMBER] * 4)
_POINT = rf"\(\s*+{NUMBER}{_COMMA}{NUMBER}\s*+\)"
_PAIR = rf"{_POINT}{_COMMA}{_POINT}"
_LIST = rf"\[\s*+{_FOUR}\s*+\]"
_SEMICOLONS = rf"\[\s*+{_FOUR}(?:\s*+;\s*+{_FOUR})*+\s*+\]"
_OF_POINTS = rf"{_POINT}|\([^()]*+\Z"
_LISTS = rf"\[\s*+{_LIST}(?:{_COMMA}{_LIST})*+\s*+\]"
_PATCHES = r"<patch_index_[0-9]{4}><patch_index_[0-9]{4}>"
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
    order: tuple[int, ...] = _XYXY
    size: int = 4  # numbers of a box


_LISTINGS = {
    Grammar.BOX_TOKENS: _Listing(_PAIR, r"<\|box_(?:start|end)\|>", _OF_POINTS),
    Grammar.PAIRS: _Listing(_PAIR, r"(?!)", _OF_POINTS),
    Grammar.BRACKETS: _Listing(_LIST),
    Grammar.BRACKET_LIST: _Listing(_LISTS),
    Grammar.SEMICOLONS: _Listing(_SEMICOLONS),
    Grammar.THREE_DIGITS: _Listing(rf"\[\s*+{_SEMICOLONS}\s*+\]"),
    Grammar.BOX_NUMBERS: _Listing(
        r"<box>\s*+" + r"\s++".join([NUMBER] * 4) + r"\s*+</box>", silent=_REF
    ),
    Grammar.BBOX_NUMBERS: _Listing(
        r"<bbox>\s*+" + r"\s++".join([NUMBER] * 4) + r"\s*+</bbox>", _REF, r"</?+bbox"
    ),
    Grammar.BOX_BLOCK: _Listing(rf"{_LISTS}|{_LIST}", r"<\|(?:begin|end)_of_box\|>"),
    Grammar.DET_LIST: _Listing(_LISTS, r"<\|ref\|>[^<]*+<\|/ref\|>|<\|/?+(?:ref|det|grounding)\|>"),
    Grammar.LOC_ROWS: _Listing(r"(?:<loc[0-9]{4}>){4}", r"(?<=>)[^<>;]*+(?:;|\Z)", r"<loc", _YXYX),
    Grammar.LOC_BINS: _Listing(
        r"(?:<loc_[0-9]{1,3}>){4}", r"(?<![^<>])[^<>]++(?=<loc_)|</?+s>", r"<loc"
    ),
    Grammar.PATCH_PAIRS: _Listing(
        rf"<object>{_PATCHES}(?:</delimiter_of_multi_objects/>{_PATCHES})*+</object>",
        r"<grounding>|<phrase>[^<]*+</phrase>",
        r"<patch|</?+object",
        size=2,
    ),
}
_BLOCK = ("<|begin_of_box|>", "<|end_of_box|>")
_GAP = ";)"  # in place of a good box: it joins nothing, and closes an open point
_NUMBER_SCAN = re.compile(NUMBER)
_LIST_SCAN = re.compile(_LIST)
_LIST_OR_LISTS = re.compile(rf"{_LIST}|{_LISTS}")
_FENCE = re.compile(r"```(?:json)?+")
_MAX_DIGITS = 64  # a longer number is no coordinate, and reading it takes more than linear time


def read(text: str, grammar: Grammar) -> Reading:
    """The boxes of ``text`` in ``grammar``; never raises.

    Words may stand around the boxes, and then the reading is not strict. One bad or cut-off box
    spoils all: none is picked out or guessed at. Marks that decoding may leave out say nothing.
    """
    if grammar in _JSON:
        return _read_json(text, _KEYED[grammar])
    if grammar is Grammar.BOX_BLOCK and _BLOCK[0] in text:  # what stands outside is no answer
        text = text.rpartition(_BLOCK[0])[2].partition(_BLOCK[1])[0]
    return _read_listed(text, grammar)


@cache
def _patterns(grammar: Grammar) -> tuple[re.Pattern[str], ...]:
    """Silent marks, a group, what a bad box leaves, and groups alone."""
    own = _LISTINGS[grammar]
    alone = rf"\s*+{own.group}(?:\s*+,?+\s*+{own.group})*+\s*+"
    return tuple(map(re.compile, (own.silent, own.group, own.remains, alone)))


def _read_listed(text: str, grammar: Grammar) -> Reading:
    silent, group, remains, alone = _patterns(grammar)
    text = silent.sub(" ", text)
    if is_strict := alone.fullmatch(text) is not None:  # as most are: all numbers are of boxes
        parts = _NUMBER_SCAN.findall(text)
    elif text.strip().casefold() == NO_BOX:
        return Reading([], is_strict=True)
    else:
        parts = [part for each in group.findall(text) for part in _NUMBER_SCAN.findall(each)]
        if not parts or remains.search(group.sub(_GAP, text)):
            return Reading(None)
    listing, numbers = _LISTINGS[grammar], [number(part) for part in parts]
    quads = [numbers[at : at + listing.size] for at in range(0, len(numbers), listing.size)]
    if listing.size != 4 or listing.order != _XYXY:
        quads = [[quad[place] for place in listing.order] for quad in map(_quad, quads)]
    return Reading(quads, is_strict=is_strict)


def _quad(numbers: list[float]) -> list[float]:
    """Four numbers, of two patches too: whole patches where both are in one row or column."""
    if len(numbers) == 4:
        return numbers
    (y1, x1), (y2, x2) = (divmod(number, _GRID) for number in numbers)
    half = 0.5 if x1 == x2 or y1 == y2 else 0.0  # Kosmos-2's own rule
    return [x1 - half, y1 - half, x2 + half, y2 + half]


@dataclass(frozen=True, slots=True)
class _Keyed:
    """How an object of JSON holds a box: in a list under a key, or in four keys."""

    scan: re.Pattern[str]
    keys: tuple[str, ...]
    order: tuple[int, ...] = _XYXY


_KEYED = {
    Grammar.JSON: _Keyed(re.compile(r'"bbox_2d"\s*+:\s*+'), ("bbox_2d",)),
    Grammar.JSON_ROWS: _Keyed(re.compile(r'"box_2d"\s*+:\s*+'), ("box_2d",), _YXYX),
    Grammar.JSON_SIDES: _Keyed(re.compile(r"(?!)"), ("x_min", "y_min", "x_max", "y_max")),
}
_Object = tuple[tuple[str, Any], ...]  # an object of JSON: its pairs, since a key may be repeated
_Boxes = list[tuple[list[float], int | None]]  # quads and the images that they name
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+("?+)|[\[\]{}]', re.DOTALL)
_CLOSING = {"[": "]", "{": "}"}
_DEEPEST = 50  # no answer is nested deeper


def _read_json(text: str, keyed: _Keyed) -> Reading:
    fences = [*_FENCE.finditer(text)]
    is_fenced = len(fences) == 2  # one block; the boxes of several are found by the scan
    body = text[fences[0].end() : fences[1].start()] if is_fenced else text
    try:
        value, is_complete = _decoded(body)
        boxes = _boxes(value, keyed)
    except RecursionError:  # nested deeper than any answer
        return Reading(_scan_quads(text, keyed))
    except _Spoilt:
        return Reading(None)
    except ValueError:  # not JSON
        return Reading(_scan_quads(text, keyed))
    is_whole = not is_fenced or (text.startswith("```") and text[fences[1].start() :] == "```")
    is_plain = _is_plain(value, len(boxes), keyed)
    is_strict = is_whole and is_complete and is_plain
    images = {image for _, image in boxes}
    image = images.pop() if len(images) == 1 else None
    quads = [quad for quad, _ in boxes]
    return Reading(quads if quads or is_plain else None, image, is_strict)


def _decoded(text: str) -> tuple[Any, bool]:
    """What JSON holds, and whether no bracket was missing at its end; raises ``ValueError``."""
    read = json.JSONDecoder(
        parse_int=number, parse_float=number, parse_constant=_nan, object_pairs_hook=tuple
    ).decode
    try:
        return read(text), True
    except ValueError:
        return read(_closed(text)), False


def _closed(text: str) -> str:
    """JSON with the brackets that are missing at its end; raises ``ValueError`` for a cut value."""
    opened: list[str] = []
    for found in _STRING_OR_BRACKET.finditer(text):
        mark = found[0]
        if mark in _CLOSING:
            opened.append(mark)
        elif mark in ("]", "}"):
            if not opened or _CLOSING[opened.pop()] != mark:
                raise ValueError
        elif not found[1]:  # a string without end
            raise ValueError
    is_number_cut = opened[-1:] == ["["] and not text.rstrip().endswith(("]", "}", '"'))
    if not opened or is_number_cut:
        raise ValueError
    return text + "".join(_CLOSING[mark] for mark in reversed(opened))


class _Spoilt(Exception):
    """Something stands where a box belongs."""


def _boxes(value: Any, keyed: _Keyed, *, in_lists: bool = True, depth: int = 0) -> _Boxes:
    """All boxes in a value: under the key wherever it is, and bare ones in lists alone."""
    if depth > _DEEPEST:
        raise RecursionError
    if isinstance(value, tuple):
        found = _held(value, keyed)
        others = [inner for key, inner in value if key not in keyed.keys]
        return found + [
            box for inner in others for box in _boxes(inner, keyed, in_lists=False, depth=depth + 1)
        ]
    if _is_quad(value):
        return [(_ordered(value, keyed), None)] if in_lists else []
    if not isinstance(value, list):
        return []
    parts = [_boxes(item, keyed, in_lists=in_lists, depth=depth + 1) for item in value]
    if any(parts) and not all(parts):
        raise _Spoilt
    return [box for part in parts for box in part]


def _held(item: _Object, keyed: _Keyed) -> _Boxes:
    """The boxes that an object holds itself, in all places of a repeated key."""
    columns = [[value for key, value in item if key == wanted] for wanted in keyed.keys]
    if len(columns) == 1:
        quads = [quad for value in columns[0] for quad in _quads_in(value)]
    else:
        if len({len(column) for column in columns}) > 1:
            raise _Spoilt
        quads = [quad for row in zip(*columns, strict=True) for quad in _quads_in(list(row))]
    images = {_image_index(value) for key, value in item if key == "image"}
    image = images.pop() if len(images) == 1 else None
    return [(_ordered(quad, keyed), image) for quad in quads]


def _quads_in(value: Any) -> list[list[float]]:
    """A box, or boxes in lists, and nothing else."""
    if _is_quad(value):
        return [value]
    if not isinstance(value, list) or not value:
        raise _Spoilt
    return [quad for inner in value for quad in _quads_in(inner)]


def _is_plain(value: Any, count: int, keyed: _Keyed) -> bool:
    """Whether the value is a box, an object with one, or a list of these, with ``count`` in all."""
    if isinstance(value, tuple) and len(keyed.keys) == 4 and "objects" in dict(value):
        value = dict(value)["objects"]
    items = value if isinstance(value, list) and not _is_quad(value) else [value]
    return len(items) == count and all(_is_quad(item) or _is_item(item, keyed) for item in items)


def _is_item(item: Any, keyed: _Keyed) -> bool:
    if not isinstance(item, tuple) or len(dict(item)) < len(item):
        return False
    values = [dict(item).get(key) for key in keyed.keys]
    return _is_quad(values[0] if len(values) == 1 else values)


def _ordered(quad: list[float], keyed: _Keyed) -> list[float]:
    return [quad[place] for place in keyed.order]


def _is_quad(value: Any) -> TypeGuard[list[float]]:
    is_four = isinstance(value, list) and len(value) == 4
    return is_four and all(isinstance(number, float) for number in value)


def _image_index(image: Any) -> int | None:
    if isinstance(image, float) and image.is_integer() and image >= 0:
        return int(image)
    return None


def _scan_quads(text: str, keyed: _Keyed) -> list[list[float]] | None:
    keys = list(keyed.scan.finditer(text))
    if keys:
        matches = [_LIST_OR_LISTS.match(text, key.end()) for key in keys]
    else:
        matches = list(_LIST_SCAN.finditer(text))
    quads = [
        [number(n) for n in _NUMBER_SCAN.findall(part)]
        for match in matches
        if match
        for part in _LIST_SCAN.findall(match[0])
    ]
    is_cut = not keys and text.rfind("[") > text.rfind("]")  # generation ended inside a list
    if not quads or not all(matches) or is_cut:
        return None
    return [_ordered(quad, keyed) for quad in quads]


def number(text: str) -> float:
    """The value of a numeral; infinite where it is too long to be a coordinate."""
    return float(text) if len(text) <= _MAX_DIGITS else math.inf


def _nan(_: str) -> float:
    return math.nan
