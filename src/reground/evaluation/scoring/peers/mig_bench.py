"""MIG-Bench's evaluator (thunlp/Migician): the first box anywhere, reasoning included."""

from __future__ import annotations

import re

from reground.evaluation.scoring.peers.peer import NO_BOX, Peer, Quad, Task, plain_iou

# Tried in this order over the whole text; the first with any match wins.
_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\((\d+), (\d+)\), \((\d+), (\d+)\)",
        r"\[(\d*\.\d+), (\d*\.\d+), (\d*\.\d+), (\d*\.\d+)\]",
        r"\((\d+\.?\d*),(\d+\.?\d*)\),\((\d+\.?\d*),(\d+\.?\d*)\)",
        r"\((\d*\.\d+), (\d*\.\d+), (\d*\.\d+), (\d*\.\d+)\)",
        r"\[(\d+), (\d+), (\d+), (\d+)\]",
        r"<box>(\d+) (\d+) (\d+) (\d+)</box>",
    )
)


def read(text: str, task: Task) -> Quad:
    """Integers 0-1000 of the first match; zeros where there is none, and for decimals.

    >>> read("(10,20),(30,40)", Task((0, 0, 1, 1), 1000, 1000))
    (10, 20, 30, 40)
    """
    for pattern in _PATTERNS:
        if found := pattern.search(text):
            try:
                x1, y1, x2, y2 = map(int, found.groups())
            except ValueError:  # their conversion fails on decimals, and they count zeros
                return NO_BOX
            return (x1, y1, x2, y2)
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
    x1, y1, x2, y2 = task.truth
    x, y = 1000 / task.width, 1000 / task.height
    return plain_iou(box, Task((x1 * x, y1 * y, x2 * x, y2 * y), 1000, 1000))


def _stretched(value: float, factor: float) -> int:
    return int(round(min(value / 1000 * factor, 0.999), 3) * 1000)


MIG_BENCH = Peer("mig_bench", read, iou, strict=False)
MIG_BENCH_MIGICIAN = Peer("mig_bench", read_migician, iou, strict=False)
