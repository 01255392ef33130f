"""Several sampled answers to one question: their mean, the best of them, and their vote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reground.errors import DataError
from reground.evaluation.records import SampleScore
from reground.evaluation.scoring.metrics import HIT_THRESHOLD, Estimate, Hit, clustered_mean
from reground.grounding.answers import Answer, Status
from reground.grounding.boxes import set_iou


def vote(answers: Sequence[Answer]) -> int:
    """The place of the answer that agrees most with all: the highest mean IoU with the others.

    Answers that cannot be read neither vote nor win; answers that name different images do not
    overlap. The first wins a tie, and where none can be read.

    >>> from reground.grounding.boxes import Box, Frame
    >>> frame = Frame.pixels(100, 100)
    >>> boxes = [Box(x, 0, x + 40, 40, frame) for x in (0, 50, 60, 58)]
    >>> vote([Answer(Status.OK, (box,)) for box in boxes])
    3
    """
    if len(answers) == 1:
        return 0
    readable = [place for place, answer in enumerate(answers) if answer.status is Status.OK]
    if not readable:
        return 0
    agreement = [
        sum(_overlap(answers[place], answers[other]) for other in readable) for place in readable
    ]
    return readable[int(np.argmax(agreement))]


def agreement(answers: Sequence[Answer], place: int) -> float | None:
    """The mean IoU of one of several answers with the others, of which unreadable ones count 0.

    None where there are no others, or it cannot be read itself.
    """
    if len(answers) == 1 or answers[place].status is not Status.OK:
        return None
    others = [answer for other, answer in enumerate(answers) if other != place]
    found = [_overlap(answers[place], each) for each in others if each.status is Status.OK]
    return sum(found) / len(others)


def _overlap(one: Answer, other: Answer) -> float:
    named = (one.image_index, other.image_index)
    return set_iou(one.boxes, other.boxes) if None in named or named[0] == named[1] else 0.0


@dataclass(frozen=True, slots=True)
class Sampled:
    """Acc@0.5 of ``size`` answers to each of ``n`` questions.

    ``mean`` is that of one sampled answer, ``best`` the share of questions that some answer hits
    (pass@K), ``vote`` that of the answer that :func:`vote` chooses.
    """

    n: int
    size: int
    mean: Estimate
    best: Estimate
    vote: Estimate

    @classmethod
    def of(cls, scores: Sequence[SampleScore], hit: Hit) -> Sampled | None:
        """The figures of the scored samples; None where one answer was asked for.

        Raises ``DataError`` where numbers of answers differ.
        """
        scored = [score for score in scores if score.counts]
        sizes = sorted({len(score.draws) for score in scored})
        if sizes in ([], [0]):
            return None
        if len(sizes) > 1:
            raise DataError(
                f"found questions with {sizes[0]} and with {sizes[-1]} answers; expected as many "
                "for each, so predict all with one --samples"
            )
        hits = [[float(hit(iou, HIT_THRESHOLD)) for iou in score.draws] for score in scored]
        clusters = [score.cluster for score in scored]
        chosen = [float(hit(score.iou or 0.0, HIT_THRESHOLD)) for score in scored]
        return cls(
            len(scored),
            sizes[0],
            mean=clustered_mean([float(np.mean(own)) for own in hits], clusters),
            best=clustered_mean([max(own) for own in hits], clusters),
            vote=clustered_mean(chosen, clusters),
        )

    def to_json(self) -> dict[str, Any]:
        """``n``, ``size``, and each figure with its NAME_stderr."""
        row: dict[str, Any] = {"n": self.n, "size": self.size}
        for name in ("mean", "best", "vote"):
            estimate: Estimate = getattr(self, name)
            row |= {name: estimate.value, f"{name}_stderr": estimate.stderr}
        return row
