"""What another project's scorer is: how it reads a box, measures overlap and counts a hit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Quad = tuple[float, float, float, float]

NO_BOX: Quad = (0, 0, 0, 0)  # what most of them score where they find no box


@dataclass(frozen=True, slots=True)
class Task:
    """What an answer is scored against: the true box and the image's sides, in the same numbers."""

    truth: Quad
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Peer:
    """A scorer, rule for rule.

    ``read`` gives the box that is scored (some peers choose it by the truth), ``iou`` its overlap
    with the truth. A hit has IoU >= t, or with ``strict`` IoU > t.
    """

    name: str
    read: Callable[[str, Task], Quad]
    iou: Callable[[Quad, Task], float]
    strict: bool

    def score(self, text: str, task: Task) -> tuple[Quad, float]:
        """The box that is read from ``text``, and its IoU."""
        box = self.read(text, task)
        return box, self.iou(box, task)


def plain_iou(box: Quad, task: Task) -> float:
    """Continuous IoU; areas keep their sign, so that a reversed box has a smaller union.

    0 where the union is empty.
    """
    truth = task.truth
    width = min(box[2], truth[2]) - max(box[0], truth[0])
    height = min(box[3], truth[3]) - max(box[1], truth[1])
    inter = max(0, width) * max(0, height)
    own = (box[2] - box[0]) * (box[3] - box[1])
    true = (truth[2] - truth[0]) * (truth[3] - truth[1])
    union = own + true - inter
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
