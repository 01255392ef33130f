"""Stored answers read in every frame and both corner orders (`reground eval`'s own figures stay).

A reading that beats the declared one by far says that frames or corners were mixed up somewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reground.evaluation.records import Prediction
from reground.grounding.sample import Sample
from reground.protocols.protocol import AnswerProtocol
from reground.protocols.readings import CLEAR, Reading, overlaps


@dataclass(frozen=True, slots=True)
class FrameFit:
    """The mean IoU of all answers by one ``reading``."""

    reading: Reading
    declared: bool
    mean_iou: float

    @property
    def name(self) -> str:
        """As a person would say it."""
        return self.reading.name


def diagnose(
    predictions: Sequence[Prediction], protocol_for: Callable[[Sample], AnswerProtocol]
) -> list[FrameFit]:
    """Every reading of the first box of each answer, best first; the declared one on a tie.

    An answer without a box that can be read, and a sample without a true box, count 0.
    """
    declared = Reading(protocol_for(predictions[0].sample).codec.frame)
    asked = [row for row in predictions if row.error is None]
    sums: dict[Reading, float] = {declared: 0.0}
    for row in asked:
        size, truth = row.sizes[row.sample.target_image], next(iter(row.sample.boxes), None)
        found = overlaps(row.text, protocol_for(row.sample), size, truth)
        sums |= {reading: sums.get(reading, 0.0) + value for reading, value in found.items()}
    count = max(1, len(asked))
    fits = [FrameFit(own, own == declared, total / count) for own, total in sums.items()]
    return sorted(fits, key=lambda own: (-own.mean_iou, not own.declared))


def describe(readings: Sequence[FrameFit]) -> str:
    """A line for every reading, then the verdict."""
    lines = [
        f"  {own.mean_iou:.3f}  {own.name}{'  <- declared' if own.declared else ''}"
        for own in readings
    ]
    return "\n".join([*lines, verdict(readings)])


def verdict(readings: Sequence[FrameFit]) -> str:
    """What the readings say, in one sentence."""
    best, declared = readings[0], next(own for own in readings if own.declared)
    if best.mean_iou - declared.mean_iou > CLEAR:
        return (
            f"frame mismatch: the answers fit best as {best.name} (mean IoU {best.mean_iou:.3f}), "
            f"but are scored as {declared.name} ({declared.mean_iou:.3f})"
        )
    return f"no mismatch: the answers fit as declared, {declared.name} ({declared.mean_iou:.3f})"
