"""VLMEvalKit's RefCOCO (open-compass/VLMEvalKit): the frame is guessed from the largest number."""

from __future__ import annotations

import re

from reground.evaluation.scoring.peers.peer import Peer, Quad, Task, judged, ordered_iou

_NUMBER = r"[-+]?(?:\d++(?:\.\d++)?|\.\d++)(?:[eE][-+]?\d+)?"
_GAP = r"(?:\s*,\s*|\s+)"
_LIST = re.compile(rf"\[\s*({_NUMBER}){_GAP}({_NUMBER}){_GAP}({_NUMBER}){_GAP}({_NUMBER})\s*\]")


def read(text: str, task: Task) -> Quad | None:
    """The first bracketed list of four numbers, else the first four numbers; none of fewer.

    Numbers up to 1.5 are taken as 0-1, up to 1000 as 0-1000 and larger ones as pixels; the box is
    clipped to the image and its corners put in order.

    >>> read("[250, 250, 500, 500]", Task((250, 250, 500, 500), 640, 480))  # pixels, misread
    (160.0, 120.0, 320.0, 240.0)
    """
    found = _LIST.search(text)
    numbers = list(found.groups()) if found else re.findall(_NUMBER, text)
    if len(numbers) < 4:
        return None
    x1, y1, x2, y2 = map(float, numbers[:4])
    largest = max(map(abs, (x1, y1, x2, y2)))
    xs = sorted(_pixel(value, largest, task.width) for value in (x1, x2))
    ys = sorted(_pixel(value, largest, task.height) for value in (y1, y2))
    return (xs[0], ys[0], xs[1], ys[1])


def _pixel(value: float, largest: float, side: float) -> float:
    if largest <= 1.5:
        value = value * side
    elif largest <= 1000:
        value = value / 1000.0 * side
    return min(max(value, 0.0), side)


VLMEVALKIT_REFCOCO = Peer("vlmevalkit_refcoco", judged(read, ordered_iou), strict=False)
