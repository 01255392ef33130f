"""Reasoning chains, templated from the scene: no digits, and about 25 words at most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from reground.data.convert.mentions import ORDINALS
from reground.grounding.boxes import Box, place
from reground.tinyworld.scenes.queries import Query
from reground.tinyworld.scenes.world import SceneObject

_MOST_RIVALS: Final = 3  # with more, listing them all makes the chain long


def ask_in(expression: str, image: int) -> str:
    """A question about one of several images.

    >>> ask_in("the object that all images share", 1)
    'the object that all images share. find it in the second image'
    """
    return f"{expression}. find it in the {ORDINALS[image]} image"


def locate_in(name: str, box: Box, image: int) -> str:
    """One sentence that places what was sought in one of several images."""
    return f"in the {ORDINALS[image]} image the {name} is at the {place(box)}."


def locate(name: str, scene_object: SceneObject) -> str:
    """One sentence that places what was sought: "the red circle is at the top left."."""
    return f"the {name} is at the {place(scene_object.box)}."


def explain(query: Query, objects: Sequence[SceneObject], target: SceneObject) -> str:
    """The way from the expression to the target: the anchor or the rivals first, then the place."""
    if query.relation is None:
        return locate(target.name, target)
    if query.anchor is not None:
        anchor = next(each for each in objects if query.anchor.fits(each))
        phrase = f"{query.target.noun} {query.relation} it"
        return f"{locate(anchor.name, anchor)} {locate(phrase, target)}"
    found = locate(f"{query.relation} {query.target.noun}", target)
    rivals = left_to_right([each for each in objects if query.target.fits(each)])
    if len(rivals) > _MOST_RIVALS:
        return found
    return (
        "one is at " + ", one at ".join(f"the {place(each.box)}" for each in rivals) + f". {found}"
    )


def enumerate_objects(objects: Sequence[SceneObject]) -> str:
    """Every object with its place: "a red circle at the top left, a blue square at the centre."."""
    return (
        ", ".join(f"{with_article(each.name)} at the {place(each.box)}" for each in objects) + "."
    )


def left_to_right(objects: Sequence[SceneObject]) -> list[SceneObject]:
    """The objects by their left edges, and by their upper edges where those agree."""
    return sorted(objects, key=lambda each: (each.box.x1, each.box.y1))


def with_article(noun: str) -> str:
    """The noun with "a" or "an".

    >>> with_article("orange ring")
    'an orange ring'
    """
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
