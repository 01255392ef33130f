"""Whether a score says how often answers are right: its calibration, and what it tells apart.

The expected calibration error (ECE) is the mean distance of score and share of hits over bins of
equally many answers (Nixon et al., Measuring Calibration in Deep Learning, 2019). Its interval is
the basic bootstrap one (Davison and Hinkley 1997, section 5.2), since every resample adds noise to
a mean of distances; it is too high where scores are all but perfect, whose error is not 0 either:
``ece_by_chance``. AUROC is the chance that a hit has a higher score than a miss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from reground.evaluation.scoring.bootstrap import (
    MANY,
    NUM_RESAMPLES,
    Interval,
    interval_of,
    resampled,
    resamples,
    sums_of,
)
from reground.evaluation.scoring.columns import Codes, Columns
from reground.evaluation.scoring.metrics import Hit, hits
from reground.grounding.boxes import FloatArray

NUM_BINS = 10
_CHANCES = 50
_FEW_RESAMPLES = 200  # of more than MANY images
_COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
_Z = 1.959964  # of a normal distribution, 95 % lie within


@dataclass(frozen=True, slots=True)
class Share:
    """``n`` answers, the share of hits among them, and its 95 % interval by Wilson (1927)."""

    n: int
    accuracy: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers with scores from ``low`` to ``high``, ``score`` being their mean."""

    low: float
    high: float
    score: float
    share: Share


@dataclass(frozen=True, slots=True)
class Threshold:
    """What ``min_score`` leaves: the share of answers (``coverage``), and of hits among them."""

    min_score: float
    coverage: float
    share: Share


@dataclass(frozen=True, slots=True)
class Calibration:
    """Of ``n`` answers with a score in [0, 1]; None where there is nothing to measure.

    ``ece`` and ``auroc`` have 95 % intervals by bootstrap over images; ``ece_by_chance`` is the
    mean error of so many answers that are right exactly as often as their scores say.
    """

    n: int
    bins: tuple[Bin, ...]
    thresholds: tuple[Threshold, ...]
    ece: float
    ece_interval: Interval | None
    ece_by_chance: float
    auroc: float | None
    auroc_interval: Interval | None

    def to_json(self) -> dict[str, Any]:
        """The fields by name, as JSON holds them."""
        found: dict[str, Any] = TypeAdapter(Calibration).dump_python(self, mode="json")
        return found


def calibrations(scores: Columns, hit: Hit) -> dict[str, Any] | None:
    """By the name of each score that answers have its calibration; None where they have none.

    Where they have two, ``difference`` is the AUROC of the first minus that of the second, on the
    answers that have both, with its paired interval.
    """
    found: dict[str, Any] = {}
    known = {name: ~np.isnan(own) & scores.scored for name, own in scores.confidence.items()}
    for name, rows in known.items():
        if rows.any():
            found[name] = calibration(
                scores.confidence[name][rows],
                hits(scores, np.flatnonzero(rows), hit),
                scores.clusters.codes[rows],
            ).to_json()
    if len(found) == 2:
        both = np.logical_and(*known.values())
        right = hits(scores, np.flatnonzero(both), hit)
        pair = [own[both] for own in scores.confidence.values()]
        found["difference"] = _difference(pair, right, scores.clusters.codes[both])
    return found or None


def calibration(scores: FloatArray, right: FloatArray, clusters: Codes) -> Calibration:
    """The calibration of scores [N] in [0, 1], of answers that are hits (1) or not (0).

    >>> sure = calibration(np.array([0.9, 0.8, 0.3]), np.array([1.0, 1.0, 0.0]), np.arange(3))
    >>> round(sure.ece, 3), sure.auroc
    (0.2, 1.0)
    """
    bins = bins_of(scores)
    groups = [bins == each for each in range(bins.max() + 1)]
    return Calibration(
        n=len(scores),
        bins=tuple(
            Bin(
                float(scores[own].min()),
                float(scores[own].max()),
                float(scores[own].mean()),
                _share(right[own]),
            )
            for own in groups
        ),
        thresholds=_thresholds(scores, right),
        **_error(scores, right, bins, clusters),
        **_separation([scores], right, clusters),
    )


def bins_of(scores: FloatArray) -> Codes:
    """The bin of each score: equally many in each, equal scores in one.

    >>> bins_of(np.array([0.1, 0.5, 0.5, 0.9] * 5)).tolist()[:4]
    [0, 1, 1, 2]
    """
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, NUM_BINS + 1)[1:-1]))
    _, bins = np.unique(np.searchsorted(edges, scores, side="right"), return_inverse=True)
    return bins.astype(np.int64)


def wilson(num_hits: float, n: int) -> Interval:
    """The 95 % interval of a share; answers count as independent.

    >>> [round(end, 3) for end in wilson(10, 10)]
    [0.722, 1.0]
    """
    centre, spread = num_hits + _Z**2 / 2, _Z * math.sqrt(num_hits * (1 - num_hits / n) + _Z**2 / 4)
    low, high = ((centre + sign * spread) / (n + _Z**2) for sign in (-1, 1))
    return Interval(max(0.0, low), min(1.0, high))


def _share(right: FloatArray) -> Share:
    return Share(len(right), float(right.mean()), wilson(float(right.sum()), len(right)))


def _thresholds(scores: FloatArray, right: FloatArray) -> tuple[Threshold, ...]:
    """One for every share of the answers that may be wanted, equal scores being answered alike."""
    ranked = np.sort(scores)[::-1]
    least = {float(ranked[math.ceil(each * len(ranked)) - 1]): None for each in _COVERAGES}
    return tuple(
        Threshold(each, float((scores >= each).mean()), _share(right[scores >= each]))
        for each in least
    )


def _error(scores: FloatArray, right: FloatArray, bins: Codes, clusters: Codes) -> dict[str, Any]:
    """``ece``, its interval, and what it would be by chance."""

    def error(totals: FloatArray) -> Any:  # [..., bins, (n, hits, scores)]
        gaps = np.abs(totals[..., 1] - totals[..., 2]).sum(axis=-1)
        return gaps / totals[..., 0].sum(axis=-1)

    _, places = np.unique(clusters, return_inverse=True)
    sums = sums_of(np.array([np.ones(len(scores)), right, scores]), places, bins)
    found = float(error(sums.sum(axis=0)))
    ends = interval_of(error(resampled(sums)))
    rng = np.random.default_rng(0)
    chance = [
        error(
            sums_of(np.array([np.ones(len(scores)), own, scores]), np.zeros(len(scores)), bins)[0]
        )
        for own in (rng.random(len(scores)) < scores for _ in range(_CHANCES))
    ]
    basic = ends and Interval(max(0.0, 2 * found - ends.high), max(0.0, 2 * found - ends.low))
    return {"ece": found, "ece_interval": basic, "ece_by_chance": float(np.mean(chance))}


def _separation(
    columns: Sequence[FloatArray], right: FloatArray, clusters: Codes
) -> dict[str, Any]:
    """``auroc`` of the first column less that of a second, if any, and the interval."""
    images, places = np.unique(clusters, return_inverse=True)
    ranks = [_Ranks.of(own, right) for own in columns]

    def auroc(weights: FloatArray) -> FloatArray:
        found = [own.auroc(weights) for own in ranks]
        return found[0] - found[1] if len(found) > 1 else found[0]

    (found,) = auroc(np.ones((1, len(right))))
    if math.isnan(found):
        return {"auroc": None, "auroc_interval": None}
    num = NUM_RESAMPLES if len(images) <= MANY else _FEW_RESAMPLES
    drawn = [auroc(times[:, places]) for times in resamples(len(images), num=num)]
    return {"auroc": float(found), "auroc_interval": interval_of(np.concatenate(drawn))}


def _difference(pair: Sequence[FloatArray], right: FloatArray, clusters: Codes) -> dict[str, Any]:
    found = _separation(pair, right, clusters)
    ends = found["auroc_interval"]
    return {"n": len(right)} | found | {"auroc_interval": ends and list(ends)}


@dataclass(frozen=True, slots=True)
class _Ranks:
    """Scores in ascending order: which row each is, and where a run of equal ones begins."""

    order: NDArray[np.intp]
    starts: NDArray[np.intp]
    right: FloatArray

    @classmethod
    def of(cls, scores: FloatArray, right: FloatArray) -> _Ranks:
        order = np.argsort(scores, kind="stable")
        _, starts = np.unique(scores[order], return_index=True)
        return cls(order, starts, right[order])

    def auroc(self, weights: FloatArray) -> FloatArray:
        """Of rows that count ``weights`` [R, N] times each: [R], NaN without a hit or a miss."""
        weights = weights[:, self.order]
        good = np.add.reduceat(weights * self.right, self.starts, axis=1)
        bad = np.add.reduceat(weights * (1 - self.right), self.starts, axis=1)
        below = np.cumsum(bad, axis=1) - bad / 2  # a tie counts half
        pairs = good.sum(axis=1) * bad.sum(axis=1)
        wins = (good * below).sum(axis=1)
        share: FloatArray = np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
        return share
