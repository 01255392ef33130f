"""Questions about several different scenes, tied by the kinds of their objects or by their layout.

The names of the tasks are those of MIG-Bench.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from reground.data.convert.mentions import ORDINALS
from reground.tinyworld.scenes.drafts import Draft, locate, seek
from reground.tinyworld.scenes.queries import SUPERLATIVES, Query, Relation, may_hold, resolve
from reground.tinyworld.scenes.world import (
    COLOURS,
    KINDS,
    SHAPES,
    Kind,
    Sampler,
    Scene,
    SceneObject,
)


def common_object(rng: Sampler, count: int) -> Draft:
    """Two to four images that share one kind of object; it is sought in one of them."""
    shared = rng.choice(KINDS)
    kinds = [rng.kinds_alike(count, first=shared) for _ in range(rng.randint(2, 4))]
    if len(set(kinds[0]).intersection(*kinds[1:])) > 1:
        return common_object(rng, count)
    return seek(
        tuple(rng.scene(each) for each in kinds),
        rng.randrange(len(kinds)),
        expression="the object that all images share",
        kind="shared",
        think=f"all images share the {shared.name}.",
    )


def refer_grounding(rng: Sampler, count: int) -> Draft:
    """The first image shows one object alone; its like is sought in the second."""
    kind = rng.choice(KINDS)
    shown = rng.scene([kind])
    return seek(
        (shown, rng.scene(rng.kinds_alike(count, first=kind))),
        1,
        expression="the object shown in the first image",
        kind="shown",
        think=f"the first image shows the {kind.name}.",
    )


def group_grounding(rng: Sampler, count: int) -> Draft:
    """Two to four images; which of them holds the described object is for the answer to say."""
    kind = rng.choice(KINDS)
    num_images = rng.randint(2, 4)
    image = rng.randrange(num_images)
    kinds = [
        rng.kinds_alike(count, first=rng.kin(kind), without=(kind,)) for _ in range(num_images)
    ]
    kinds[image] = rng.kinds_alike(count, first=kind)
    scenes = tuple(rng.scene(each) for each in kinds)
    target = scenes[image].objects[0]
    think = f"It is in the {ORDINALS[image]} image. {locate(kind.name, target.box)}"
    return Draft(scenes, f"the {kind.name}", (target,), "group", think, image)


def reasoning(rng: Sampler, count: int) -> Draft:
    """A rule that the first image implies picks one object of the second."""
    rule = rng.choice((_same_colour, _same_shape, _same_corners))(rng, max(count, 2))
    others = [kind for kind in KINDS if not any(each.fits(kind) for each in rule.fitting)]
    first = rng.scene(rng.sample(rule.first, len(rule.first)))
    return seek(
        (first, rng.scene([rule.target, *rng.sample(others, count - 1)])),
        1,
        expression=f"the object with {rule.what} in the first image",
        kind=rule.kind,
        think=rule.think,
    )


def correspondence(rng: Sampler, count: int) -> Draft:
    """The object marked in the first image is, say, the leftmost; so is the one sought.

    Whatever else the marked object might be called the most of, the sought one clearly is too.
    """
    role = rng.choice(SUPERLATIVES)
    while True:  # few pairs of scenes have such objects
        kinds = rng.kinds(2 * count)
        first = rng.scene(kinds[:count])
        if (marked := _player(role, first)) is None:
            continue
        second = rng.scene(kinds[count:])
        target = _player(role, second)
        roles = (own for own in SUPERLATIVES if may_hold(own, marked, first.objects))
        if target is not None and all(_player(own, second) is target for own in roles):
            break
    return seek(
        (replace(first, mark=marked.box), second),
        1,
        expression="the object with the role of the one marked in the first image",
        kind="role",
        think=f"the marked {marked.name} is the {role}.",
        index=second.objects.index(target),
    )


@dataclass(frozen=True, slots=True)
class _Rule:
    """What the first image shows, and the kinds that fit what it implies: one is ``target``."""

    kind: str
    what: str
    think: str
    first: Sequence[Kind]
    target: Kind
    fitting: Iterable[Kind]


def _same_colour(rng: Sampler, count: int) -> _Rule:
    colour, other = rng.sample(tuple(COLOURS), 2)
    shapes = rng.sample(SHAPES, len(SHAPES))
    first = [Kind(colour, shape) for shape in shapes[: max(2, count - 1)]]
    if count > len(first):
        first.append(Kind(other, rng.choice(SHAPES)))
    what = "the colour of most objects"
    think = f"most objects in the first image are {colour}."
    target = Kind(colour, rng.choice(SHAPES))
    return _Rule("same colour", what, think, first, target, (Kind(colour=colour),))


def _same_shape(rng: Sampler, count: int) -> _Rule:
    shape, other = rng.sample(SHAPES, 2)
    colours = rng.sample(tuple(COLOURS), len(COLOURS))
    first = [Kind(colour, shape) for colour in colours[: max(2, count - 1)]]
    if count > len(first):
        first.append(Kind(rng.choice(colours), other))
    what = "the shape of most objects"
    think = f"most objects in the first image are {_plural(shape)}."
    target = Kind(rng.choice(colours), shape)
    return _Rule("same shape", what, think, first, target, (Kind(shape=shape),))


_CORNERS: Final = {"three": ("triangle",), "four": ("square", "diamond"), "no": ("circle", "ring")}


def _same_corners(rng: Sampler, count: int) -> _Rule:
    number = rng.choice(tuple(_CORNERS))
    shapes = _CORNERS[number]
    shown, sought = rng.choice(shapes), rng.choice(shapes)
    first = [Kind(colour, shown) for colour in rng.sample(tuple(COLOURS), count)]
    what = "as many corners as each object"
    same = "" if shown == sought else f", the same as {_plural(sought)}"
    think = f"{_plural(shown)} have {number} corners{same}."
    target = Kind(rng.choice(tuple(COLOURS)), sought)
    return _Rule("same corners", what, think, first, target, [Kind(shape=own) for own in shapes])


def _plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def _player(role: Relation, scene: Scene) -> SceneObject | None:
    return resolve(Query(Kind(), role), scene.objects)
