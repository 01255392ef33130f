"""UniVG-R1's zero-shot scorer and the rewards that it was trained with (AMAP-ML/UniVG-R1 44868ea).

The zero-shot scripts of LISA, LLMSeg, ReVOS and ReasonVOS read alike.
"""

from __future__ import annotations

import re

from reground.evaluation.scoring.peers.peer import (
    Peer,
    Quad,
    Task,
    Verdict,
    integers,
    judged,
    measured,
    plain_iou,
)
from reground.evaluation.scoring.peers.vlm_r1 import inclusive_iou
from reground.grounding.refinement_reward import answer_blocks

_SPACED = re.compile(r"\(\s*(\d+)\s*,\s*(\d+)\s*\)\s*,\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)")
_CORNERS = re.compile(r"\((\d+),\s*(\d+)\),\s*\((\d+),\s*(\d+)\)")
_ENDS_WELL = re.compile(r"</think>\s*<answer>\(\d+,\s*\d+\),\s*\(\d+,\s*\d+\)</answer>$")


def read_zero_shot(text: str, task: Task) -> Quad | None:
    """The first pair of corners anywhere, 0-1000 divided by 1000.

    >>> read_zero_shot("at ( 100, 200 ), (300,400)", Task((0, 0, 1, 1), 640, 480))
    (0.1, 0.2, 0.3, 0.4)
    """
    found = _SPACED.search(text)
    box = integers(found.groups()) if found else None
    try:
        return box and tuple(value / 1000 for value in box)
    except OverflowError:
        return None


def unit_iou(box: Quad, task: Task) -> float:
    """Continuous IoU in 0-1 of the image, with 1e-6 added to the union."""
    return plain_iou(box, task.scaled(1), more=1e-6)


def reward(text: str, task: Task) -> Verdict:
    """Of rows that are answered with reasoning: the IoU of the first box of the answer block.

    >>> text = "<think>It is left.</think><answer>(0,0),(500,500)</answer>"
    >>> found = reward(text, Task((0, 0, 320, 240), 640, 480))
    >>> found.reward, found.form
    (1.0, 1.0)
    """
    block, ending = next(answer_blocks(text), ""), _ENDS_WELL.search(text)
    earned = _corners_iou(block, task)
    well = ending is not None and "<think>" in text[: ending.start()]
    return Verdict(None, None, reward=earned, form=float(well))


def bare_reward(text: str, task: Task) -> Verdict:
    """Of RefCOCO's rows, answered without reasoning: the IoU of the first box anywhere.

    >>> bare_reward("(0,0),(500,500)", Task((0, 0, 320, 240), 640, 480)).reward
    1.0
    """
    form = float(_CORNERS.search(text) is not None)
    return Verdict(None, None, reward=_corners_iou(text, task), form=form)


def _corners_iou(text: str, task: Task) -> float:
    found = _CORNERS.search(text)
    box = integers(found.groups()) if found else None
    return measured(lambda: inclusive_iou(box, task.scaled(1000))) if box else 0.0


UNIVG_R1_ZERO_SHOT = Peer(
    "univg_r1_zero_shot", judged(read_zero_shot, unit_iou), strict=False, unit=1
)
UNIVG_R1_REWARD = Peer("univg_r1_reward", reward, strict=None)
UNIVG_R1_REWARD_BARE = Peer("univg_r1_reward_bare", bare_reward, strict=None)
