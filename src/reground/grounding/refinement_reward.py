"""VG-Refiner's reward of one response, by its published rules (VoyageWang/VG-Refiner 4ad7751).

Its rules of reading are its own: the last answer block, as JSON, in the numbers of the text. Our
metrics read with :func:`reground.grounding.answers.parse`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Quad = tuple[float, ...]  # left, upper, right, lower in the text's numbers

_TAG_GAPS = re.compile(r"(?:(?<!\s)\s++)?([<>/])\s*+")  # \s*([<>/])\s*, in linear time
_TAGS = ("<think>", "</think>", "<rethink>", "</rethink>", "<answer>", "</answer>")
_MAX_OBJECTS = 120
UNREADABLE = (ValueError, TypeError, KeyError, IndexError, RecursionError, OverflowError)


@dataclass(frozen=True, slots=True)
class Reward:
    """Their reward of one response: 0.9 x refinement + 0.1 x format."""

    overall: float
    format: float
    refinement: float
    model_iou: float
    tool_iou: float


def reward(
    text: str,
    *,
    truth: Sequence[Quad],
    tool: Sequence[Quad],
    boxes: Sequence[Quad] | None = None,
) -> Reward:
    """1 for a correction of a wrong tool, 0.5 for a confirmation, 0 where the answer is wrong.

    IoUs are inclusive and matched one to one, over max(n_predicted, n_true); wrong is below 0.5.
    ``boxes`` are those of ``text`` in families that write no JSON.

    >>> text = '<think></think><rethink></rethink><answer>{"bbox_2d": [0, 0, 9, 9]}</answer>'
    >>> reward(text, truth=[(0, 0, 9, 9)], tool=[(50, 50, 59, 59)]).overall
    1.0
    """
    text = _TAG_GAPS.sub(r"\1", text)
    predicted = last_boxes(text) if boxes is None else boxes
    model_iou = 0.0 if predicted is None else _set_iou(predicted, truth)
    tool_iou = _set_iou(tool, truth)
    right = 0.5 if tool_iou >= 0.5 else 1.0
    refinement = right if model_iou >= 0.5 else 0.0
    form = float(all(tag in text for tag in _TAGS))
    return Reward(0.9 * refinement + 0.1 * form, form, refinement, model_iou, tool_iou)


def answer_blocks(text: str) -> Iterator[str]:
    """What stands in each answer block, over line ends too; an open one is none.

    >>> list(answer_blocks("<answer>1</answer> <answer>2"))
    ['1']
    """
    begin = text.find("<answer>")
    while begin >= 0 and (end := text.find("</answer>", begin + 8)) >= 0:
        yield text[begin + 8 : end]
        begin = text.find("<answer>", end + 9)


def boxes_in(content: str) -> list[Any]:
    """Every ``bbox_2d`` of an answer's JSON, an object or a list of objects, whatever it holds.

    Raises one of several errors where one item is no object: their code then gives the whole list
    nothing.
    """
    data = json.loads(content)
    if isinstance(data, dict):
        data = [data]
    return [item["bbox_2d"] for item in data if "bbox_2d" in item]


def overlaps(boxes: Sequence[Any], truth: Sequence[Any], *, pixel: int, more: float) -> Any:
    """IoU of all boxes with all true ones [M, N], by numpy's rules, as in their code.

    ``pixel`` is what a box reaches over its last number, ``more`` is added to the union. A box of
    8 or 12 numbers is split in four as well: [M, 2] or [M, 3] come of it. Raises where numpy does.

    >>> overlaps([[0, 0, 9, 9]], [(0, 0, 9, 19)], pixel=1, more=0).tolist()
    [[0.5]]
    """
    left, upper, right, lower = np.split(np.array(boxes), 4, axis=1)
    sides = (side.T for side in np.split(np.array(truth), 4, axis=1))
    true_left, true_upper, true_right, true_lower = sides
    with np.errstate(all="ignore"):
        width = np.minimum(right, true_right) - np.maximum(left, true_left) + pixel
        height = np.minimum(lower, true_lower) - np.maximum(upper, true_upper) + pixel
        inter = np.maximum(0, width) * np.maximum(0, height)
        own = (right - left + pixel) * (lower - upper + pixel)
        true = (true_right - true_left + pixel) * (true_lower - true_upper + pixel)
        return inter / (own + true - inter + more)


def answered(text: str) -> list[Any] | None:
    """The boxes of a response's last answer block; None for one that cannot be read in full.

    >>> answered('<answer>[{"bbox_2d": [1, 2, 3, 4]}]</answer>'), answered("<answer>[3]</answer>")
    ([[1, 2, 3, 4]], None)
    """
    return last_boxes(_TAG_GAPS.sub(r"\1", text))


def last_boxes(text: str) -> list[Any] | None:
    """As :func:`answered`, of tags that are spelt exactly."""
    *_, content = "", *answer_blocks(text)
    try:
        return boxes_in(content) if content.strip() else []
    except UNREADABLE:
        return None


def _set_iou(predicted: Sequence[Any], truth: Sequence[Quad]) -> float:
    predicted, truth = predicted[:_MAX_OBJECTS], truth[:_MAX_OBJECTS]
    if not predicted or not truth:
        return 1.0 if not predicted and not truth else 0.0
    from scipy.optimize import linear_sum_assignment  # 0.4 s, for this reward alone

    try:
        found = overlaps(predicted, truth, pixel=1, more=0)
        rows, columns = linear_sum_assignment(1.0 - found)
    except UNREADABLE:
        return 0.0
    value = float(found[rows, columns].sum() / max(len(predicted), len(truth)))
    return value if math.isfinite(value) else 0.0
