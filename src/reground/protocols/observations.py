"""What a model is told between its turns: a detector's result, or why there is none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from reground.grounding.codecs import Codec, EncodedSize
from reground.grounding.grammars import Grammar
from reground.grounding.sample import Detection

FIRST_TOOL = "reftool_1"  # what the first tool is called; the next is reftool_2
OPENING, CLOSING = "\n<tool>", "</tool>\n"  # what surrounds all that a tool says
UNAVAILABLE = "unavailable"  # in the place of the boxes of a tool that gave no result


def tool_text(
    found: Mapping[str, Sequence[Detection] | None], *, codec: Codec, size: EncodedSize
) -> str:
    """The results of one or several tools by their names, as ``codec`` writes boxes.

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
    return f"{OPENING}{json.dumps(texts)}{CLOSING}"


def refusal_text(problem: str) -> str:
    """What a call gets that no tool can answer, and why; ``problem`` is in words of our own."""
    return f"{OPENING}{json.dumps({'error': problem})}{CLOSING}"


def _spelt(detections: Sequence[Detection], codec: Codec, size: EncodedSize) -> str:
    """Boxes in the codec's grammar; only JSON has room for their labels."""
    if codec.grammar is not Grammar.JSON:
        return codec.spell([each.box for each in detections], size=size)
    items = [_item(each, codec, size) for each in detections]
    return json.dumps(items).replace("<", "\\u003c")


def _item(detection: Detection, codec: Codec, size: EncodedSize) -> dict[str, object]:
    numbers = codec.units(detection.box, size=size)
    scale = 10**codec.decimals
    item: dict[str, object] = {"bbox_2d": [n / scale if codec.decimals else n for n in numbers]}
    return item if detection.label is None else item | {"label": detection.label}
