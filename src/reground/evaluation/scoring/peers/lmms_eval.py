"""lmms-eval's two RefCOCO scorers (EvolvingLMMs-Lab/lmms-eval): ``bbox_rec`` and ``grounding``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from reground.evaluation.scoring.peers.peer import (
    NO_BOX,
    Peer,
    Quad,
    Task,
    judged,
    ordered_iou,
    plain_iou,
)

_NUMBER = r"(-?(?<!\d)\d++(?:\.\d++)?)"  # never tried twice: linear in a text's length
_LIST = re.compile(rf"\[\s*{_NUMBER},\s*{_NUMBER},\s*{_NUMBER},\s*{_NUMBER}\s*\]")
_GAP = r"(?:\s*+,\s*+|\s++)"
_LOOSE = re.compile(_GAP.join([_NUMBER] * 4))
_FENCE = re.compile(r"```(?:json)?", re.IGNORECASE)
_KEYS = ("bbox_2d", "bbox", "box", "coordinates", "coord", "location", "position")


def read_bbox_rec(text: str, task: Task) -> Quad:
    """The first bracketed list of four numbers, which should be 0-1; zeros without one."""
    found = _LIST.search(text)
    return _quad(found.groups()) if found else NO_BOX


def unit_iou(box: Quad, task: Task) -> float:
    """IoU with the truth in 0-1 of the image.

    >>> unit_iou((0.1, 0.5, 0.2, 1.0), Task((64, 240, 128, 480), 640, 480))
    1.0
    """
    x1, y1, x2, y2 = task.truth
    return plain_iou(box, (x1 / task.width, y1 / task.height, x2 / task.width, y2 / task.height))


def read_grounding(text: str, task: Task) -> Quad:
    """The best, by the truth, of all boxes in the text, each read as pixels and as 0-1000.

    >>> read_grounding('{"bbox": [100, 100, 500, 500]}', Task((64, 48, 320, 240), 640, 480))
    (64.0, 48.0, 320.0, 240.0)
    """
    candidates = [reading for box in _boxes(text) for reading in (box, _from_thousand(box, task))]
    return max(candidates, key=lambda box: ordered_iou(box, task), default=NO_BOX)


def _boxes(text: str) -> list[Quad]:
    return list(_in_json(_json(text))) or [_quad(found.groups()) for found in _LOOSE.finditer(text)]


def _json(text: str) -> Any:
    """The fenced block, the text, or what lies between its outer brackets, as JSON."""
    text = text.strip()
    fence = _FENCE.search(text)
    closed = text.find("```", fence.end()) if fence else -1
    pieces = [text[fence.end() : closed].strip()] if fence and closed >= 0 else []
    pieces += [text, *(text[text.find(a) : text.rfind(b) + 1] for a, b in ("[]", "{}"))]
    for piece in pieces:
        try:
            return json.loads(piece)
        except (ValueError, RecursionError):
            continue
    return None


def _in_json(data: Any) -> Iterator[Quad]:
    if isinstance(data, list):
        if len(data) == 4 and all(isinstance(number, int | float) for number in data):
            yield _quad(data)
        else:
            for item in data:
                yield from _in_json(item)
    elif isinstance(data, dict):
        named = [data[key] for key in _KEYS if key in data]
        box = next((quad for quad in map(_quad_or_none, named) if quad), None)
        if box:
            yield box
        else:
            for item in data.values():
                yield from _in_json(item)


def _quad_or_none(value: Any) -> Quad | None:
    try:
        return _quad(value) if isinstance(value, list) and len(value) == 4 else None
    except (TypeError, ValueError):
        return None


def _quad(numbers: Any) -> Quad:
    x1, y1, x2, y2 = map(float, numbers)
    return (x1, y1, x2, y2)


def _from_thousand(box: Quad, task: Task) -> Quad:
    x1, y1, x2, y2 = (value / 1000.0 for value in box)
    return (x1 * task.width, y1 * task.height, x2 * task.width, y2 * task.height)


LMMS_EVAL_BBOX_REC = Peer(
    "lmms_eval_bbox_rec", judged(read_bbox_rec, unit_iou), strict=False, unit=1
)
LMMS_EVAL_GROUNDING = Peer("lmms_eval_grounding", judged(read_grounding, ordered_iou), strict=False)
