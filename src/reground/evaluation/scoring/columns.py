"""Scores as columns of numbers: a hundred thousand of them in little memory, and quickly summed."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reground.evaluation.records import SampleScore
from reground.grounding.answers import Status
from reground.grounding.boxes import FloatArray
from reground.grounding.confidence import least
from reground.grounding.sample import Sample

Codes = NDArray[np.int64]
MEASURES = ("iou", "length", "well_formed", "clipped", "truncated")
CONFIDENCE = ("score", "agreement")
_STATUS = {status: place for place, status in enumerate(Status)}
_NONE = -1
_NAN = float("nan")


@dataclass(frozen=True, slots=True)
class _Limits:
    """Names of what is below each limit, and last of what is below none."""

    limits: tuple[int, ...]
    names: tuple[str, ...]

    def of(self, value: float) -> str:
        """The name of the first limit above ``value``."""
        return self.names[bisect_right(self.limits, value)]


# COCO's sizes: the area of a box in pixels of the original image.
_SIZES = _Limits((32**2, 96**2), ("small (< 32²)", "medium (< 96²)", "large"))
_LENGTHS = _Limits((4, 9), ("1 to 3 words", "4 to 8 words", "9 or more words"))
ORDER = [*_SIZES.names, *_LENGTHS.names]


@dataclass(frozen=True, slots=True)
class Keys:
    """A text for each score: ``names`` in the order of their first score, and their places [N].

    A score without one has the place -1.
    """

    names: Sequence[str]
    codes: Codes


@dataclass(frozen=True, slots=True)
class Columns:
    """N scores, sorted by sample id.

    ``values`` hold what is averaged, by the names of ``MEASURES``, [N] each, NaN where nobody
    recorded it: the IoU (0 of what could not be read), the answer's tokens, and shares as 0 or 1.
    ``scored`` [N] says which samples count: they were answered, and surely enough; ``status`` [N]
    is a place in ``Status``, -1 without an answer, and ``slices`` are what divides samples, as in
    :func:`slices_of`. ``confidence`` holds by name what may tell hits from misses, [N] each: the
    ``score`` of the least sure box, and the ``agreement`` of several answers.
    """

    values: Mapping[str, FloatArray]
    scored: NDArray[np.bool_]
    status: Codes
    tasks: Keys
    clusters: Keys
    slices: Mapping[str, Keys]
    confidence: Mapping[str, FloatArray]

    def __len__(self) -> int:
        return len(self.scored)


def columns_of(scores: Iterable[SampleScore]) -> Columns:
    """The columns of ``scores``, in whatever order these come."""
    collector = Collector()
    for score in scores:
        collector.add(score)
    return collector.columns()


class Collector:
    """Takes scores one after another; none of them is kept."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._numbers = array("d")  # a row after the other: of MEASURES, then of CONFIDENCE
        self._status = array("q")
        self._tasks, self._clusters = _Texts(), _Texts()
        self._slices: dict[str, _Texts] = {}

    def add(self, score: SampleScore) -> None:
        """Take a score in."""
        found = (*_values(score), least(score.scores), score.agreement)
        self._numbers.extend([_NAN if value is None else value for value in found])
        place = len(self._ids)
        self._ids.append(score.sample.id)
        self._status.append(_NONE if score.status is None else _STATUS[score.status])
        self._tasks.add(place, score.sample.task)
        self._clusters.add(place, score.cluster)
        for name, group in slices_of(score.sample).items():
            self._slices.setdefault(name, _Texts()).add(place, group)

    def take(self, other: Collector) -> None:
        """Take in what another one did, of later scores."""
        place = len(self._ids)
        self._ids += other._ids
        self._numbers.extend(other._numbers)
        self._status.extend(other._status)
        self._tasks.take(place, other._tasks)
        self._clusters.take(place, other._clusters)
        for name, own in other._slices.items():
            self._slices.setdefault(name, _Texts()).take(place, own)

    def columns(self) -> Columns:
        """The columns of what was taken in by now."""
        names = (*MEASURES, *CONFIDENCE)
        order = np.array(sorted(range(len(self._ids)), key=self._ids.__getitem__), np.int64)
        status = np.array(self._status, np.int64)[order]
        numbers = np.array(self._numbers).reshape(-1, len(names))[order].T
        found = {name: np.ascontiguousarray(own) for name, own in zip(names, numbers, strict=True)}
        slices = {name: own.keys(order) for name, own in self._slices.items()}
        first = {name: int(np.argmax(own.codes >= 0)) for name, own in slices.items()}
        return Columns(
            values={name: found[name] for name in MEASURES},
            scored=(status != _NONE) & (status != _STATUS[Status.ABSTAINED]),
            status=status,
            tasks=self._tasks.keys(order),
            clusters=self._clusters.keys(order),
            slices={name: slices[name] for name in sorted(slices, key=first.__getitem__)},
            confidence={name: found[name] for name in CONFIDENCE},
        )


class _Texts:
    """Texts of a column: each distinct one is kept once, with the scores that have it."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._codes = array("q")

    def add(self, row: int, text: str) -> None:
        """The text of score ``row``; those before it that have none get -1."""
        if row > len(self._codes):
            self._codes.extend([_NONE] * (row - len(self._codes)))
        self._codes.append(self._places.setdefault(text, len(self._places)))

    def take(self, row: int, other: _Texts) -> None:
        """The texts of others, whose first score is now score ``row``."""
        self._codes.extend([_NONE] * (row - len(self._codes)))
        places = [self._places.setdefault(text, len(self._places)) for text in other._places]
        places.append(_NONE)  # the last one is that of -1
        self._codes.extend([places[code] for code in other._codes])

    def keys(self, order: Codes) -> Keys:
        """The texts of scores in another order."""
        codes = np.full(len(order), _NONE)
        codes[: len(self._codes)] = self._codes
        return in_order(list(self._places), codes[order])


def in_order(names: Sequence[str], codes: Codes) -> Keys:
    """Keys of places [N] in ``names``, of which those that occur are put in order."""
    used, first = np.unique(codes, return_index=True)
    used = used[np.argsort(first)]
    used = used[used != _NONE]
    places = np.full(len(names) + 1, _NONE)  # the last one is that of -1
    places[used] = np.arange(len(used))
    return Keys([names[place] for place in used], places[codes])


def _values(score: SampleScore) -> tuple[float | None, ...]:
    """By the names of ``MEASURES``."""
    return (
        score.iou or 0.0,
        score.num_tokens,
        score.well_formed,
        None if score.num_clipped is None else score.num_clipped > 0,
        None if score.finish == "unrecorded" else score.finish == "length",
    )


def slices_of(sample: Sample) -> Mapping[str, str]:
    """The slices that a sample belongs to, by what divides them.

    Its box has a size where it is the only true one. Its phrase is what the question marks as one,
    else the whole question.
    """
    text = sample.question
    for span in sample.spans:
        if span.kind == "phrase":
            text = text[span.start : span.end]
            break
    boxes = sample.boxes
    found = {"box": _SIZES.of(boxes[0].area)} if len(boxes) == 1 else {}
    found["phrase"] = _LENGTHS.of(len(text.split()))
    found["images"] = str(len(sample.images))
    for name, group in sample.strata.items():
        found.setdefault(name, group)
    return found
