"""Questions about one image: by attributes, by relation, by a list of phrases, and for everything.

Each task is a function of a generator and the number of objects; it may be called for any number
in the range that the task allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from reground.grounding.boxes import place
from reground.tinyworld.scenes.drafts import Draft, left_to_right, locate, with_article
from reground.tinyworld.scenes.queries import ANCHORED, SUPERLATIVES, Query, Relation, only, resolve
from reground.tinyworld.scenes.world import KINDS, Kind, Sampler, Scene, SceneObject

_RELATION_SHARE: Final = 0.5  # of the "referring" mix, where the scene has objects to relate
_ALIKE_SHARE: Final = 0.75  # of attribute scenes in which a distractor is put on purpose
_ANCHORED_SHARE: Final = 0.6  # of relational questions, where the scene has room for an anchor
_MOST_PHRASES: Final = 4
_MOST_RIVALS: Final = 3  # with more, a chain that lists them all is long


def referring(rng: Sampler, count: int) -> Draft:
    """A mix of :func:`attribute` and :func:`relation`; a scene of one object asks by attribute."""
    if count >= 2 and rng.random() < _RELATION_SHARE:
        return relation(rng, count)
    return attribute(rng, count)


def attribute(rng: Sampler, count: int) -> Draft:
    """One object by its colour and shape, or by one of them where that is enough."""
    alike = rng.random() < _ALIKE_SHARE
    scene = rng.scene(rng.kinds_alike(count) if alike else rng.kinds(count))
    target = scene.objects[0]
    return _refer(rng, Query(_shortened(rng, target, scene.objects)), scene, target)


def relation(rng: Sampler, count: int) -> Draft:
    """One object by where it is from another or among its like; ``count`` must be 2 or more."""
    anchored = count >= 3 and rng.random() < _ANCHORED_SHARE
    relation = rng.choice(ANCHORED if anchored else SUPERLATIVES)
    while True:  # about one scene in three allows the relation
        kinds, description = _ambiguous(rng, count, relation)
        scene = rng.scene(kinds)
        for query in _queries(rng, description, relation, scene.objects):
            if (target := resolve(query, scene.objects)) is not None:
                return _refer(rng, query, scene, target)


def phrases(rng: Sampler, count: int) -> Draft:
    """One to four objects by colour and shape; the boxes are in the order of the phrases."""
    scene = rng.scene(rng.kinds(count))
    named = tuple(rng.sample(scene.objects, rng.randint(1, min(_MOST_PHRASES, count))))
    question = ", ".join(f"the {each.name}" for each in named)
    think = " ".join(locate(each.name, each.box) for each in named)
    return Draft((scene,), question, named, "phrases", think)


def listing(rng: Sampler, count: int) -> Draft:
    """Every object, from left to right."""
    scene = rng.scene(rng.kinds(count))
    ordered = tuple(left_to_right(scene.objects))
    placed = (f"{with_article(each.name)} at the {place(each.box)}" for each in ordered)
    return Draft((scene,), "every object", ordered, "listing", ", ".join(placed) + ".")


def _refer(rng: Sampler, query: Query, scene: Scene, target: SceneObject) -> Draft:
    kind = "attribute" if query.relation is None else "relation"
    think = _explain(query, scene.objects, target)
    return Draft((scene,), query.words(rng), (target,), kind, think)


def _explain(query: Query, objects: Sequence[SceneObject], target: SceneObject) -> str:
    """The way from the expression to the target: the anchor or the rivals first, then the place."""
    if query.relation is None:
        return locate(target.name, target.box)
    if query.anchor is not None:
        anchor = next(each for each in objects if query.anchor.fits(each.kind))
        phrase = f"{query.target.name} {query.relation} it"
        return f"{locate(anchor.name, anchor.box)} {locate(phrase, target.box)}"
    found = locate(f"{query.relation} {query.target.name}", target.box)
    rivals = left_to_right(each for each in objects if query.target.fits(each.kind))
    if len(rivals) > _MOST_RIVALS:
        return found
    places = ", one at ".join(f"the {place(each.box)}" for each in rivals)
    return f"one is at {places}. {found}"


def _shortened(rng: Sampler, target: SceneObject, objects: Sequence[SceneObject]) -> Kind:
    """The full description mostly; else, where one is enough, the shape or the colour alone."""
    if rng.random() < 0.6:
        return target.kind
    short = [Kind(shape=target.kind.shape), Kind(colour=target.kind.colour)]
    enough = [each for each in short if only(each, objects) is target]
    return rng.choice(enough) if enough else target.kind


def _ambiguous(rng: Sampler, count: int, relation: Relation) -> tuple[list[Kind], Kind]:
    """Kinds of a scene, and a description that fits at least two of them."""
    first = rng.choice(KINDS)
    form = rng.random()
    if form < 0.4:  # twins: two of one kind
        return [first, first, *rng.kinds(count - 2, without=(first,))], first
    if form < 0.55 and relation not in (Relation.LARGEST, Relation.SMALLEST):  # of any shape
        second = rng.kin(first, share="colour")
        description = Kind(colour=first.colour)
    else:
        second = rng.kin(first, share="shape")
        description = Kind(shape=first.shape)
    if form > 0.85 and relation in ANCHORED:
        description = Kind()
    return [first, second, *rng.kinds(count - 2, without=(first, second))], description


def _queries(
    rng: Sampler, description: Kind, relation: Relation, objects: Sequence[SceneObject]
) -> list[Query]:
    """The ways to ask by this relation: one, or one for each object that can be the anchor."""
    if relation in SUPERLATIVES:
        return [Query(description, relation)]
    anchors = [each.kind for each in objects if not description.fits(each.kind)]
    if description == Kind():
        anchors = [each.kind for each in objects if only(each.kind, objects)]
    rng.shuffle(anchors)
    return [Query(description, relation, anchor) for anchor in anchors]
