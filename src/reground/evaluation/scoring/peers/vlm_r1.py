"""VLM-R1's evaluation scripts and reward (om-ai-lab/VLM-R1), which read different boxes.

``test_rec_r1.py`` reads the answer block, ``test_rec_baseline.py`` the whole text, and the reward
the first list of the answer block.
"""

from __future__ import annotations

import re

from reground.evaluation.scoring.peers.peer import NO_BOX, Peer, Quad, Task

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_INTEGERS = re.compile(r"\[(\d+),\s*(\d+),\s*(\d+),\s*(\d+)]")


def read_answer(text: str, task: Task) -> Quad:
    """The last list of four integers between braces of the first answer block, or zeros.

    >>> text = '<answer>{"bbox_2d": [1, 2, 3, 4], "or": [5, 6, 7, 8]}</answer>'
    >>> read_answer(text, Task((0, 0, 1, 1), 640, 480))
    (5, 6, 7, 8)
    """
    block = _ANSWER.search(text)
    content = block[1] if block else ""
    first, last = content.find("{"), content.rfind("}")
    lists = _INTEGERS.findall(content, first, last) if 0 <= first < last else []
    return _quad(lists[-1]) if lists else NO_BOX


def read_anywhere(text: str, task: Task) -> Quad:
    """The first list of four integers in the text, or zeros."""
    found = _INTEGERS.search(text)
    return _quad(found.groups()) if found else NO_BOX


def read_last(text: str, task: Task) -> Quad:
    """The last list of four integers in the text, or zeros: the tolerant reading of its forks."""
    found = _INTEGERS.findall(text)
    return _quad(found[-1]) if found else NO_BOX


def read_reward(text: str, task: Task) -> Quad:
    """The first list of four integers in the first answer block, or zeros."""
    block = _ANSWER.search(text)
    return read_anywhere(block[1], task) if block else NO_BOX


def inclusive_iou(box: Quad, task: Task) -> float:
    """Right and lower edges lowered by one; whole pixels in the intersection, not in the union."""
    truth = task.truth
    left, upper = max(box[0], truth[0]), max(box[1], truth[1])
    right, lower = min(box[2] - 1, truth[2] - 1), min(box[3] - 1, truth[3] - 1)
    inside = left < right and upper < lower
    inter = (right - left + 1) * (lower - upper + 1) if inside else 0
    own = (box[2] - box[0]) * (box[3] - box[1])
    true = (truth[2] - truth[0]) * (truth[3] - truth[1])
    return inter / (own + true - inter)


def _quad(numbers: tuple[str, ...]) -> Quad:
    x1, y1, x2, y2 = map(int, numbers)
    return (x1, y1, x2, y2)


VLM_R1 = Peer("vlm_r1", read_answer, inclusive_iou, strict=True)
VLM_R1_BASELINE = Peer("vlm_r1", read_anywhere, inclusive_iou, strict=True)
VLM_R1_TOLERANT = Peer("vlm_r1_tolerant", read_last, inclusive_iou, strict=True)
VLM_R1_REWARD = Peer("vlm_r1_reward", read_reward, inclusive_iou, strict=True)
