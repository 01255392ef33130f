"""Questions about two or more views of one scene: what changed, where is it now, what is this part.

The names of the tasks are those of MIG-Bench.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from reground.data.convert.mentions import ORDINALS
from reground.grounding.boxes import Box
from reground.tinyworld.scenes.drafts import (
    Draft,
    ask_in,
    left_to_right,
    locate,
    seek,
    with_article,
)
from reground.tinyworld.scenes.world import (
    FRAME,
    MARGIN,
    SIDES,
    SIZE,
    Kind,
    Sampler,
    Scene,
    Share,
    apart,
    holds,
    moved,
)

_CHANGES: Final = ("recoloured", "reshaped", "added")
_WINDOW_SIDES: Final = (36, 84)  # pixels of the source that a region shows, magnified to SIZE
_WINDOW_MARGIN: Final = 3


def diff(rng: Sampler, count: int) -> Draft:
    """Two images that agree in all but one object; it is sought in an image that has it."""
    before = rng.scene(rng.kinds(count))
    change = _change(rng, before, rng.choice((*_CHANGES, "removed")))
    if change is None:
        return diff(rng, count)
    gone = change.gone
    if gone is not None and (change.kind == "removed" or rng.random() < 0.5):
        return _difference(before, change, image=0, index=gone)
    return _difference(before, change)


def view_diff(rng: Sampler, count: int) -> Draft:
    """As :func:`diff`, but in the second image, which is also shifted and scaled."""
    before = rng.scene(rng.kinds(count), background=rng.background(plain=True))
    kind = rng.choice(_CHANGES)
    change = _change(rng, seen_anew(rng, before), kind)
    return view_diff(rng, count) if change is None else _difference(before, change)


def multi_view(rng: Sampler, count: int) -> Draft:
    """One scene in two to four views; an object marked in the first is sought in another."""
    scene = rng.scene(rng.kinds_alike(count), background=rng.background(plain=True))
    marked = scene.objects[0]
    views = [replace(scene, mark=marked.box)]
    views += [seen_anew(rng, scene) for _ in range(rng.randint(1, 3))]
    return seek(
        tuple(views),
        rng.randrange(1, len(views)),
        expression="the object marked in the first image",
        kind="marked",
        think=f"the marked object is the {marked.name}.",
    )


def region(rng: Sampler, count: int) -> Draft:
    """Parts of the first image, magnified, are the other images; one is sought in the first.

    A part shows whole objects only, so that its place and extent follow from its objects.
    """
    source = rng.scene(rng.kinds(count), background=rng.background(plain=True))
    crops = _crops(rng, source)
    if not crops:
        return region(rng, count)
    number = rng.randrange(len(crops))
    window, crop = list(crops.items())[number]
    which = ORDINALS[number + 1]
    names = ", ".join(f"the {each.name}" for each in left_to_right(crop.objects))
    return Draft(
        scenes=(source, *crops.values()),
        question=ask_in(f"the region in the {which} image", 0),
        targets=crop.objects,
        kind="region",
        think=f"the {which} image shows {names}. {locate('region', window, 0)}",
        region=window,
    )


def seen_anew(rng: Sampler, scene: Scene) -> Scene:
    """The scene shifted and scaled, the same objects in the same order, all of them inside."""
    boxes = [each.box for each in scene.objects]
    left, top = min(box.x1 for box in boxes), min(box.y1 for box in boxes)
    width, height = max(box.x2 for box in boxes) - left, max(box.y2 for box in boxes) - top
    room = SIZE - 2 * MARGIN - 2  # rounding may widen the scene by a pixel on either side
    shortest = min(min(box.width, box.height) for box in boxes)
    longest = max(max(box.width, box.height) for box in boxes)
    scale = rng.uniform(
        max(0.75, SIDES[0] / shortest), min(1.4, SIDES[1] / longest, room / max(width, height))
    )
    x = MARGIN + 1 + rng.random() * (room - scale * width)
    y = MARGIN + 1 + rng.random() * (room - scale * height)
    return scene.at(moved(box, x - scale * left, y - scale * top, scale=scale) for box in boxes)


@dataclass(frozen=True, slots=True)
class _Change:
    """A scene after a change: a new object is its last; ``gone`` is where one was that went."""

    kind: str
    after: Scene
    gone: int | None
    think: str


def _change(rng: Sampler, scene: Scene, kind: str) -> _Change | None:
    """A change of this kind, or None where nothing can be added."""
    objects = scene.objects
    kinds = [each.kind for each in objects]
    if kind == "added":
        spot = rng.spot([each.box for each in objects])
        if spot is None:
            return None
        new = rng.paint(rng.kinds(1, without=kinds)[0], spot)
        think = f"the {new.name} is new in the second image."
        return _Change(kind, replace(scene, objects=(*objects, new)), None, think)
    gone = rng.randrange(len(objects))
    old, others = objects[gone], objects[:gone] + objects[gone + 1 :]
    if kind == "removed":
        think = f"the {old.name} is missing in the second image."
        return _Change(kind, replace(scene, objects=others), gone, think)
    share: Share = "shape" if kind == "recoloured" else "colour"
    kin = rng.kin(old.kind, share=share, without=kinds)
    new = rng.paint(kin, old.box) if kind == "recoloured" else replace(old, kind=kin)
    think = f"the {old.name} became {with_article(new.name)}."
    return _Change(kind, replace(scene, objects=(*others, new)), gone, think)


def _difference(before: Scene, change: _Change, *, image: int = 1, index: int = -1) -> Draft:
    return seek(
        (before, change.after),
        image,
        expression="the object that differs between the images",
        kind=change.kind,
        think=change.think,
        index=index,
    )


def _crops(rng: Sampler, source: Scene) -> dict[Box, Scene]:
    """One to three square windows that show different objects, each magnified."""
    crops: dict[Box, Scene] = {}
    shown: list[set[Kind]] = []
    for _ in range(rng.randint(1, 3)):
        window = _window(rng, source, rng.choice(source.objects).box)
        if window is None:
            continue
        inside = tuple(each for each in source.objects if _shows(window, each.box))
        kinds = {each.kind for each in inside}
        if kinds not in shown:
            shown.append(kinds)
            scale = SIZE / window.width
            x, y = -scale * window.x1, -scale * window.y1
            boxes = (moved(each.box, x, y, scale=scale) for each in inside)
            crops[window] = replace(source, objects=inside).at(boxes)
    return crops


def _window(rng: Sampler, source: Scene, core: Box) -> Box | None:
    """A window around ``core`` that cuts no object, or None where none was found."""
    low = int(max(_WINDOW_SIDES[0], core.width + 8, core.height + 8))
    for _ in range(30):
        side = rng.randint(low, _WINDOW_SIDES[1])
        x = rng.randint(0, SIZE - side)
        y = rng.randint(0, SIZE - side)
        window = Box(x, y, x + side, y + side, FRAME)
        boxes = [each.box for each in source.objects if not apart(window, each.box, gap=0)]
        if core in boxes and all(_shows(window, box) for box in boxes):
            return window
    return None


def _shows(window: Box, box: Box) -> bool:
    return holds(window, box, margin=_WINDOW_MARGIN)
