"""VG-Refiner's evaluation under PiTER (VoyageWang/VG-Refiner).

It reads otherwise than their reward (:mod:`reground.grounding.refinement_reward`): the first JSON
with a box anywhere in the text, a tool's box quoted in the reasoning included.
"""

from __future__ import annotations

import json
import re
from typing import Any

from reground.evaluation.scoring.peers.peer import NO_BOX, Peer, Quad, Task
from reground.grounding.refinement_reward import quads

_ARRAY = re.compile(r"\[.*?\]", re.DOTALL)
_OBJECT = re.compile(r'\{[^{}]*"bbox_2d"[^{}]*\}')


def read(text: str, task: Task) -> Quad:
    """The best, by the truth, of the boxes in the first JSON that holds one; zeros without one.

    The text as a whole is tried first, then arrays up to their first bracket, then flat objects.
    """
    boxes = list(quads(_first_json(text)))
    return max(boxes, key=lambda box: iou(box, task), default=NO_BOX)


def iou(box: Quad, task: Task) -> float:
    """Continuous IoU with 1e-6 added to the union."""
    truth = task.truth
    width = min(box[2], truth[2]) - max(box[0], truth[0])
    height = min(box[3], truth[3]) - max(box[1], truth[1])
    inter = max(0, width) * max(0, height)
    union = _area(box) + _area(truth) - inter
    return inter / (union + 1e-6)


def _first_json(text: str) -> Any:
    whole = _loaded(text.strip())
    if isinstance(whole, list | dict):
        return whole
    for found in _ARRAY.finditer(text):
        data = _loaded(found[0])
        if isinstance(data, list) and data and isinstance(data[0], dict) and "bbox_2d" in data[0]:
            return data
    for found in _OBJECT.finditer(text):
        if (data := _loaded(found[0])) is not None:
            return data
    return []


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _area(box: Quad) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


VG_REFINER = Peer("vg_refiner", read, iou, strict=True)
