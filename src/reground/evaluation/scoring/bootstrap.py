"""95 % bootstrap intervals of means, resampling images instead of samples (percentile method).

Every figure of one set of rows is taken from the same resamples, so that questions about one image
stay together, in one task and across tasks. Source: Efron and Tibshirani, An Introduction to the
Bootstrap (1993), chapter 13; Cameron, Gelbach and Miller (2008) for resampling whole clusters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reground.grounding.boxes import FloatArray

T = TypeVar("T")

NUM_RESAMPLES = 2000
_SEED = 0
_BLOCK = 50  # resamples drawn at once, to bound the memory
MANY = 10_000  # images; of more, values are resampled to three decimals, so that many are alike
_DRAWN = 1_000_000  # numbers drawn at once of so many
_LEVELS = (0.025, 0.975)


class Interval(NamedTuple):
    """The ends of a 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Intervals:
    """Intervals of one measure: its mean over all rows, per task, and the mean over tasks.

    None where fewer than two images stand behind a figure, whose spread nobody can know; for the
    mean over tasks, where this holds for one of them.
    """

    overall: Interval | None
    macro: Interval | None
    tasks: Mapping[str, Interval | None]


def intervals(
    measures: Mapping[str, Sequence[float] | FloatArray],
    *,
    tasks: Sequence[str],
    clusters: Sequence[str | int] | NDArray[np.int64],
) -> dict[str, Intervals]:
    """Intervals of every measure, each given as its values [N] beside ``tasks`` and ``clusters``.

    The resamples are the same whenever the rows come in the same order: sort them by sample id.

    >>> rows = {"acc": [0.0, 1.0, 1.0, 1.0]}
    >>> intervals(rows, tasks=["find"] * 4, clusters=["a", "b", "c", "d"])["acc"].overall
    Interval(low=0.25, high=1.0)
    """
    names, task_index = _indexed(tasks)
    if isinstance(clusters, np.ndarray):
        cluster_index = _places(clusters)
    else:
        cluster_index = np.array(_indexed(clusters)[1], np.int64)
    columns = np.array([np.ones(len(tasks)), *measures.values()])
    if cluster_index.max(initial=-1) >= MANY:
        columns = columns.round(3)
    sums = sums_of(columns, cluster_index, task_index)
    totals = resampled(sums)
    with np.errstate(invalid="ignore"):  # NaN in a resample without the task
        means = _means(totals)  # [R, T, M]
        overall = _means(totals.sum(axis=1))  # [R, M]
    single = (sums[:, :, 0] > 0).sum(axis=0) < 2
    means[:, single] = np.nan
    return {
        measure: Intervals(
            overall=interval_of(overall[:, m]),
            macro=interval_of(means[:, :, m].sum(axis=1) / len(names)) if names else None,
            tasks={name: interval_of(means[:, t, m]) for t, name in enumerate(names)},
        )
        for m, measure in enumerate(measures)
    }


def _indexed(keys: Sequence[T]) -> tuple[list[T], list[int]]:
    """Distinct keys in the order of their first row, and for each row the place of its key."""
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    return list(places), [places[key] for key in keys]


def _places(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each row the place of its key, as :func:`_indexed` gives it."""
    _, first, index = np.unique(keys, return_index=True, return_inverse=True)
    places = np.empty(len(first), np.int64)
    places[np.argsort(first)] = np.arange(len(first))
    return places[index]


def sums_of(columns: FloatArray, clusters: ArrayLike, tasks: ArrayLike) -> FloatArray:
    """Sums of every column [C, N] by cluster and task: [G, T, C]."""
    places, parts = np.array(clusters, int), np.array(tasks, int)
    sums = np.zeros((places.max(initial=-1) + 1, parts.max(initial=-1) + 1, len(columns)))
    np.add.at(sums, (places, parts), columns.T)
    return sums


def resampled(sums: FloatArray) -> FloatArray:
    """Totals of the sums [G, T, C] in every resample of G clusters with replacement: [R, T, C].

    One cluster gives NaN. Of more than ``MANY``, those with the same sums are drawn together: how
    often each is drawn is multinomial, and so is how often all of a kind are.
    """
    num_clusters = len(sums)
    if num_clusters > MANY:
        rng = np.random.default_rng(_SEED)
        flat = sums.reshape(num_clusters, -1)
        kinds, alike = distinct(flat)
        size = max(1, _DRAWN // len(kinds))
        parts = [
            rng.multinomial(num_clusters, alike / num_clusters, size=min(size, NUM_RESAMPLES - at))
            @ kinds
            for at in range(0, NUM_RESAMPLES, size)
        ]
        return np.concatenate(parts).reshape(NUM_RESAMPLES, *sums.shape[1:])
    if num_clusters < 2:
        return np.full((NUM_RESAMPLES, *sums.shape[1:]), np.nan)
    return np.concatenate([np.tensordot(times, sums, axes=1) for times in resamples(num_clusters)])


def distinct(rows: FloatArray) -> tuple[FloatArray, NDArray[np.int64]]:
    """The distinct ones of ``rows`` [N, C] in order, and how many there are of each.

    As ``np.unique(rows, axis=0)`` gives them, which compares whole rows and takes ten times longer.
    """
    rows = rows[np.lexsort(rows.T[::-1])]
    starts = np.flatnonzero(np.append(True, (rows[1:] != rows[:-1]).any(axis=1)))
    return rows[starts], np.diff(starts, append=len(rows))


def resamples(num_clusters: int, *, num: int = NUM_RESAMPLES) -> Iterator[FloatArray]:
    """How often each of G clusters is in each of ``num`` resamples, [50, G] at a time."""
    rng = np.random.default_rng(_SEED)
    for _ in range(0, num, _BLOCK):
        drawn = rng.integers(num_clusters, size=(_BLOCK, num_clusters))
        drawn += num_clusters * np.arange(_BLOCK)[:, None]
        times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        yield times.astype(np.float64)


def _means(totals: FloatArray) -> FloatArray:
    """Counts and sums [..., 1 + M] to means [..., M]."""
    return totals[..., 1:] / totals[..., :1]


def interval_of(means: FloatArray) -> Interval | None:
    """Quantiles of the resamples [R] that have a mean; None where most have none."""
    present = means[~np.isnan(means)]
    if 2 * len(present) < len(means):
        return None
    low, high = np.quantile(present, _LEVELS)
    return Interval(float(low), float(high))
