"""MIG-Bench's evaluator (Tajamul21/MIG-Agent b33e206, AMAP-ML/UniVG-R1 44868ea).

It reads the first box anywhere, reasoning included.
"""

from __future__ import annotations

import re

from reground.evaluation.scoring.peers.peer import (
    NO_BOX,
    Peer,
    Quad,
    Task,
    integers,
    judged,
    plain_iou,
)

# Tried in this order over the whole text; the first with any match is the one that counts.
_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\((\d+),\s*(\d+)\),\s*\((\d+),\s*(\d+)\)",
        r"\[(\d+\.\d+),\s*(\d+\.\d+),\s*(\d+\.\d+),\s*(\d+\.\d+)\]",
        r"\((\d+\.\d+),(\d+\.\d+)\),\((\d+\.\d+),(\d+\.\d+)\)",
        r"\((\d+\.\d+),\s*(\d+\.\d+),\s*(\d+\.\d+),\s*(\d+\.\d+)\)",
        r"\[(\d+),\s*(\d+),\s*(\d+),\s*(\d+)\]",
        r"<box>(\d+)\s+(\d+)\s+(\d+)\s+(\d+)</box>",
    )
)
_UNIT = 1000


def read(text: str, task: Task) -> Quad:
    """Integers 0-1000 of the first match; zeros where there is none, and for decimals.

    >>> read("(10,20),(30, 40) or (1,2),(3,4)", Task((0, 0, 1, 1), 1000, 1000))
    (10, 20, 30, 40)
    """
    for pattern in _PATTERNS:
        if found := pattern.search(text):
            return integers(found.groups()) or NO_BOX
    return NO_BOX


def read_migician(text: str, task: Task) -> Quad:
    """As :func:`read`, with y alone stretched by 1.05 and 1.10, as they do for Migician.

    >>> read_migician("(270,597),(330,900)", Task((0, 0, 1, 1), 1000, 1000))
    (270, 627, 330, 990)
    """
    x1, y1, x2, y2 = read(text, task)
    return (x1, _stretched(y1, 1.05), x2, _stretched(y2, 1.10))


def iou(box: Quad, task: Task) -> float:
    """Continuous IoU in 0-1000 of the image."""
    return plain_iou(box, task.scaled(_UNIT))


def _stretched(value: float, factor: float) -> int:
    return int(round(min(value / 1000 * factor, 0.999), 3) * 1000)


MIG_BENCH = Peer("mig_bench", judged(read, iou), strict=False, unit=_UNIT)
MIGICIAN = Peer("migician", judged(read_migician, iou), strict=False, unit=_UNIT)
