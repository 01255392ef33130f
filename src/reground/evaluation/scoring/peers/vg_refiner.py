"""VG-Refiner's two evaluation scripts and its reward (VoyageWang/VG-Refiner 4ad7751).

One script reads the first JSON with a box anywhere, a tool's box quoted in the reasoning included;
the other, for models that are shown the tool's boxes, the last answer block. The reward is that of
:mod:`reground.grounding.refinement_reward`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from reground.evaluation.scoring.peers.peer import Peer, Task, Verdict, measured
from reground.grounding.refinement_reward import UNREADABLE, answered, last_boxes, overlaps
from reground.grounding.refinement_reward import reward as published

_OBJECT = re.compile(r"\{[^{}]*\}")
_NOTHING = Verdict(None, 0.0)


def first_json(text: str, task: Task) -> Verdict:
    """The best, by the truth, of the boxes in the first JSON that holds one.

    The text as a whole is tried first, then arrays up to their first bracket, then flat objects.

    >>> text = '[{"bbox_2d": [1, 2, 3, 4]}, {"bbox_2d": [0, 0, 9, 9]}]'
    >>> first_json(text, Task((0, 0, 9, 9), 9, 9)).box
    (0, 0, 9, 9)
    """
    data = _first_json(text)
    items = [data] if isinstance(data, dict) else data
    boxes = [item["bbox_2d"] for item in items if isinstance(item, dict) and "bbox_2d" in item]
    quads = [box for box in boxes if isinstance(box, list) and len(box) == 4]
    try:
        found = _ious(quads, task) if quads else None
    except UNREADABLE:
        return _NOTHING
    if found is None:
        return _NOTHING
    return Verdict(tuple(quads[int(np.argmax(found))]), measured(lambda: float(np.max(found))))


def last_answer(text: str, task: Task) -> Verdict:
    """The boxes of the last answer block: the first is told, the best counts.

    >>> text = '<answer>[{"bbox_2d": [1, 2, 3, 4]}, {"bbox_2d": [0, 0, 9, 9]}]</answer>'
    >>> found = last_answer(text, Task((0, 0, 9, 9), 9, 9))
    >>> found.box, round(found.iou, 6)
    ((1, 2, 3, 4), 1.0)
    """
    boxes = last_boxes(text)
    try:
        found = _ious(boxes, task) if boxes else None
    except UNREADABLE:
        return _NOTHING
    if not boxes or found is None or not found.size:
        return _NOTHING
    return Verdict(tuple(boxes[0]), measured(lambda: float(np.max(found))))


def refinement(text: str, task: Task) -> Verdict:
    """Their reward; without a tool's box the tool was wrong. A box is told where there is one."""
    tool = [task.tool] if task.tool else []
    found = published(text, truth=[task.truth], tool=tool)
    boxes = answered(text) or []
    alone = len(boxes) == 1 and isinstance(boxes[0], list) and len(boxes[0]) == 4
    return Verdict(
        tuple(boxes[0]) if alone else None,
        found.model_iou,
        reward=found.overall,
        form=found.format,
        tool_iou=found.tool_iou,
    )


def _ious(boxes: Sequence[Any], task: Task) -> Any:
    return overlaps(boxes, [task.truth], pixel=0, more=1e-6)


def _first_json(text: str) -> Any:
    whole = _loaded(text.strip())
    if isinstance(whole, list | dict):
        return whole
    for array in _arrays(text):
        data = _loaded(array)
        if isinstance(data, list) and data and isinstance(data[0], dict) and "bbox_2d" in data[0]:
            return data
    for found in _OBJECT.findall(text):
        data = _loaded(found) if '"bbox_2d"' in found else None
        if isinstance(data, dict) and "bbox_2d" in data:
            return data
    return []


def _arrays(text: str) -> Iterator[str]:
    """From each bracket to the next that closes, one after the other."""
    begin = text.find("[")
    while begin >= 0 and (end := text.find("]", begin)) >= 0:
        yield text[begin : end + 1]
        begin = text.find("[", end)


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


VG_REFINER = Peer("vg_refiner", first_json, strict=True)
VG_REFINER_PRECOMPUTED = Peer("vg_refiner_precomputed", last_answer, strict=True)
VG_REFINER_REWARD = Peer("vg_refiner_reward", refinement, strict=False, needs_tool=True)
