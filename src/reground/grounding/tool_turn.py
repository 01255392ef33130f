"""What a detector says to a model between its two thoughts (VG-Refiner's think-rethink)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from reground.grounding.families import EncodedSize, Family, Form
from reground.grounding.grammars import Grammar
from reground.grounding.sample import Detection

FIRST_TOOL = "reftool_1"  # what the first tool is called; the next is reftool_2
OPENING, CLOSING = "\n<tool>", "</tool>\n"  # what stands around all that a tool says
UNAVAILABLE = "unavailable"  # in the place of the boxes of a tool that gave no result


def tool_text(
    found: Mapping[str, Sequence[Detection] | None], *, family: Family, size: EncodedSize
) -> str:
    """The results of one or several tools by their names, in the family's own frame.

    Written as JSON of our own making, in which no ``<`` is left: neither a tag nor a special token
    can come out of a label. None is a tool that gave no result. Boxes are in original pixels of
    the image of ``size``; raises ``DataError`` for one without area inside it.

    >>> from reground.grounding.boxes import Box
    >>> from reground.grounding.families import get_family
    >>> size = EncodedSize(640, 480, 644, 476)
    >>> box = Detection(0, Box(64, 120, 320, 360, size.pixels))
    >>> text = tool_text({"reftool_1": [box]}, family=get_family("vg_refiner"), size=size)
    >>> print(text.strip())
    <tool>{"reftool_1": "[{\\"bbox_2d\\": [64, 119, 322, 357]}]"}</tool>
    """
    texts = {
        name: UNAVAILABLE if boxes is None else _spelt(boxes, family, size)
        for name, boxes in found.items()
    }
    return f"{OPENING}{json.dumps(texts)}{CLOSING}"


def refusal_text(problem: str) -> str:
    """What a call gets that no tool can answer, and why; ``problem`` is in words of our own."""
    return f"{OPENING}{json.dumps({'error': problem})}{CLOSING}"


def _spelt(detections: Sequence[Detection], family: Family, size: EncodedSize) -> str:
    """Boxes in the family's grammar; only JSON has room for their labels."""
    if family.grammar is not Grammar.JSON:
        boxes = [each.box for each in detections]
        return replace(family, form=Form.DIRECT).render(boxes, size=size)
    items = [_item(each, family, size) for each in detections]
    return json.dumps(items).replace("<", "\\u003c")


def _item(detection: Detection, family: Family, size: EncodedSize) -> dict[str, object]:
    numbers = family.units(detection.box, size=size)
    scale = 10**family.decimals
    item: dict[str, object] = {"bbox_2d": [n / scale if family.decimals else n for n in numbers]}
    return item if detection.label is None else item | {"label": detection.label}
