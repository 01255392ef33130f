"""What another project's scorer is: how it reads a box, measures overlap and counts a hit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Quad = tuple[float, ...]  # left, upper, right, lower; VG-Refiner's second script takes longer ones

NO_BOX: Quad = (0, 0, 0, 0)  # what some of them score where they find no box
RIGHT = 0.5


@dataclass(frozen=True, slots=True)
class Task:
    """What a text is scored against, in pixels: the true box, the image's sides, a tool's box."""

    truth: Quad
    width: float
    height: float
    tool: Quad | None = None

    def scaled(self, unit: float) -> Quad:
        """The true box where the image's sides are both ``unit`` long.

        >>> Task((64, 48, 320, 240), 640, 480).scaled(1)
        (0.1, 0.1, 0.5, 0.5)
        """
        x, y = unit / self.width, unit / self.height
        return tuple(value * side for value, side in zip(self.truth, (x, y, x, y), strict=True))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a scorer makes of one text.

    ``box`` is as it was read, in the scorer's own unit; None where there is none. ``iou`` is None
    where the scorer gives none. ``reward``, ``form`` and ``tool_iou`` are those of rewards.
    """

    box: Quad | None
    iou: float | None
    reward: float | None = None
    form: float | None = None
    tool_iou: float | None = None

    @property
    def found(self) -> bool:
        """Whether a box was read."""
        return self.box is not None and self.box != NO_BOX


@dataclass(frozen=True, slots=True)
class Peer:
    """A scorer, rule for rule.

    A hit has IoU >= 0.5, or with ``strict`` IoU > 0.5; None for rewards that count no hits. Boxes
    are in pixels, or in an image whose sides are ``unit`` long.
    """

    name: str
    judge: Callable[[str, Task], Verdict]
    strict: bool | None
    unit: float | None = None
    needs_tool: bool = False

    def hit(self, verdict: Verdict) -> bool | None:
        """Whether it counts as right."""
        if self.strict is None:
            return None
        iou = verdict.iou or 0.0
        return iou > RIGHT if self.strict else iou >= RIGHT

    def in_pixels(self, box: Quad, task: Task) -> Quad:
        """A box that was read, in pixels of the image."""
        if self.unit is None:
            return box
        x, y = task.width / self.unit, task.height / self.unit
        return tuple(value * side for value, side in zip(box, (x, y, x, y), strict=True))


def judged(
    read: Callable[[str, Task], Quad | None], iou: Callable[[Quad, Task], float]
) -> Callable[[str, Task], Verdict]:
    """A scorer that reads one box and measures it; without one the IoU is 0."""

    def judge(text: str, task: Task) -> Verdict:
        box = read(text, task)
        return Verdict(box, 0.0 if box is None else measured(lambda: iou(box, task)))

    return judge


def measured(iou: Callable[[], float]) -> float:
    """An IoU; 0 where numbers of hundreds of digits leave none."""
    try:
        value = iou()
    except OverflowError:
        return 0.0
    return value if math.isfinite(value) else 0.0


def integers(found: tuple[str, ...]) -> Quad | None:
    """Texts of numbers as integers; None where one is none, as ``12.5``."""
    try:
        return tuple(map(int, found))
    except ValueError:
        return None


def plain_iou(box: Quad, truth: Quad, more: float = 0.0) -> float:
    """Continuous IoU; areas keep their sign, so that a reversed box has a smaller union.

    ``more`` is added to the union; 0 where that is empty.
    """
    width = min(box[2], truth[2]) - max(box[0], truth[0])
    height = min(box[3], truth[3]) - max(box[1], truth[1])
    inter = max(0, width) * max(0, height)
    own = (box[2] - box[0]) * (box[3] - box[1])
    true = (truth[2] - truth[0]) * (truth[3] - truth[1])
    union = own + true - inter + more
    return inter / union if union else 0.0


def ordered_iou(box: Quad, task: Task) -> float:
    """Continuous IoU in which a reversed box has no area."""
    truth = task.truth
    width = min(box[2], truth[2]) - max(box[0], truth[0])
    height = min(box[3], truth[3]) - max(box[1], truth[1])
    inter = max(0.0, width) * max(0.0, height)
    areas = [max(0.0, b[2] - b[0]) * max(0.0, b[3] - b[1]) for b in (box, truth)]
    union = sum(areas) - inter
    return inter / union if union > 0 else 0.0
