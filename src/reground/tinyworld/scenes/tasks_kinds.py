"""Questions about several different scenes, tied by the kinds of their objects or by their layout.

The names of the tasks are those of MIG-Bench.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Final

from reground.data.convert.mentions import ORDINALS
from reground.tinyworld.scenes import chains
from reground.tinyworld.scenes.drafts import Draft, has_distractor, seek
from reground.tinyworld.scenes.queries import (
    SUPERLATIVES,
    Description,
    Query,
    Relation,
    may_hold,
    resolve,
)
from reground.tinyworld.scenes.world import (
    COLOURS,
    KINDS,
    SHAPES,
    Kind,
    Scene,
    SceneObject,
    sample_kin,
    sample_kinds,
    sample_kinds_alike,
    sample_scene,
)


def common_object(rng: random.Random, count: int) -> Draft:
    """Two to four images that share one kind of object; it is sought in one of them."""
    shared = sample_kinds(rng, 1)[0]
    num_images = rng.randint(2, 4)
    kinds = [sample_kinds_alike(rng, count, first=shared) for _ in range(num_images)]
    if len(set(kinds[0]).intersection(*kinds[1:])) > 1:
        return common_object(rng, count)
    scenes = tuple(sample_scene(rng, each) for each in kinds)
    image = rng.randrange(num_images)
    return seek(
        scenes[image].objects[0],
        scenes,
        image,
        expression="the object that all images share",
        kind="shared",
        think=f"all images share the {shared.name}.",
    )


def refer_grounding(rng: random.Random, count: int) -> Draft:
    """The first image shows one object alone; its like is sought in the second."""
    kind = sample_kinds(rng, 1)[0]
    scenes = (
        sample_scene(rng, [kind]),
        sample_scene(rng, sample_kinds_alike(rng, count, first=kind)),
    )
    return seek(
        scenes[1].objects[0],
        scenes,
        1,
        expression="the object shown in the first image",
        kind="shown",
        think=f"the first image shows the {kind.name}.",
    )


def group_grounding(rng: random.Random, count: int) -> Draft:
    """Two to four images; which of them holds the described object is for the answer to say."""
    kind = sample_kinds(rng, 1)[0]
    num_images = rng.randint(2, 4)
    image = rng.randrange(num_images)
    kinds = [
        sample_kinds_alike(rng, count, first=sample_kin(rng, kind), without=(kind,))
        for _ in range(num_images)
    ]
    kinds[image] = sample_kinds_alike(rng, count, first=kind)
    scenes = tuple(sample_scene(rng, each) for each in kinds)
    target = scenes[image].objects[0]
    return Draft(
        scenes=scenes,
        question=f"the {kind.name}",
        boxes=(target.box,),
        kind="group",
        think=f"It is in the {ORDINALS[image]} image. " + chains.locate(kind.name, target),
        image=image,
        relational=True,
        distractor=has_distractor(target, scenes[image].objects),
    )


def reasoning(rng: random.Random, count: int) -> Draft:
    """A rule that the first image implies picks one object of the second."""
    rule = rng.choice((_same_colour, _same_shape, _same_corners))(rng, max(count, 2))
    first, target = rule.first, rule.target
    others = [kind for kind in KINDS if kind not in rule.fitting and kind != target]
    scenes = (
        sample_scene(rng, rng.sample(first, len(first))),
        sample_scene(rng, [target, *rng.sample(others, count - 1)]),
    )
    sought = scenes[1].objects[0]
    return seek(sought, scenes, 1, expression=rule.question, kind=rule.name, think=rule.think)


def correspondence(rng: random.Random, count: int) -> Draft:
    """The object marked in the first image is, say, the leftmost; so is the one sought.

    Whatever else the marked object might be called the most of, the sought one clearly is too.
    """
    role = rng.choice(SUPERLATIVES)
    while True:  # few pairs of scenes have such objects
        kinds = sample_kinds(rng, 2 * count)
        first = sample_scene(rng, kinds[:count])
        if (marked := _player(role, first)) is None:
            continue
        second = sample_scene(rng, kinds[count:])
        target = _player(role, second)
        if target is not None and _plays_alike(marked, first, target, second):
            break
    return seek(
        target,
        (replace(first, mark=marked.box), second),
        1,
        expression="the object with the role of the one marked in the first image",
        kind="role",
        think=f"the marked {marked.name} is the {role}.",
    )


@dataclass(frozen=True, slots=True)
class _Rule:
    """What the first image shows, and which kinds of the second would fit what it implies."""

    name: str
    question: str
    think: str
    first: list[Kind]
    target: Kind
    fitting: frozenset[Kind]


def _same_colour(rng: random.Random, count: int) -> _Rule:
    colour, other = rng.sample(tuple(COLOURS), 2)
    shapes = rng.sample(SHAPES, len(SHAPES))
    first = [Kind(colour, shape) for shape in shapes[: max(2, count - 1)]]
    if count > len(first):
        first.append(Kind(other, rng.choice(SHAPES)))
    return _Rule(
        name="same colour",
        question="the object with the colour of most objects in the first image",
        think=f"most objects in the first image are {colour}.",
        first=first,
        target=Kind(colour, rng.choice(SHAPES)),
        fitting=frozenset(Kind(colour, shape) for shape in SHAPES),
    )


def _same_shape(rng: random.Random, count: int) -> _Rule:
    shape, other = rng.sample(SHAPES, 2)
    colours = rng.sample(tuple(COLOURS), len(COLOURS))
    first = [Kind(colour, shape) for colour in colours[: max(2, count - 1)]]
    if count > len(first):
        first.append(Kind(rng.choice(colours), other))
    return _Rule(
        name="same shape",
        question="the object with the shape of most objects in the first image",
        think=f"most objects in the first image are {_plural(shape)}.",
        first=first,
        target=Kind(rng.choice(colours), shape),
        fitting=frozenset(Kind(colour, shape) for colour in COLOURS),
    )


_CORNERS: Final = {"three": ("triangle",), "four": ("square", "diamond"), "no": ("circle", "ring")}


def _same_corners(rng: random.Random, count: int) -> _Rule:
    number = rng.choice(tuple(_CORNERS))
    shapes = _CORNERS[number]
    shown, sought = rng.choice(shapes), rng.choice(shapes)
    colours = rng.sample(tuple(COLOURS), count)
    return _Rule(
        name="same corners",
        question="the object with as many corners as each object in the first image",
        think=f"{_plural(shown)} have {number} corners"
        + ("." if shown == sought else f", the same as {_plural(sought)}."),
        first=[Kind(colour, shown) for colour in colours],
        target=Kind(rng.choice(tuple(COLOURS)), sought),
        fitting=frozenset(Kind(colour, shape) for colour in COLOURS for shape in shapes),
    )


def _plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def _player(role: Relation, scene: Scene) -> SceneObject | None:
    return resolve(Query(Description(), role), scene.objects)


def _plays_alike(marked: SceneObject, first: Scene, target: SceneObject, second: Scene) -> bool:
    return all(
        _player(role, second) is target
        for role in SUPERLATIVES
        if may_hold(role, marked, first.objects)
    )
