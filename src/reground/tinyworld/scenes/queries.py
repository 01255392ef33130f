"""Referring expressions as predicates over a scene: say them in words, find what they mean.

A relation holds, fails, or is unclear; an expression resolves only where it clearly holds for one
object and clearly fails for all others, so that a person who looks at the image would agree.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import hypot, sqrt
from typing import Final

from reground.tinyworld.scenes.world import SceneObject


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
class Description:
    """What is said of an object itself; None where colour or shape are left open."""

    colour: str | None = None
    shape: str | None = None

    def fits(self, scene_object: SceneObject) -> bool:
        """Whether the object is of this colour and shape."""
        return self.colour in (None, scene_object.colour) and self.shape in (
            None,
            scene_object.shape,
        )

    @property
    def noun(self) -> str:
        """The description without article: "red circle", "circle", "red one" or "shape".

        >>> Description(colour="red").noun
        'red one'
        """
        if self.colour is None:
            return self.shape or "shape"
        return f"{self.colour} {self.shape or 'one'}"


@dataclass(frozen=True, slots=True)
class Query:
    """A referring expression: a description and, where that is not enough, a relation."""

    target: Description
    relation: Relation | None = None
    anchor: Description | None = None

    def words(self, rng: random.Random) -> str:
        """The expression in one of its phrasings, as in "the circle left of the blue square"."""
        if self.relation is None:
            return f"the {self.target.noun}"
        phrase = rng.choice(_PHRASINGS.get(self.relation, (self.relation.value,)))
        if self.anchor is None:
            return f"the {phrase} {self.target.noun}"
        return f"the {self.target.noun} {phrase} the {self.anchor.noun}"


def describe(scene_object: SceneObject) -> Description:
    """The full description of an object: colour and shape."""
    return Description(scene_object.colour, scene_object.shape)


def resolve(query: Query, objects: Sequence[SceneObject]) -> SceneObject | None:
    """The one object that the query clearly means, or None where that is open.

    A query with a relation resolves only where the relation is needed: at least two objects other
    than the anchor fit the description.
    """
    anchor = None if query.anchor is None else only(query.anchor, objects)
    if query.anchor is not None and anchor is None:
        return None
    candidates = [each for each in objects if each is not anchor and query.target.fits(each)]
    if query.relation is None:
        return candidates[0] if len(candidates) == 1 else None
    if len(candidates) < 2:
        return None
    if anchor is None:
        return _superlative(query.relation, candidates)
    if query.relation is Relation.CLOSEST:
        return _closest(candidates, anchor)
    return _related(query.relation, candidates, anchor)


def only(description: Description, objects: Sequence[SceneObject]) -> SceneObject | None:
    """The object that fits the description, if exactly one does."""
    fitting = [each for each in objects if description.fits(each)]
    return fitting[0] if len(fitting) == 1 else None


def may_hold(relation: Relation, each: SceneObject, objects: Sequence[SceneObject]) -> bool:
    """Whether people might call this object the leftmost, largest, ... of all, or nearly do so."""
    return any(
        all(measure(each) >= measure(other) - _MIN_EDGE_STEP for other in objects)
        for measure in (_MEASURES[relation], _EDGES.get(relation, _MEASURES[relation]))
    )


def _related(
    relation: Relation, candidates: Sequence[SceneObject], anchor: SceneObject
) -> SceneObject | None:
    holds = [_holds(relation, each, anchor) for each in candidates]
    if holds.count(True) != 1 or holds.count(False) != len(holds) - 1:
        return None
    return candidates[holds.index(True)]


def _holds(relation: Relation, each: SceneObject, anchor: SceneObject) -> bool | None:
    """True, False, or None where people would differ.

    True: wholly on that side of the anchor, and more so than off to another side. False: the centre
    is not even on that side of the anchor's centre.
    """
    dx, dy = each.cx - anchor.cx, each.cy - anchor.cy
    ahead, aside, free = {
        Relation.LEFT: (-dx, abs(dy), anchor.box.x1 - each.box.x2),
        Relation.RIGHT: (dx, abs(dy), each.box.x1 - anchor.box.x2),
        Relation.ABOVE: (-dy, abs(dx), anchor.box.y1 - each.box.y2),
        Relation.BELOW: (dy, abs(dx), each.box.y1 - anchor.box.y2),
    }[relation]
    if ahead <= 0:
        return False
    return True if free >= 0 and ahead >= aside else None


def _closest(candidates: Sequence[SceneObject], anchor: SceneObject) -> SceneObject | None:
    """The closest, clearly so by the distance of centres and by the gap between the boxes."""

    def distance(each: SceneObject) -> float:
        return hypot(each.cx - anchor.cx, each.cy - anchor.cy)

    def gap(each: SceneObject) -> float:
        box, other = each.box, anchor.box
        return hypot(
            max(0.0, box.x1 - other.x2, other.x1 - box.x2),
            max(0.0, box.y1 - other.y2, other.y1 - box.y2),
        )

    first, *others = sorted(candidates, key=distance)
    near = distance(first)
    clear = all(
        distance(other) >= max(near + _MIN_STEP, near * _MIN_DISTANCE_RATIO)
        and gap(other) >= gap(first) + _MIN_EDGE_STEP
        for other in others
    )
    return first if clear else None


_MEASURES: Final[dict[Relation, Callable[[SceneObject], float]]] = {
    Relation.LEFTMOST: lambda each: -each.cx,
    Relation.RIGHTMOST: lambda each: each.cx,
    Relation.HIGHEST: lambda each: -each.cy,
    Relation.LOWEST: lambda each: each.cy,
    Relation.LARGEST: lambda each: sqrt(each.box.area),
    Relation.SMALLEST: lambda each: -sqrt(each.box.area),
}
_EDGES: Final[dict[Relation, Callable[[SceneObject], float]]] = {
    Relation.LEFTMOST: lambda each: -each.box.x1,
    Relation.RIGHTMOST: lambda each: each.box.x2,
    Relation.HIGHEST: lambda each: -each.box.y1,
    Relation.LOWEST: lambda each: each.box.y2,
}


def _superlative(relation: Relation, candidates: Sequence[SceneObject]) -> SceneObject | None:
    measure = _MEASURES[relation]
    first, *others = sorted(candidates, key=measure, reverse=True)
    if (edge := _EDGES.get(relation)) is None:
        clear = all(_differ_in_size(first, other) for other in others)
    else:
        clear = all(
            measure(first) >= measure(other) + _MIN_STEP
            and edge(first) >= edge(other) + _MIN_EDGE_STEP
            for other in others
        )
    return first if clear else None


def _differ_in_size(first: SceneObject, second: SceneObject) -> bool:
    small, large = sorted((first.box.area, second.box.area))
    return large >= small * _MIN_AREA_RATIO
