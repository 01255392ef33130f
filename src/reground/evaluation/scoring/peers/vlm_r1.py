"""VLM-R1's two evaluation scripts and its reward (om-ai-lab/VLM-R1 6fd7e5e).

``test_rec_r1.py`` reads the answer block, ``test_rec_baseline.py`` the whole text, and the reward
the first list of the answer block. A block that goes over a line's end is none; later states of
the first script (388cf47 on) read it.
"""

from __future__ import annotations

import re

from reground.evaluation.scoring.peers.peer import (
    NO_BOX,
    RIGHT,
    Peer,
    Quad,
    Task,
    Verdict,
    integers,
    judged,
    measured,
)
from reground.grounding.refinement_reward import answer_blocks

_INTEGERS = re.compile(r"\[(\d+),\s*(\d+),\s*(\d+),\s*(\d+)]")
_NUMBER = r"\s*+(-?(?:\d++(?:\.\d++)?|\.\d++))\s*+"  # never tried twice: linear in a text's length
_LIST = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")
_TURN = re.compile(r"</think>\s*<answer>")
_OPEN, _CLOSE = "<answer>", "</answer>"


def read_answer(text: str, task: Task) -> Quad:
    """The last list of four integers between braces of the answer block, or zeros.

    >>> text = '<answer>{"bbox_2d": [1, 2, 3, 4], "or": [5, 6, 7, 8]}</answer>'
    >>> read_answer(text, Task((0, 0, 1, 1), 640, 480))
    (5, 6, 7, 8)
    """
    content = _answer(text) or ""
    lists = _between_braces(content)
    return (integers(lists[-1]) if lists else None) or NO_BOX


def read_over_lines(text: str, task: Task) -> Quad:
    """As :func:`read_answer`, of an answer block that may go over line ends."""
    lists = _between_braces(next(answer_blocks(text), ""))
    return (integers(lists[-1]) if lists else None) or NO_BOX


def read_anywhere(text: str, task: Task) -> Quad:
    """The first list of four numbers in the text; zeros without one, and for decimals.

    >>> read_anywhere("It is [ 1, -2, 3, 4 ].", Task((0, 0, 1, 1), 640, 480))
    (1, -2, 3, 4)
    """
    found = _LIST.search(text)
    return (integers(found.groups()) if found else None) or NO_BOX


def reward(text: str, task: Task) -> Verdict:
    """1 where the first list of the answer block is right, and the form of the whole text.

    >>> text = '<think>Left.</think><answer>{"bbox_2d": [0, 0, 9, 9]}</answer>'
    >>> found = reward(text, Task((0, 0, 9, 9), 640, 480))
    >>> found.reward, found.form
    (1.0, 1.0)
    """
    content = _answer(text)
    found = _LIST.search(content) if content is not None else None
    box = integers(found.groups()) if found else None
    iou = measured(lambda: _iou(box, task)) if box else None
    return Verdict(box, iou, reward=float((iou or 0.0) > RIGHT), form=float(_has_form(text)))


def inclusive_iou(box: Quad, truth: Quad) -> float:
    """Right and lower edges lowered by one; whole pixels in the intersection, not in the union."""
    left, upper = max(box[0], truth[0]), max(box[1], truth[1])
    right, lower = min(box[2] - 1, truth[2] - 1), min(box[3] - 1, truth[3] - 1)
    inside = left < right and upper < lower
    inter = (right - left + 1) * (lower - upper + 1) if inside else 0
    own = (box[2] - box[0]) * (box[3] - box[1])
    true = (truth[2] - truth[0]) * (truth[3] - truth[1])
    union = own + true - inter
    return inter / union if union else 0.0


def _iou(box: Quad, task: Task) -> float:
    return inclusive_iou(box, task.truth)


def _answer(text: str) -> str | None:
    """The first answer block that stands on one line."""
    for line in text.split("\n"):
        begin = line.find(_OPEN)
        end = line.find(_CLOSE, begin + len(_OPEN)) if begin >= 0 else -1
        if end >= 0:
            return line[begin + len(_OPEN) : end]
    return None


def _between_braces(text: str) -> list[tuple[str, ...]]:
    """The lists of four integers behind some brace and before another."""
    first, last = text.find("{"), text.rfind("}")
    return _INTEGERS.findall(text, first, last) if 0 <= first < last else []


def _has_form(text: str) -> bool:
    """A thought, then an answer with a list of four integers between braces, and nothing else."""
    turn = _TURN.search(text, len("<think>"))
    if not (turn and text.startswith("<think>") and text.endswith(_CLOSE)):
        return False
    return bool(_between_braces(text[turn.end() : -len(_CLOSE)]))


VLM_R1 = Peer("vlm_r1", judged(read_answer, _iou), strict=True)
VLM_R1_OVER_LINES = Peer("vlm_r1_over_lines", judged(read_over_lines, _iou), strict=True)
VLM_R1_BASELINE = Peer("vlm_r1_baseline", judged(read_anywhere, _iou), strict=True)
VLM_R1_REWARD = Peer("vlm_r1_reward", reward, strict=True)
