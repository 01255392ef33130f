"""What a model makes of a detector's box: CCR, NSRI and the rates beside them (VG-Refiner)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from reground.evaluation.records import SampleScore
from reground.evaluation.scoring.metrics import clustered_mean
from reground.grounding.answers import RIGHT, Status
from reground.grounding.boxes import Box, FloatArray, iou
from reground.grounding.sample import Sample

_SAME = 1e-9  # two IoUs that differ by less are equal


class ToolOutcome(StrEnum):
    """What became of a detector's box, by its IoU and that of the final box."""

    CORRECTED = "corrected"  # wrong, the final one is right
    FOLLOWED = "followed"  # right, and so is the final one
    WORSENED = "worsened"  # right, the final one is wrong
    INHERITED = "inherited"  # wrong, and the final one has the same IoU
    STILL_WRONG = "still_wrong"  # wrong, and so is the final one, with another IoU


def tool_outcome(final: float, tool: float) -> ToolOutcome:
    """The outcome of one sample.

    It sees IoUs alone, as VG-Refiner's inherited-error rate does: two different boxes that both
    miss everything have the same IoU, 0, and so has an answer that cannot be read.

    >>> [str(tool_outcome(*ious)) for ious in [(0.729, 0.476), (0.0, 0.0), (0.1, 0.0)]]
    ['corrected', 'inherited', 'still_wrong']
    """
    if tool > RIGHT:
        return ToolOutcome.FOLLOWED if final > RIGHT else ToolOutcome.WORSENED
    if final > RIGHT:
        return ToolOutcome.CORRECTED
    same = abs(final - tool) < _SAME
    return ToolOutcome.INHERITED if same else ToolOutcome.STILL_WRONG


@dataclass(frozen=True, slots=True)
class Refinement:
    """Shares and means in [0, 1], NSRI in [-1, 1]; None where there is nothing to measure.

    ``tool_accuracy`` and ``accuracy`` are the shares of right boxes before and after, over all
    samples, ``accuracy_difference`` is after minus before; ``ccr`` is the critical correction rate,
    the share of wrong tool boxes that end right, and ``critical_gain`` the mean relative gain of
    those. ``nsri`` is the mean of :func:`signed_relative_gain`, also over samples whose tool box is
    wrong (``nsri_w``) or right (``nsri_c``), and ``nsri_scaled`` the same in [0, 1]. Of the right
    tool boxes, ``refinement_rate`` became better (by ``refinement_gain`` of what was to
    gain) and ``follow_correct_rate`` stayed; ``worsen_rate`` of all became worse (by
    ``worsen_loss`` of what there was); ``inherited_error_rate`` of the wrong final boxes are
    the tool's.
    """

    n: int
    unscored: int
    tool_accuracy: float | None
    accuracy: float | None
    accuracy_difference: float | None
    mean_iou_delta: float | None
    ccr: float | None
    critical_gain: float | None
    nsri: float | None
    nsri_w: float | None
    nsri_c: float | None
    nsri_scaled: float | None
    refinement_rate: float | None
    refinement_gain: float | None
    follow_correct_rate: float | None
    worsen_rate: float | None
    worsen_loss: float | None
    inherited_error_rate: float | None


def signed_relative_gain(final: FloatArray, tool: FloatArray) -> FloatArray:
    """g of every sample, [N] in [-1, 1]: the share of what was to gain, or of what was lost.

    >>> signed_relative_gain(np.array([0.75, 0.2, 0.5]), np.array([0.5, 0.4, 0.5])).tolist()
    [0.5, -0.5, 0.0]
    """
    delta = final - tool
    scale = np.where(delta > 0, 1 - tool, tool)
    moved = (np.abs(delta) > _SAME) & (scale > _SAME)
    return np.divide(delta, scale, out=np.zeros_like(delta), where=moved)


ToolPolicy = Literal["best", "top-1"]  # which of the detector's boxes counts


def best_iou(box: Box, sample: Sample) -> float:
    """IoU of a box in the target image with the best of the true ones; 0 where nothing is true."""
    return max((iou(box, true) for true in sample.boxes), default=0.0)


def tool_iou(sample: Sample, policy: ToolPolicy = "best") -> float:
    """IoU of the best of the detector's boxes with the best of the true ones; 0 without a box.

    ``top-1`` takes the first box, of which the detector is surest.
    """
    counted = sample.detections[:1] if policy == "top-1" else sample.detections
    return max((best_iou(box.box, sample) for box in counted), default=0.0)


@dataclass(frozen=True, slots=True)
class Refined:
    """A score whose sample comes with a detector's boxes, and their IoU."""

    score: SampleScore
    tool_iou: float

    @property
    def outcome(self) -> ToolOutcome | None:
        """What became of the detector's box; None for a sample that was never answered."""
        return None if self.score.iou is None else tool_outcome(self.score.iou, self.tool_iou)


def refined(scores: Sequence[SampleScore], policy: ToolPolicy = "best") -> list[Refined]:
    """Those of ``scores`` whose samples come with a detector's boxes, be it an empty list.

    Abstentions are left out.
    """
    return [
        Refined(score, tool_iou(score.sample, policy))
        for score in scores
        if score.sample.tool_results is not None and score.status is not Status.ABSTAINED
    ]


def refinement_of(scores: Sequence[SampleScore], policy: ToolPolicy = "best") -> Refinement | None:
    """The measures of the samples that come with a detector's boxes; None where none does."""
    own = refined(scores, policy)
    if not own:
        return None
    kept = answered(own)
    found = refinement([row.score.iou for row in kept], [row.tool_iou for row in kept])
    return replace(found, n=len(own), unscored=len(own) - len(kept))


def answered(rows: Sequence[Refined]) -> list[Refined]:
    """Those that were answered: a question without an answer is no wrong answer."""
    return [row for row in rows if row.score.iou is not None]


def refinement(final: Sequence[float | None], tool: Sequence[float | None]) -> Refinement:
    """All measures of N samples from the IoUs of the final boxes and of the tool's.

    As in VG-Refiner's script, a sample without either IoU counts as unchanged and not right in the
    means over all samples, and in no other.

    >>> found = refinement([0.729], [0.476])  # the pizza of their README
    >>> found.ccr, found.tool_accuracy, round(found.nsri_w, 3)
    (1.0, 0.0, 0.483)
    """
    means = {
        name: float(own.values[own.counted].mean()) if own.counted.any() else None
        for name, own in _measures(final, tool).items()
    }
    unscored = sum(a is None or b is None for a, b in zip(final, tool, strict=True))
    return Refinement(n=len(final), unscored=unscored, **means)


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean, its standard error clustered by image, and the ``n`` samples behind both."""

    value: float | None
    stderr: float | None
    n: int


def figures(rows: Sequence[Refined]) -> dict[str, Figure]:
    """The measures of :class:`Refinement` by name, each with its standard error.

    A measure over some of the samples (of right tool boxes, say) is a mean over those; samples
    without an answer are in none.
    """
    rows = answered(rows)
    clusters = np.array([row.score.cluster for row in rows], dtype=np.str_)
    measures = _measures([row.score.iou for row in rows], [row.tool_iou for row in rows])
    found = {}
    for name, own in measures.items():
        mean = clustered_mean(own.values[own.counted].tolist(), clusters[own.counted].tolist())
        found[name] = Figure(mean.value, mean.stderr, int(own.counted.sum()))
    return found


@dataclass(frozen=True, slots=True)
class _Measure:
    """A mean of ``values`` [N] over the samples that are ``counted`` [N]."""

    values: FloatArray
    counted: NDArray[np.bool_]


def _measures(
    final: Sequence[float | None], tool: Sequence[float | None]
) -> Mapping[str, _Measure]:
    """Every measure of :class:`Refinement` that is a mean, by its name."""
    pairs = [
        (0.0, 0.0, "") if a is None or b is None else (a, b, tool_outcome(a, b))
        for a, b in zip(final, tool, strict=True)
    ]
    ends, starts = np.array([pair[:2] for pair in pairs], dtype=np.float64).reshape(-1, 2).T
    ended = np.array([pair[2] for pair in pairs], dtype=np.str_)
    everything, answered = np.full(len(pairs), True), ended != ""
    delta, gain = ends - starts, signed_relative_gain(ends, starts)
    right, tool_right = ends > RIGHT, starts > RIGHT
    tool_wrong, corrected = answered & ~tool_right, ended == ToolOutcome.CORRECTED
    better, worse, same = tool_right & (delta > 0), delta < 0, np.abs(delta) < _SAME
    table: dict[str, tuple[NDArray[np.generic], NDArray[np.bool_]]] = {
        "tool_accuracy": (tool_right, everything),
        "accuracy": (right, everything),
        "accuracy_difference": (right.astype(float) - tool_right, everything),
        "mean_iou_delta": (delta, everything),
        "ccr": (corrected, tool_wrong),
        "critical_gain": (gain, corrected),
        "nsri": (gain, everything),
        "nsri_w": (gain, tool_wrong),
        "nsri_c": (gain, tool_right),
        "nsri_scaled": ((gain + 1) / 2, everything),
        "refinement_rate": (better, tool_right),
        "refinement_gain": (gain, better),
        "follow_correct_rate": (same & ~better, tool_right),
        "worsen_rate": (worse, everything),
        "worsen_loss": (gain, worse),
        "inherited_error_rate": (ended == ToolOutcome.INHERITED, answered & ~right),
    }
    return {
        name: _Measure(values.astype(np.float64), counted)
        for name, (values, counted) in table.items()
    }
