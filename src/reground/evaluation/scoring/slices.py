"""Scores by what a sample is like: the size of its box, the length of its phrase, its images.

A sample's own ``strata`` divide scores in the same way.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reground.evaluation.scoring.bootstrap import Interval, intervals
from reground.evaluation.scoring.metrics import Hit, Summary, hits, summarise
from reground.grounding.sample import Sample

if TYPE_CHECKING:
    from reground.evaluation.scoring.columns import Columns, Keys

# COCO's sizes: the area of a box in pixels of the original image.
_SIZES = {"small (< 32²)": 32**2, "medium (< 96²)": 96**2, "large": float("inf")}
_LENGTHS = {"1 to 3 words": 4, "4 to 8 words": 9, "9 or more words": float("inf")}
_ORDER = [*_SIZES, *_LENGTHS]


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


def slices_of(sample: Sample) -> Mapping[str, str]:
    """The slices that a sample belongs to, by what divides them.

    Its box has a size where it is the only true one. Its phrase is what the question marks as one,
    else the whole question.
    """
    phrases = [
        sample.question[each.start : each.end] for each in sample.spans if each.kind == "phrase"
    ]
    words = len((phrases[0] if phrases else sample.question).split())
    found = {"phrase": _first_above(_LENGTHS, words), "images": str(len(sample.images))}
    if len(boxes := sample.boxes) == 1:
        found = {"box": _first_above(_SIZES, boxes[0].area), **found}
    return found | {name: each for name, each in sample.strata.items() if name not in found}


def _slices(scores: Columns, keys: Keys, hit: Hit) -> dict[str, Slice]:
    groups = {name: np.flatnonzero(keys.codes == place) for place, name in enumerate(keys.names)}
    rows = np.concatenate([*groups.values()])
    scored = rows[scores.scored[rows]]
    ends = intervals(
        {"acc": hits(scores, scored, hit)},
        tasks=[keys.names[place] for place in keys.codes[scored]],
        clusters=scores.clusters.codes[scored].tolist(),
    )["acc"].tasks
    return {
        value: Slice(summarise(scores, hit, rows=groups[value]), ends.get(value))
        for value in sorted(groups, key=_place)
    }


def _first_above(limits: Mapping[str, float], value: float) -> str:
    return next(name for name, limit in limits.items() if value < limit)


def _place(value: str) -> tuple[int, float, str]:
    """Our slices in their order, numbers by their size, all else by name."""
    if value in _ORDER:
        return 0, _ORDER.index(value), ""
    is_number = value.isascii() and value.isdigit() and len(value) < 19
    return 1, float(value) if is_number else float("inf"), value
