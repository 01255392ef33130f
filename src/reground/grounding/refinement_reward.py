"""VG-Refiner's reward of one response, by its published rules (VoyageWang/VG-Refiner).

A list with one item that is no box is read otherwise than by their code.

Its rules of reading are its own: the last answer block, as JSON, in the numbers of the text. Our
metrics read with :func:`reground.grounding.answers.parse`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Quad = tuple[float, float, float, float]  # left, upper, right, lower in the text's numbers

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_TAG_GAPS = re.compile(r"\s*([<>/])\s*")
_TAGS = ("<think>", "</think>", "<rethink>", "</rethink>", "<answer>", "</answer>")
_MAX_OBJECTS = 120


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
    predicted = _answered(text) if boxes is None else boxes
    model_iou, tool_iou = _set_iou(predicted, truth), _set_iou(tool, truth)
    right = 0.5 if tool_iou >= 0.5 else 1.0
    refinement = right if model_iou >= 0.5 else 0.0
    form = float(all(tag in text for tag in _TAGS))
    return Reward(0.9 * refinement + 0.1 * form, form, refinement, model_iou, tool_iou)


def quads(data: Any) -> Iterator[Quad]:
    """The ``bbox_2d`` of four numbers in decoded JSON, an object or a list of objects."""
    if not isinstance(data, dict | list):
        return
    for item in [data] if isinstance(data, dict) else data:
        box = item.get("bbox_2d") if isinstance(item, dict) else None
        if isinstance(box, list) and len(box) == 4 and all(isinstance(n, int | float) for n in box):
            yield (box[0], box[1], box[2], box[3])


def _answered(text: str) -> list[Quad]:
    answers = _ANSWER.findall(text)
    try:
        return list(quads(json.loads(answers[-1]))) if answers else []
    except (ValueError, RecursionError):
        return []


def _set_iou(predicted: Sequence[Quad], truth: Sequence[Quad]) -> float:
    predicted, truth = predicted[:_MAX_OBJECTS], truth[:_MAX_OBJECTS]
    if not predicted or not truth:
        return 1.0 if not predicted and not truth else 0.0
    overlaps = np.array([[_inclusive_iou(box, true) for true in truth] for box in predicted])
    from scipy.optimize import linear_sum_assignment  # 0.4 s, for this reward alone

    rows, columns = linear_sum_assignment(overlaps, maximize=True)
    return float(overlaps[rows, columns].sum() / max(overlaps.shape))


def _inclusive_iou(box: Quad, truth: Quad) -> float:
    width = min(box[2], truth[2]) - max(box[0], truth[0]) + 1
    height = min(box[3], truth[3]) - max(box[1], truth[1]) + 1
    inter = max(0, width) * max(0, height)
    areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (box, truth)]
    union = sum(areas) - inter
    return inter / union if union > 0 else 0.0
