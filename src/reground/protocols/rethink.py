"""What a chain says once it has seen a detector's boxes: keep them, correct them, do without them.

These are the cold-start chains of think-rethink: they teach the form, and that a detector can be
right, wrong or silent. Truth decides which, so they are for training alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from enum import StrEnum

from reground.grounding.answers import RIGHT
from reground.grounding.boxes import Box, iou, place, set_iou
from reground.grounding.sample import Detection, Sample

_MOST_NAMED = 3  # of several boxes


class Verdict(StrEnum):
    """What a detector's result is worth."""

    RIGHT = "the tool is right."
    WRONG = "the tool is wrong."
    MISSING = "the tool found nothing."


def verdict(sample: Sample) -> Verdict:
    """What the detector's boxes in the target image are worth, by the truth."""
    if not sample.detections:
        return Verdict.MISSING if sample.boxes else Verdict.RIGHT
    return Verdict.RIGHT if _kept(sample) else Verdict.WRONG


def settled(sample: Sample) -> tuple[Box, ...]:
    """The boxes that a chain ends with: the detector's where they are right, else the true ones."""
    return _kept(sample) or sample.boxes


def with_rethink(
    sample: Sample, *, first_thought: str | None = None, first_box: Box | None = None
) -> Sample:
    """The sample with a chain for its detector's result.

    It first thinks ``first_thought``, which may be wrong: a model's own, from before it saw the
    result; without one it says what it looks for. Then it says where the detector points, and
    whether that is where ``first_box`` was thought to be, and judges; where the detector is no
    help the sample's own chain shows the way to the answer.
    """
    found = verdict(sample)
    pointed = "" if found is Verdict.MISSING else f"{pointed_at(sample.detections, first_box)} "
    reason = ""
    if found is not Verdict.RIGHT:
        reason = f" {sample.think}" if sample.think else ""
    elif len(kept := _kept(sample)) < len(sample.detections):
        reason = f" {it_is(kept)}"
    thought = f"look for {sample.question}." if first_thought is None else first_thought
    return replace(sample, think=thought, rethink=f"{pointed}{found}{reason}")


def pointed_at(detections: Sequence[Detection], first: Box | None = None) -> str:
    """Where at most three boxes are, next to the ``first`` one that was thought of.

    "i saw it at the centre. the tool points at the top left, not the same place."
    """
    places = [place(each.box) for each in detections[:_MOST_NAMED]]
    points = f"the tool points at {_listed(places)}"
    if first is None:
        return f"{points}."
    compared = "the same place" if place(first) in places else "not the same place"
    return f"i saw it at the {place(first)}. {points}, {compared}."


def it_is(boxes: Iterable[Box]) -> str:
    """Which of several boxes is kept: "it is the centre."."""
    return f"it is {_listed(map(place, boxes))}."


def _listed(places: Iterable[str]) -> str:
    return ", ".join(f"the {each}" for each in places)


def _kept(sample: Sample) -> tuple[Box, ...]:
    """The detector's boxes that are right: the best one for one true box, all for several."""
    boxes = [each.box for each in sample.detections]
    if len(sample.boxes) == 1 and boxes:
        best = max(boxes, key=lambda box: iou(box, sample.boxes[0]))
        return (best,) if iou(best, sample.boxes[0]) > RIGHT else ()
    return tuple(boxes) if boxes and set_iou(boxes, sample.boxes) > RIGHT else ()
