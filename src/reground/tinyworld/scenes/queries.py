"""Referring expressions as predicates over a scene: say them in words, find what they mean.

A relation holds, fails, or is unclear; an expression resolves only where it clearly holds for one
object and clearly fails for all others, so that a person who looks at the image would agree.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import hypot, sqrt
from typing import Final

from reground.grounding.boxes import Box
from reground.tinyworld.scenes.world import Kind, SceneObject


class Relation(StrEnum):
    """Where the target is from an anchor, or among its like."""

    LEFT = "left of"
    RIGHT = "right of"
    ABOVE = "above"
    BELOW = "below"
    CLOSEST = "closest to"
    LEFTMOST = "leftmost"
    RIGHTMOST = "rightmost"
    HIGHEST = "highest"
    LOWEST = "lowest"
    LARGEST = "largest"
    SMALLEST = "smallest"


ANCHORED: Final = (
    Relation.LEFT, Relation.RIGHT, Relation.ABOVE, Relation.BELOW, Relation.CLOSEST,
)  # fmt: skip
"""The relations to another object, the anchor."""

SUPERLATIVES: Final = tuple(relation for relation in Relation if relation not in ANCHORED)
"""The relations that single out one object among its like."""

_DIRECTIONS: Final = {
    Relation.LEFT: (-1, 0), Relation.LEFTMOST: (-1, 0),
    Relation.RIGHT: (1, 0), Relation.RIGHTMOST: (1, 0),
    Relation.ABOVE: (0, -1), Relation.HIGHEST: (0, -1),
    Relation.BELOW: (0, 1), Relation.LOWEST: (0, 1),
}  # fmt: skip
_PHRASINGS: Final = {
    Relation.LEFT: ("left of", "to the left of"),
    Relation.RIGHT: ("right of", "to the right of"),
    Relation.CLOSEST: ("closest to", "nearest to"),
    Relation.LARGEST: ("largest", "biggest"),
}
_MIN_STEP = 10.0  # pixels by which the centre of the leftmost, closest, ... leads all others
_MIN_EDGE_STEP = (
    4.0  # and by which its edge does, lest a large object with a farther centre seem to lead
)
_MIN_AREA_RATIO = 1.5  # between the largest or smallest and the next
_MIN_DISTANCE_RATIO = 1.4  # between the next closest and the closest


@dataclass(frozen=True, slots=True)
class Query:
    """A referring expression: a description and, where that is not enough, a relation."""

    target: Kind
    relation: Relation | None = None
    anchor: Kind | None = None

    def words(self, rng: random.Random) -> str:
        """The expression in one of its phrasings, as in "the circle left of the blue square"."""
        if self.relation is None:
            return f"the {self.target.name}"
        phrase = rng.choice(_PHRASINGS.get(self.relation, (self.relation.value,)))
        if self.anchor is None:
            return f"the {phrase} {self.target.name}"
        return f"the {self.target.name} {phrase} the {self.anchor.name}"


def resolve(query: Query, objects: Sequence[SceneObject]) -> SceneObject | None:
    """The one object that the query clearly means, or None where that is open.

    A query with a relation resolves only where the relation is needed: at least two objects other
    than the anchor fit the description.
    """
    relation = query.relation
    anchor = None if query.anchor is None else only(query.anchor, objects)
    if query.anchor is not None and anchor is None:
        return None
    fitting = [each for each in objects if each is not anchor and query.target.fits(each.kind)]
    if relation is None or len(fitting) < 2:
        return fitting[0] if relation is None and len(fitting) == 1 else None
    at = None if anchor is None else anchor.box
    for each in fitting:
        others = (other.box for other in fitting if other is not each)
        if all(_leads(relation, each.box, other, at) for other in others):
            return each
    return None


def only(kind: Kind, objects: Sequence[SceneObject]) -> SceneObject | None:
    """The object that fits the description, if exactly one does."""
    fitting = [each for each in objects if kind.fits(each.kind)]
    return fitting[0] if len(fitting) == 1 else None


def may_hold(relation: Relation, each: SceneObject, objects: Sequence[SceneObject]) -> bool:
    """Whether people might call this object the leftmost, largest, ... of all, or nearly do so."""
    return any(
        all(
            measure(relation, each.box) >= measure(relation, other.box) - _MIN_EDGE_STEP
            for other in objects
        )
        for measure in (_measure, _front)
    )


def _leads(relation: Relation, box: Box, other: Box, anchor: Box | None) -> bool:
    """Whether the relation clearly holds for ``box`` and clearly fails for ``other``."""
    if relation is Relation.LARGEST:
        return box.area >= other.area * _MIN_AREA_RATIO
    if relation is Relation.SMALLEST:
        return other.area >= box.area * _MIN_AREA_RATIO
    if anchor is None:
        return (
            _measure(relation, box) >= _measure(relation, other) + _MIN_STEP
            and _front(relation, box) >= _front(relation, other) + _MIN_EDGE_STEP
        )
    if relation is not Relation.CLOSEST:
        behind = _measure(relation, other) <= _measure(relation, anchor)
        return behind and _is_beyond(relation, box, anchor)
    near, far = (hypot(each.cx - anchor.cx, each.cy - anchor.cy) for each in (box, other))
    return (
        far >= max(near + _MIN_STEP, near * _MIN_DISTANCE_RATIO)
        and _gap(other, anchor) >= _gap(box, anchor) + _MIN_EDGE_STEP
    )


def _gap(box: Box, other: Box) -> float:
    """Pixels between two boxes; 0 where they touch."""
    return hypot(
        max(0.0, box.x1 - other.x2, other.x1 - box.x2),
        max(0.0, box.y1 - other.y2, other.y1 - box.y2),
    )


def _is_beyond(relation: Relation, box: Box, anchor: Box) -> bool:
    """Whether it is wholly on that side of the anchor, and more so than off to another side."""
    x, y = _DIRECTIONS[relation]
    dx, dy = box.cx - anchor.cx, box.cy - anchor.cy
    touching = (abs(x) * (box.width + anchor.width) + abs(y) * (box.height + anchor.height)) / 2
    return x * dx + y * dy >= max(touching, abs(y * dx + x * dy))


def _measure(relation: Relation, box: Box) -> float:
    """How far the centre lies in the relation's direction, or the mean side, in pixels."""
    if relation is Relation.LARGEST:
        return sqrt(box.area)
    if relation is Relation.SMALLEST:
        return -sqrt(box.area)
    x, y = _DIRECTIONS[relation]
    return x * box.cx + y * box.cy


def _front(relation: Relation, box: Box) -> float:
    """How far the edge in front lies in that direction, or the mean side."""
    if relation not in _DIRECTIONS:
        return _measure(relation, box)
    x, y = _DIRECTIONS[relation]
    return max(x * box.x1 + y * box.y1, x * box.x2 + y * box.y2)
