"""Runs on the same samples, set side by side: each one's figures, and paired differences.

A pair of answers to one question shares what is hard about it, so the difference between two runs
is known more closely than either's accuracy. The first run is the one that others are compared
with; only samples that every run answered count, so that all figures are of the same samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reground.data.benchmarks import in_order
from reground.errors import DataError
from reground.evaluation.reporting.pairing import Run, rule_of
from reground.evaluation.scoring.bootstrap import Interval, intervals
from reground.evaluation.scoring.metrics import HITS, Estimate, clustered_mean, is_hit, macro_mean
from reground.evaluation.scoring.peers.mig_bench import MIGICIAN
from reground.evaluation.scoring.refinement import Refinement, refinement_of
from reground.grounding.boxes import FloatArray


@dataclass(frozen=True, slots=True)
class Row:
    """One run's figures in [0, 1]; ``unscored`` counts the samples that do not count.

    ``refinement`` is that of the samples with a detector's boxes, None where there are none.
    """

    name: str
    unscored: int
    accuracy: float
    macro: float
    mean_iou: float
    tasks: Mapping[str, float]  # Acc@0.5
    refinement: Refinement | None


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean of either run, that of b - a sample by sample, and its 95 % bootstrap interval."""

    a: Estimate
    b: Estimate
    difference: Estimate
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Paired:
    """Two runs on the same n samples of ``images`` target images.

    ``only_a`` counts the samples that a alone hit, ``only_b`` those of b; ``mcnemar`` is the
    p-value of that split by the exact two-sided test, which takes samples as independent.
    """

    n: int
    images: int
    accuracy: Difference
    mean_iou: Difference
    only_a: int
    only_b: int
    mcnemar: float


@dataclass(frozen=True, slots=True)
class Pair:
    """Run ``b`` against run ``a``; ``macro`` is the mean over tasks of Acc@0.5."""

    a: str
    b: str
    overall: Paired
    macro: Difference
    tasks: Mapping[str, Paired]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All runs on the ``n`` samples that each of them answered, and each against the first.

    ``left_out`` counts the other samples, ``tasks`` the samples of each task; ``truth_sha256`` is
    :attr:`Run.truth_sha256` of all samples, ``y_scaled`` names the runs with Migician's y scale.
    """

    n: int
    left_out: int
    tasks: Mapping[str, int]
    scorer: str
    hit: str
    truth_sha256: str
    y_scaled: tuple[str, ...]
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]


def compare(runs: Sequence[Run]) -> Comparison:
    """The comparison of runs that :func:`read_runs` gave; the order of samples changes nothing.

    Raises ``DataError`` where no sample was answered by every run.
    """
    kept = answered_by_all(runs)
    if not kept:
        raise DataError("no sample was answered by every run; look at the errors in their reports")
    first, hit = [runs[0].scores[index] for index in kept], HITS[runs[0].info.hit]
    tasks = [score.sample.task for score in first]
    sides = [
        _Side(
            np.array([float(is_hit(run.scores[index], hit=hit)) for index in kept]),
            np.array([run.scores[index].iou or 0.0 for index in kept]),
        )
        for run in runs
    ]
    clusters = [score.cluster for score in first]
    return Comparison(
        n=len(kept),
        left_out=len(runs[0].scores) - len(kept),
        tasks={task: tasks.count(task) for task in in_order(tasks)},
        scorer=rule_of(runs[0].info),
        hit=runs[0].info.hit,
        truth_sha256=runs[0].truth_sha256,
        y_scaled=tuple(run.name for run in runs if run.info.scorer == MIGICIAN.name),
        rows=tuple(_row(run, side, tasks, kept) for run, side in zip(runs, sides, strict=True)),
        pairs=tuple(
            _pair((runs[0].name, run.name), sides[0], side, tasks, clusters)
            for run, side in zip(runs[1:], sides[1:], strict=True)
        ),
    )


def answered_by_all(runs: Sequence[Run]) -> list[int]:
    """Which of their samples every run answered, and surely enough to count."""
    columns = zip(*(run.scores for run in runs), strict=True)
    return [i for i, row in enumerate(columns) if all(score.counts for score in row)]


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p-value of McNemar's test from the counts of samples that one run alone hit.

    >>> round(mcnemar(1, 9), 4)
    0.0215
    """
    from scipy.stats import binomtest  # 0.7 s

    discordant = only_a + only_b
    return float(binomtest(only_a, discordant, 0.5).pvalue) if discordant else 1.0


@dataclass(frozen=True, slots=True)
class _Side:
    """One run on the kept samples, or on some of them."""

    hits: FloatArray  # [N], 0 or 1
    ious: FloatArray  # [N]

    def take(self, rows: Sequence[int]) -> _Side:
        return _Side(self.hits[rows], self.ious[rows])


def _row(run: Run, side: _Side, tasks: Sequence[str], kept: Sequence[int]) -> Row:
    means = {
        task: float(side.hits[[own == task for own in tasks]].mean()) for task in in_order(tasks)
    }
    return Row(
        run.name,
        unscored=sum(not score.counts for score in run.scores),
        accuracy=float(side.hits.mean()),
        macro=sum(means.values()) / len(means),
        mean_iou=float(side.ious.mean()),
        tasks=means,
        refinement=refinement_of([run.scores[index] for index in kept]),
    )


def _pair(
    names: tuple[str, str], a: _Side, b: _Side, tasks: Sequence[str], clusters: Sequence[str]
) -> Pair:
    gains = {"acc": (b.hits - a.hits).tolist(), "iou": (b.ious - a.ious).tolist()}
    found = intervals(gains, tasks=tasks, clusters=clusters)
    of_tasks = {}
    for task in in_order(tasks):
        rows = [row for row, own in enumerate(tasks) if own == task]
        ends = _Ends(found["acc"].tasks[task], found["iou"].tasks[task])
        of_tasks[task] = _paired(a.take(rows), b.take(rows), [clusters[i] for i in rows], ends)
    values = (a.hits.tolist(), b.hits.tolist(), gains["acc"])
    means = [macro_mean(own, tasks=tasks, clusters=clusters) for own in values]
    return Pair(
        *names,
        overall=_paired(a, b, clusters, _Ends(found["acc"].overall, found["iou"].overall)),
        macro=Difference(means[0], means[1], means[2], found["acc"].macro),
        tasks=of_tasks,
    )


@dataclass(frozen=True, slots=True)
class _Ends:
    accuracy: Interval | None
    mean_iou: Interval | None


def _paired(a: _Side, b: _Side, clusters: Sequence[str], ends: _Ends) -> Paired:
    only_a, only_b = int((a.hits > b.hits).sum()), int((b.hits > a.hits).sum())
    return Paired(
        n=len(clusters),
        images=len(set(clusters)),
        accuracy=_difference(a.hits, b.hits, clusters, ends.accuracy),
        mean_iou=_difference(a.ious, b.ious, clusters, ends.mean_iou),
        only_a=only_a,
        only_b=only_b,
        mcnemar=mcnemar(only_a, only_b),
    )


def _difference(
    a: FloatArray, b: FloatArray, clusters: Sequence[str], interval: Interval | None
) -> Difference:
    of_a, of_b, gain = (clustered_mean(own.tolist(), clusters) for own in (a, b, b - a))
    return Difference(of_a, of_b, gain, interval)
