"""Questions about one image: by attributes, by relation, by a list of phrases, and for everything.

Each task is a function of a generator and the number of objects; it may be called for any number
in the range that the task allows.
"""

from __future__ import annotations

import random
from typing import Final

from reground.tinyworld.scenes import chains
from reground.tinyworld.scenes.drafts import Draft, has_distractor
from reground.tinyworld.scenes.queries import (
    ANCHORED,
    SUPERLATIVES,
    Description,
    Query,
    Relation,
    describe,
    only,
    resolve,
)
from reground.tinyworld.scenes.world import (
    Kind,
    Scene,
    SceneObject,
    sample_kin,
    sample_kinds,
    sample_kinds_alike,
    sample_scene,
)

_RELATION_SHARE: Final = 0.5  # of the "referring" mix, where the scene has objects to relate
_ALIKE_SHARE: Final = 0.75  # of attribute scenes in which a distractor is put on purpose
_ANCHORED_SHARE: Final = 0.6  # of relational questions, where the scene has room for an anchor
_MOST_PHRASES: Final = 4


def referring(rng: random.Random, count: int) -> Draft:
    """A mix of :func:`attribute` and :func:`relation`; a scene of one object asks by attribute."""
    if count >= 2 and rng.random() < _RELATION_SHARE:
        return relation(rng, count)
    return attribute(rng, count)


def attribute(rng: random.Random, count: int) -> Draft:
    """One object by its colour and shape, or by one of them where that is enough."""
    kinds = (
        sample_kinds_alike(rng, count) if rng.random() < _ALIKE_SHARE else sample_kinds(rng, count)
    )
    scene = sample_scene(rng, kinds)
    target = scene.objects[0]
    query = Query(_shortened(rng, target, scene.objects))
    return _refer(rng, query, scene, target)


def relation(rng: random.Random, count: int) -> Draft:
    """One object by where it is from another or among its like; ``count`` must be 2 or more."""
    anchored = count >= 3 and rng.random() < _ANCHORED_SHARE
    relation = rng.choice(ANCHORED if anchored else SUPERLATIVES)
    while True:  # about one scene in three allows the relation
        kinds, description = _ambiguous(rng, count, relation)
        scene = sample_scene(rng, kinds)
        for query in _queries(rng, description, relation, scene.objects):
            if (target := resolve(query, scene.objects)) is not None:
                return _refer(rng, query, scene, target)


def phrases(rng: random.Random, count: int) -> Draft:
    """One to four objects by colour and shape; the boxes are in the order of the phrases."""
    scene = sample_scene(rng, sample_kinds(rng, count))
    named = rng.sample(scene.objects, rng.randint(1, min(_MOST_PHRASES, count)))
    return Draft(
        scenes=(scene,),
        question=", ".join(f"the {each.name}" for each in named),
        boxes=tuple(each.box for each in named),
        kind="phrases",
        think=" ".join(chains.locate(each.name, each) for each in named),
        distractor=any(has_distractor(each, scene.objects) for each in named),
    )


def listing(rng: random.Random, count: int) -> Draft:
    """Every object, from left to right."""
    scene = sample_scene(rng, sample_kinds(rng, count))
    ordered = chains.left_to_right(scene.objects)
    return Draft(
        scenes=(scene,),
        question="every object",
        boxes=tuple(each.box for each in ordered),
        kind="listing",
        think=chains.enumerate_objects(ordered),
        distractor=any(has_distractor(each, scene.objects) for each in ordered),
    )


def _refer(rng: random.Random, query: Query, scene: Scene, target: SceneObject) -> Draft:
    return Draft(
        scenes=(scene,),
        question=query.words(rng),
        boxes=(target.box,),
        kind="attribute" if query.relation is None else "relation",
        think=chains.explain(query, scene.objects, target),
        relational=query.relation is not None,
        distractor=has_distractor(target, scene.objects),
    )


def _shortened(
    rng: random.Random, target: SceneObject, objects: tuple[SceneObject, ...]
) -> Description:
    """The full description mostly; else, where one is enough, the shape or the colour alone."""
    if rng.random() < 0.6:
        return describe(target)
    short = [Description(shape=target.shape), Description(colour=target.colour)]
    enough = [each for each in short if only(each, objects) is target]
    return rng.choice(enough) if enough else describe(target)


def _ambiguous(
    rng: random.Random, count: int, relation: Relation
) -> tuple[list[Kind], Description]:
    """Kinds of a scene, and a description that fits at least two of them."""
    first = sample_kinds(rng, 1)[0]
    form = rng.random()
    if form < 0.4:  # twins: two of one kind
        rest = sample_kinds(rng, count - 2, without=(first,))
        return [first, first, *rest], Description(first.colour, first.shape)
    if form < 0.55 and relation not in (Relation.LARGEST, Relation.SMALLEST):  # of any shape
        second = sample_kin(rng, first, share="colour")
        description = Description(colour=first.colour)
    else:
        second = sample_kin(rng, first, share="shape")
        description = Description(shape=first.shape)
    if form > 0.85 and relation in ANCHORED:
        description = Description()
    return [first, second, *sample_kinds(rng, count - 2, without=(first, second))], description


def _queries(
    rng: random.Random,
    description: Description,
    relation: Relation,
    objects: tuple[SceneObject, ...],
) -> list[Query]:
    """The ways to ask by this relation: one, or one for each object that can be the anchor."""
    if relation in SUPERLATIVES:
        return [Query(description, relation)]
    anchors = [each for each in objects if not description.fits(each)]
    if description == Description():
        anchors = [each for each in objects if only(describe(each), objects)]
    rng.shuffle(anchors)
    return [Query(description, relation, describe(each)) for each in anchors]
