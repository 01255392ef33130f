"""What a set of scores amounts to: means with standard errors, and per task.

Acc@t is the share of samples with IoU > t, as in VLM-R1 and VG-Refiner; a peer's scorer may count
IoU >= t (``hit``), which differs only for a box of exactly that IoU. An answer that cannot be read
is a miss with IoU 0; a sample that was never answered (a row with an error) is unscored, and one
that was not answered surely enough is an abstention: they are counted apart and enter no mean.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reground.data.benchmarks import in_order
from reground.evaluation.records import SampleScore
from reground.evaluation.scoring.columns import Columns
from reground.grounding.answers import Status
from reground.grounding.boxes import FloatArray

THRESHOLDS = (0.3, 0.5, 0.7)
HIT_THRESHOLD = 0.5

Hit = Callable[[Any, float], Any]  # whether an IoU, or each of an array, is a hit at a threshold
Clusters = Sequence[str | int] | NDArray[np.int64]  # the image of each value
HITS: Mapping[str, Hit] = {">": operator.gt, ">=": operator.ge}


class Outcome(StrEnum):
    """Where a sample ended: read and scored, not read for a reason, or never answered."""

    HIT = "hit"  # IoU > 0.5
    MISS = "miss"
    NO_ANSWER = Status.NO_ANSWER
    UNPARSABLE = Status.UNPARSABLE
    OUT_OF_BOUNDS = Status.OUT_OF_BOUNDS
    DEGENERATE = Status.DEGENERATE
    ABSTAINED = Status.ABSTAINED
    UNSCORED = "unscored"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its standard error; None where there is nothing to take it from."""

    value: float | None
    stderr: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one set of scores.

    ``n`` counts the scored samples, ``errors`` the unscored ones, ``num_images`` the distinct
    target images of the scored ones. Of those with an answer, ``coverage`` is the share that was
    sure enough to count; ``status`` counts the others as abstained. ``estimates`` holds a mean per
    name: ``acc@0.3``, ``acc@0.5``, ``acc@0.7``, ``mean_iou``, ``length`` (tokens of the answer) and
    the shares ``well_formed``, ``clipped`` (a box was clipped to the image) and ``truncated`` (cut
    off at the token limit).
    """

    n: int
    errors: int
    num_images: int
    estimates: Mapping[str, Estimate]
    status: Mapping[Status, int]
    coverage: Estimate

    def to_json(self) -> dict[str, Any]:
        """One flat object: a name and ``name_stderr`` for every mean, and the status counts."""
        row: dict[str, Any] = {"n": self.n, "errors": self.errors, "images": self.num_images}
        for name, estimate in [*self.estimates.items(), ("coverage", self.coverage)]:
            row |= {name: estimate.value, f"{name}_stderr": estimate.stderr}
        return row | {"status": {str(status): count for status, count in self.status.items()}}


def outcome(score: SampleScore, hit: Hit = operator.gt) -> Outcome:
    """Where one sample ended."""
    if score.status is None:
        return Outcome.UNSCORED
    if score.status is not Status.OK:
        return Outcome(score.status)
    return Outcome.HIT if is_hit(score, HIT_THRESHOLD, hit) else Outcome.MISS


def is_hit(score: SampleScore, threshold: float = HIT_THRESHOLD, hit: Hit = operator.gt) -> bool:
    """Whether a sample was answered, and well enough."""
    return score.iou is not None and bool(hit(score.iou, threshold))


def summarise(
    scores: Columns, hit: Hit = operator.gt, *, rows: NDArray[np.int64] | None = None
) -> Summary:
    """The figures of scores, or of some ``rows``, standard errors clustered by target image."""
    rows = np.arange(len(scores)) if rows is None else rows
    scored = rows[scores.scored[rows]]
    index, num_images = _places(scores.clusters.codes[scored])
    answered = rows[scores.status[rows] >= 0]
    counts = np.bincount(scores.status[answered], minlength=len(Status))
    return Summary(
        n=len(scored),
        errors=len(rows) - len(answered),
        num_images=num_images,
        estimates={
            name: _mean(values, index, num_images)
            for name, values in _measures(scores, scored, hit).items()
        },
        status={status: int(count) for status, count in zip(Status, counts, strict=True)},
        coverage=_mean(
            scores.scored[answered].astype(np.float64), *_places(scores.clusters.codes[answered])
        ),
    )


def _places(codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """The place of each code [N], from 0 up, among those that occur, and how many do."""
    occurs = np.zeros(codes.max(initial=-1) + 1, np.int64)
    occurs[codes] = 1
    return (np.cumsum(occurs) - 1)[codes], int(occurs.sum())


def by_task(scores: Columns, hit: Hit = operator.gt) -> dict[str, Summary]:
    """A summary per task, in the order of MIG-Bench's table, other tasks by name."""
    places = {name: place for place, name in enumerate(scores.tasks.names)}
    return {
        task: summarise(scores, hit, rows=np.flatnonzero(scores.tasks.codes == places[task]))
        for task in in_order(places)
    }


def macro_accuracy(scores: Columns, hit: Hit = operator.gt) -> Estimate:
    """Unweighted mean over tasks of Acc@0.5, as MIG-Bench's AVG."""
    scored = np.flatnonzero(scores.scored)
    return macro_mean(
        hits(scores, scored, hit).tolist(),
        tasks=[scores.tasks.names[place] for place in scores.tasks.codes[scored]],
        clusters=scores.clusters.codes[scored].tolist(),
    )


def hits(
    scores: Columns, rows: NDArray[np.int64], hit: Hit, threshold: float = HIT_THRESHOLD
) -> FloatArray:
    """Whether ``rows`` of scores are hits at a threshold, as 0 or 1 [N]."""
    found: FloatArray = np.asarray(hit(scores.values["iou"][rows], threshold), np.float64)
    return found


def macro_mean(values: Sequence[float], *, tasks: Sequence[str], clusters: Clusters) -> Estimate:
    """Unweighted mean over tasks of the means of ``values`` [N], and its standard error.

    Images that several tasks share count as one cluster; where none is shared, the standard error
    is that of a mean of independent means. It is None where a task has one image only, whose
    spread nobody can know.
    """
    rows: dict[str, list[int]] = {task: [] for task in in_order(tasks)}
    for index, task in enumerate(tasks):
        rows[task].append(index)
    if not rows:
        return Estimate(None, None)
    grouped = [[clusters[index] for index in own] for own in rows.values()]
    parts = [
        _mean_part([values[index] for index in own], names)
        for own, names in zip(rows.values(), grouped, strict=True)
    ]
    value = sum(part.mean for part in parts) / len(parts)
    return Estimate(value, _stderr(parts, list(itertools.chain.from_iterable(grouped))))


def clustered_mean(values: Sequence[float] | FloatArray, clusters: Clusters) -> Estimate:
    """The mean of ``values`` [N] and its cluster-robust standard error (Liang and Zeger 1986).

    With residuals summed within each of G clusters the variance is G/(G-1) * sum(sums^2) / N^2;
    where every cluster holds one value this is the ordinary s^2 / N. One cluster gives no error.

    >>> clustered_mean([1.0, 0.0, 1.0, 1.0], ["a", "b", "c", "d"])
    Estimate(value=0.75, stderr=0.25)
    >>> clustered_mean([1.0, 0.0, 1.0, 1.0], ["a", "a", "a", "a"])
    Estimate(value=0.75, stderr=None)
    """
    images, index = np.unique(np.asarray(clusters), return_inverse=True)
    return _mean(np.asarray(values, np.float64), index, len(images))


def _mean(values: FloatArray, index: NDArray[np.int64], num_clusters: int) -> Estimate:
    """None where somebody did not record or measure it; ``index`` is the cluster of each value."""
    if not len(values) or np.isnan(values).any():
        return Estimate(None, None)
    mean = float(values.mean())
    if num_clusters < 2:
        return Estimate(mean, None)
    sums = np.bincount(index, weights=_influence(values, mean, num_clusters))
    return Estimate(mean, float(np.linalg.norm(sums)))


def _measures(scores: Columns, rows: NDArray[np.int64], hit: Hit) -> dict[str, FloatArray]:
    return {
        **{f"acc@{t}": hits(scores, rows, hit, t) for t in THRESHOLDS},
        "mean_iou": scores.values["iou"][rows],
        **{name: own[rows] for name, own in scores.values.items() if name != "iou"},
    }


@dataclass(frozen=True, slots=True)
class _MeanPart:
    mean: float
    influence: FloatArray | None  # [N] of each row on the mean; None with fewer than two clusters


def _mean_part(values: Sequence[float] | FloatArray, clusters: Clusters) -> _MeanPart:
    array = np.asarray(values, dtype=np.float64)
    mean, num_clusters = float(array.mean()), len(np.unique(np.asarray(clusters)))
    if num_clusters < 2:
        return _MeanPart(mean, None)
    return _MeanPart(mean, _influence(array, mean, num_clusters))


def _influence(values: FloatArray, mean: float, num_clusters: int) -> FloatArray:
    small_sample = math.sqrt(num_clusters / (num_clusters - 1))
    found: FloatArray = small_sample * (values - mean) / len(values)
    return found


def _stderr(parts: Sequence[_MeanPart], clusters: Clusters) -> float | None:
    """Standard error of the mean of ``parts``, whose rows together belong to ``clusters``."""
    influences = [part.influence for part in parts if part.influence is not None]
    if len(influences) < len(parts):
        return None
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(index, weights=np.concatenate(influences) / len(parts))
    return float(np.linalg.norm(sums))
