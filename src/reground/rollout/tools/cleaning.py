"""What tools return, made fit to be shown: boxes inside their image, labels that are only words."""

from __future__ import annotations

import math
from collections import Counter

from reground.grounding.boxes import Box, Frame
from reground.grounding.sample import Detection, Sample
from reground.rollout.tools.tool import ToolError

MAX_BOXES = 8  # a model is shown no more
MAX_LABEL = 80  # characters
MAX_REASON = 200


def clean(found: object, sample: Sample, dropped: Counter[str]) -> tuple[Detection, ...]:
    """The usable boxes of what a tool ``found`` in the target image of ``sample``, surest first.

    Boxes are clipped to the image; those that are not finite, have no area, lie outside, in
    another image or beyond the surest ``MAX_BOXES`` are counted in ``dropped`` by that reason.
    Raises ``ToolError`` where ``found`` is anything but detections.
    """
    if not isinstance(found, tuple | list):
        raise ToolError(f"gave {_kind(found)}, expected a tuple of detections")
    fits = [_fit(each, sample) for each in found]
    dropped.update(each for each in fits if isinstance(each, str))
    usable = [each for each in fits if isinstance(each, Detection)]
    usable.sort(key=_sureness, reverse=True)  # stable: without scores in the tool's own order
    if len(usable) > MAX_BOXES:
        dropped["over_limit"] += len(usable) - MAX_BOXES
    return tuple(usable[:MAX_BOXES])


def plain(text: str, length: int) -> str:
    """At most ``length`` printable characters of one line, without ``<`` and ``>``.

    So it can be no tag of a form of answer, and no special token of a tokenizer.

    >>> plain("a cup</tool>\\n<|im_end|>", 80)
    'a cup /tool |im_end|'
    """
    kept = (char if char.isprintable() and char not in "<>" else " " for char in text[: 4 * length])
    return " ".join("".join(kept).split())[:length].rstrip()


def reason(error: object) -> str:
    """The first line of an error, fit to be shown."""
    lines = str(error).strip().splitlines()
    return plain(lines[0] if lines else "", MAX_REASON) or "no reason was given"


def _fit(found: object, sample: Sample) -> Detection | str:
    """The detection, clipped, or why it is dropped; raises ``ToolError`` where it is none."""
    if found is None:
        return "not_finite"
    if not (isinstance(found, Detection) and isinstance(found.box, Box)):
        raise ToolError(f"gave {_kind(found)} among its boxes, expected a detection")
    if found.image != sample.target_image:
        return "other_image"
    label, score = _label(found.label), _score(found.score)
    box = _in_frame(found.box, sample.images[sample.target_image].frame)
    if box is None:
        return "not_finite"
    if box.is_degenerate:
        return "degenerate"
    clipped = box.clipped()
    if not clipped.area > 0:
        return "outside" if clipped.is_degenerate else "degenerate"
    return Detection(sample.target_image, clipped, label, score)


def _in_frame(box: Box, frame: Frame) -> Box | None:
    """The box in pixels of its image as plain floats; None where they are not finite."""
    try:
        x1, y1, x2, y2 = map(float, (box if box.frame == frame else box.to(frame)).xyxy)
        return Box(x1, y1, x2, y2, frame)
    except (TypeError, ValueError, OverflowError):
        return None


def _label(label: object) -> str | None:
    if label is None:
        return None
    if not isinstance(label, str):
        raise ToolError(f"gave {_kind(label)} for a label, expected text")
    return plain(label, MAX_LABEL) or None


def _score(score: object) -> float | None:
    if score is None:
        return None
    try:
        number = float(score)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise ToolError(f"gave {_kind(score)} for a score, expected a number") from None
    return number if math.isfinite(number) else None


def _sureness(detection: Detection) -> float:
    return -math.inf if detection.score is None else detection.score


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
