"""Scores by what a sample is like: the size of its box, the length of its phrase, its images.

A sample's own ``strata`` divide scores in the same way.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np

from reground.evaluation.scoring.bootstrap import Interval, intervals
from reground.evaluation.scoring.columns import ORDER, Columns, Keys
from reground.evaluation.scoring.metrics import Hit, Summary, hits, summarise


@dataclass(frozen=True, slots=True)
class Slice:
    """The figures of some of the scores, and the 95 % interval of their Acc@0.5."""

    summary: Summary
    accuracy: Interval | None


def by_slice(scores: Columns, hit: Hit = operator.gt) -> dict[str, dict[str, Slice]]:
    """What divides the scores into more than one slice, and the slices of each."""
    return {
        name: _slices(scores, own, hit) for name, own in scores.slices.items() if len(own.names) > 1
    }


def _slices(scores: Columns, keys: Keys, hit: Hit) -> dict[str, Slice]:
    groups = {name: np.flatnonzero(keys.codes == place) for place, name in enumerate(keys.names)}
    rows = np.concatenate([*groups.values()])
    scored = rows[scores.scored[rows]]
    ends = intervals(
        {"acc": hits(scores, scored, hit)},
        tasks=[keys.names[place] for place in keys.codes[scored]],
        clusters=scores.clusters.codes[scored],
    )["acc"].tasks
    return {
        value: Slice(summarise(scores, hit, rows=groups[value]), ends.get(value))
        for value in sorted(groups, key=_place)
    }


def _place(value: str) -> tuple[int, float, str]:
    """Our slices in their order, numbers by their size, all else by name."""
    if value in ORDER:
        return 0, ORDER.index(value), ""
    is_number = value.isascii() and value.isdigit() and len(value) < 19
    return 1, float(value) if is_number else float("inf"), value
