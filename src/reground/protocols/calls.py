"""What a model writes to ask for a function between its thoughts, and the text that comes back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from reground.grounding.codecs import Codec, EncodedSize
from reground.grounding.grammars import Grammar
from reground.grounding.sample import Detection
from reground.protocols.wording import Wording, text_of


class Function(StrEnum):
    """What can be called."""

    RESULT = "get_extra_ref_result"  # the detectors' result
    ZOOM = "zoom_in"  # a part of the image


SIGNATURES = {
    Function.RESULT: f"{Function.RESULT}()",
    Function.ZOOM: f"{Function.ZOOM}(x1, y1, x2, y2)",
}
"""How each is called; the numbers are those of a box, in the codec's frame."""

CALL_BEGIN, CALL_END = "<function>", "</function>"
CALL = f"{CALL_BEGIN}\n{SIGNATURES[Function.RESULT]}\n{CALL_END}"
"""How a model asks for the detectors' result (VG-Refiner): between line breaks inside the tags."""

FIRST_TOOL = "reftool_1"  # what the first tool is called; the next is reftool_2
OPENING, CLOSING = "\n<tool>", "</tool>\n"  # what surrounds all that a tool says
SHOWN = Wording(f"{OPENING}$results{CLOSING}")
"""How results are shown where a prompt says nothing else."""
UNAVAILABLE = "unavailable"  # in the place of the boxes of a tool that gave no result

_CALL = re.compile(r"(\w+)\s*\(([^()]*)\)")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")


@dataclass(frozen=True, slots=True)
class Call:
    """A function by its name, and the numbers it was given; None where some are no numbers."""

    name: str
    numbers: tuple[float, ...] | None = ()


def read_call(text: str) -> Call | None:
    """What is in the last closed ``<function>`` of ``text``; None where it is no call.

    An open thought around it does not matter: the text is one that stopped at ``</function>``.

    >>> read_call("<think>small.</think><function>zoom_in(10, 20, 300, 400)</function>")
    Call(name='zoom_in', numbers=(10.0, 20.0, 300.0, 400.0))
    """
    inside = text.rpartition(CALL_END)[0].rpartition(CALL_BEGIN)[2]
    match = _CALL.fullmatch(inside.strip())
    return None if match is None else Call(match[1], _numbers(match[2].strip()))


def problem_of(call: Call | None, *, offered: Sequence[Function]) -> str | None:
    """Why a call cannot be answered; None where it is one of those that are ``offered``."""
    if call is None or call.name not in offered:
        known = " and ".join(SIGNATURES[each] for each in offered)
        return f"unknown function; known: {known}"
    wanted = 4 if call.name == Function.ZOOM else 0
    if call.numbers is None or len(call.numbers) != wanted:
        return f"wrong arguments; expected {SIGNATURES[Function(call.name)]}"
    return None


def tool_text(
    found: Mapping[str, Sequence[Detection] | None],
    *,
    codec: Codec,
    size: EncodedSize,
    shown: Wording = SHOWN,
) -> str:
    """The results of one or several tools by their names, as ``codec`` writes boxes, in ``shown``.

    Written as JSON of our own making, in which no ``<`` is left: neither a tag nor a special token
    can come out of a label. None is a tool that gave no result. Boxes are in original pixels of
    the image of ``size``; raises ``DataError`` for one without area inside it.

    >>> from reground.grounding.boxes import Box, FrameKind
    >>> codec = Codec(FrameKind.INPUT, Grammar.JSON)
    >>> size = EncodedSize(640, 480, 644, 476)
    >>> box = Detection(0, Box(64, 120, 320, 360, size.pixels))
    >>> text = tool_text({"reftool_1": [box]}, codec=codec, size=size)
    >>> print(text.strip())
    <tool>{"reftool_1": "[{\\"bbox_2d\\": [64, 119, 322, 357]}]"}</tool>
    """
    texts = {
        name: UNAVAILABLE if boxes is None else _spelt(boxes, codec, size)
        for name, boxes in found.items()
    }
    values = {"results": json.dumps(texts), "results_indented": json.dumps(texts, indent=2)}
    return text_of(shown.filled(values))


def refusal_text(problem: str) -> str:
    """What a call gets that no tool can answer, and why; ``problem`` is in words of our own."""
    return f"{OPENING}{json.dumps({'error': problem})}{CLOSING}"


def _spelt(detections: Sequence[Detection], codec: Codec, size: EncodedSize) -> str:
    """Boxes in the codec's grammar; only JSON has room for their labels."""
    if codec.grammar is not Grammar.JSON:
        return codec.spell([each.box for each in detections], size=size)
    items: list[dict[str, object]] = []
    for each in detections:
        units, scale = codec.units(each.box, size=size), 10**codec.decimals
        items.append({"bbox_2d": [n / scale if codec.decimals else n for n in units]})
        if each.label is not None:
            items[-1]["label"] = each.label
    return json.dumps(items).replace("<", "\\u003c")


def _numbers(text: str) -> tuple[float, ...] | None:
    parts = [part.strip() for part in text.split(",")] if text else []
    return tuple(map(float, parts)) if all(map(_NUMBER.fullmatch, parts)) else None
