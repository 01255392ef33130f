"""What a model makes of a detector's box: CCR, NSRI and the rates beside them (VG-Refiner)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from reground.evaluation.records import SampleScore
from reground.grounding.boxes import FloatArray, iou
from reground.grounding.sample import Sample

RIGHT = 0.5  # a box is right with IoU above this
_SAME = 1e-9  # two IoUs that differ by less are equal


@dataclass(frozen=True, slots=True)
class Refinement:
    """Shares and means in [0, 1], NSRI in [-1, 1]; None where there is nothing to measure.

    ``tool_accuracy`` and ``accuracy`` are the shares of right boxes before and after, over all
    samples; ``ccr`` is the critical correction rate, the share of wrong tool boxes that end right,
    and ``critical_gain`` the mean relative gain of those. ``nsri`` is the mean of
    :func:`signed_relative_gain`, also over samples whose tool box is wrong (``nsri_w``) or right
    (``nsri_c``), and ``nsri_scaled`` the same in [0, 1]. Of the right tool boxes,
    ``refinement_rate`` became better (by ``refinement_gain`` of what was to gain) and
    ``follow_correct_rate`` stayed; ``worsen_rate`` of all became worse (by ``worsen_loss`` of
    what there was); ``inherited_error_rate`` of the wrong final boxes are the tool's.
    """

    n: int
    unscored: int
    tool_accuracy: float | None
    accuracy: float | None
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


def tool_iou(sample: Sample, policy: ToolPolicy = "best") -> float:
    """IoU of the best of the detector's boxes with the best of the true ones; 0 without a box.

    ``top-1`` takes the first box, of which the detector is surest.
    """
    boxes = sample.tool_results or ()
    same_image = [box for box in boxes if box.image == sample.target_image]
    counted = same_image[:1] if policy == "top-1" else same_image
    return max((iou(box.box, true) for box in counted for true in sample.boxes), default=0.0)


def refinement_of(scores: Sequence[SampleScore], policy: ToolPolicy = "best") -> Refinement | None:
    """The measures of the samples that come with a detector's boxes; None where none does."""
    own = [score for score in scores if score.sample.tool_results is not None]
    if not own:
        return None
    return refinement([row.iou for row in own], [tool_iou(row.sample, policy) for row in own])


def refinement(final: Sequence[float | None], tool: Sequence[float | None]) -> Refinement:
    """All measures of N samples from the IoUs of the final boxes and of the tool's.

    As in VG-Refiner's script, a sample without either IoU counts as unchanged and not right in the
    means over all samples, and in no other.

    >>> found = refinement([0.729], [0.476])  # the pizza of their README
    >>> found.ccr, found.tool_accuracy, round(found.nsri_w, 3)
    (1.0, 0.0, 0.483)
    """
    pairs = [(a, b) for a, b in zip(final, tool, strict=True) if a is not None and b is not None]
    ends, starts = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    n, delta, gain = len(final), ends - starts, signed_relative_gain(ends, starts)
    right, tool_right = ends > RIGHT, starts > RIGHT
    same, corrected = np.abs(delta) < _SAME, right & ~tool_right
    refined, worse = tool_right & (delta > 0), delta < 0
    nsri = _share(gain.sum(), n)
    return Refinement(
        n=n,
        unscored=n - len(pairs),
        tool_accuracy=_share(tool_right.sum(), n),
        accuracy=_share(right.sum(), n),
        mean_iou_delta=_share(delta.sum(), n),
        ccr=_share(corrected.sum(), (~tool_right).sum()),
        critical_gain=_share(gain[corrected].sum(), corrected.sum()),
        nsri=nsri,
        nsri_w=_share(gain[~tool_right].sum(), (~tool_right).sum()),
        nsri_c=_share(gain[tool_right].sum(), tool_right.sum()),
        nsri_scaled=None if nsri is None else (nsri + 1) / 2,
        refinement_rate=_share(refined.sum(), tool_right.sum()),
        refinement_gain=_share(gain[refined].sum(), refined.sum()),
        follow_correct_rate=_share((tool_right & same & ~refined).sum(), tool_right.sum()),
        worsen_rate=_share(worse.sum(), n),
        worsen_loss=_share(gain[worse].sum(), worse.sum()),
        inherited_error_rate=_share((~right & ~tool_right & same).sum(), (~right).sum()),
    )


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
