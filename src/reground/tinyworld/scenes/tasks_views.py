"""Questions about two or more views of one scene: what changed, where is it now, what is this part.

The names of the tasks are those of MIG-Bench.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from reground.data.convert.mentions import ORDINALS
from reground.grounding.boxes import Box
from reground.tinyworld.scenes import chains
from reground.tinyworld.scenes.drafts import Draft, has_distractor, seek
from reground.tinyworld.scenes.world import (
    FRAME,
    MARGIN,
    SIDES,
    SIZE,
    Background,
    Kind,
    Scene,
    SceneObject,
    Share,
    apart,
    paint,
    sample_background,
    sample_kin,
    sample_kinds,
    sample_kinds_alike,
    sample_scene,
    sample_spot,
)

_WINDOW_SIDES: Final = (36, 84)  # pixels of the source that a region shows, magnified to SIZE
_WINDOW_MARGIN: Final = 3


def diff(rng: random.Random, count: int) -> Draft:
    """Two images that agree in all but one object; it is sought in an image that has it."""
    before = sample_scene(rng, sample_kinds(rng, count))
    change = rng.choice(("recoloured", "reshaped", "added", "removed"))
    if change == "removed":
        gone = rng.choice(before.objects)
        after = replace(before, objects=_without(before.objects, gone))
        think = f"the {gone.name} is missing in the second image."
        return _difference(before, after, gone, 0, change, think)
    if (changed := _change(rng, before, change)) is None:
        return diff(rng, count)
    after, old, new = changed
    if old is not None and rng.random() < 0.5:
        return _difference(before, after, old, 0, change, _tell_change(old, new))
    return _difference(before, after, new, 1, change, _tell_change(old, new))


def view_diff(rng: random.Random, count: int) -> Draft:
    """As :func:`diff`, but in the second image, which is also shifted and scaled."""
    before = sample_scene(rng, sample_kinds(rng, count), background=_plain(rng))
    change = rng.choice(("recoloured", "reshaped", "added"))
    changed = _change(rng, seen_anew(rng, before), change)
    if changed is None:
        return view_diff(rng, count)
    after, old, new = changed
    return _difference(before, after, new, 1, change, _tell_change(old, new))


def multi_view(rng: random.Random, count: int) -> Draft:
    """One scene in two to four views; an object marked in the first is sought in another."""
    scene = sample_scene(rng, sample_kinds_alike(rng, count), background=_plain(rng))
    marked = scene.objects[0]
    views = [replace(scene, mark=marked.box)]
    views += [seen_anew(rng, scene) for _ in range(rng.randint(1, 3))]
    image = rng.randrange(1, len(views))
    return seek(
        views[image].objects[0],
        tuple(views),
        image,
        expression="the object marked in the first image",
        kind="marked",
        think=f"the marked object is the {marked.name}.",
    )


def region(rng: random.Random, count: int) -> Draft:
    """Parts of the first image, magnified, are the other images; one is sought in the first.

    A part shows whole objects only, so that its place and extent follow from its objects.
    """
    source = sample_scene(rng, sample_kinds(rng, count), background=_plain(rng))
    windows = _windows(rng, source)
    if not windows:
        return region(rng, count)
    crops = [_magnified(source, window) for window in windows]
    number = rng.randrange(len(windows))
    window, shown = windows[number], crops[number].objects
    names = ", ".join(f"the {each.name}" for each in chains.left_to_right(shown))
    return Draft(
        scenes=(source, *crops),
        question=chains.ask_in(f"the region in the {ORDINALS[number + 1]} image", 0),
        boxes=(window,),
        kind="region",
        think=f"the {ORDINALS[number + 1]} image shows {names}. "
        + chains.locate_in("region", window, 0),
        relational=True,
        distractor=has_distractor(shown[0], source.objects),
    )


def seen_anew(rng: random.Random, scene: Scene) -> Scene:
    """The scene shifted and scaled, the same objects in the same order, all of them inside."""
    boxes = [each.box for each in scene.objects]
    left, top = min(box.x1 for box in boxes), min(box.y1 for box in boxes)
    width, height = max(box.x2 for box in boxes) - left, max(box.y2 for box in boxes) - top
    room = SIZE - 2 * MARGIN - 2  # rounding may widen the scene by a pixel on either side
    shortest = min(min(box.x2 - box.x1, box.y2 - box.y1) for box in boxes)
    longest = max(max(box.x2 - box.x1, box.y2 - box.y1) for box in boxes)
    scale = rng.uniform(
        max(0.75, SIDES[0] / shortest), min(1.4, SIDES[1] / longest, room / max(width, height))
    )
    x = MARGIN + 1 + rng.random() * (room - scale * width)
    y = MARGIN + 1 + rng.random() * (room - scale * height)
    moved = [_rescaled(box, scale, x - scale * left, y - scale * top) for box in boxes]
    return replace(
        scene,
        objects=tuple(
            replace(each, box=box) for each, box in zip(scene.objects, moved, strict=True)
        ),
    )


def _rescaled(box: Box, scale: float, x_shift: float, y_shift: float) -> Box:
    width, height = round(scale * (box.x2 - box.x1)), round(scale * (box.y2 - box.y1))
    x, y = round(scale * box.x1 + x_shift), round(scale * box.y1 + y_shift)
    return Box(x, y, x + width, y + height, FRAME)


def _change(
    rng: random.Random, scene: Scene, change: str
) -> tuple[Scene, SceneObject | None, SceneObject] | None:
    """The changed scene, the object as it was and as it is; None where nothing can be added."""
    kinds = [each.kind for each in scene.objects]
    if change == "added":
        spot = sample_spot(rng, [each.box for each in scene.objects])
        if spot is None:
            return None
        new = paint(rng, sample_kinds(rng, 1, without=kinds)[0], spot)
        return replace(scene, objects=(*scene.objects, new)), None, new
    old = rng.choice(scene.objects)
    kept: Share = "shape" if change == "recoloured" else "colour"
    new = _turned(rng, old, sample_kin(rng, old.kind, share=kept, without=kinds))
    return replace(scene, objects=(*_without(scene.objects, old), new)), old, new


def _turned(rng: random.Random, old: SceneObject, kind: Kind) -> SceneObject:
    if kind.colour == old.colour:
        return replace(old, shape=kind.shape)
    return paint(rng, kind, old.box)


def _without(objects: Sequence[SceneObject], gone: SceneObject) -> tuple[SceneObject, ...]:
    return tuple(each for each in objects if each is not gone)


def _tell_change(old: SceneObject | None, new: SceneObject) -> str:
    if old is None:
        return f"the {new.name} is new in the second image."
    return f"the {old.name} became {chains.with_article(new.name)}."


def _difference(
    before: Scene, after: Scene, target: SceneObject, image: int, change: str, think: str
) -> Draft:
    expression = "the object that differs between the images"
    return seek(target, (before, after), image, expression=expression, kind=change, think=think)


def _windows(rng: random.Random, source: Scene) -> list[Box]:
    """One to three square windows that show different objects."""
    windows: list[Box] = []
    shown: list[frozenset[Kind]] = []
    for _ in range(rng.randint(1, 3)):
        window = _window(rng, source, rng.choice(source.objects).box)
        if window is None:
            continue
        kinds = frozenset(each.kind for each in _inside(source, window))
        if kinds not in shown:
            windows.append(window)
            shown.append(kinds)
    return windows


def _window(rng: random.Random, source: Scene, core: Box) -> Box | None:
    """A window around ``core`` that cuts no object, or None where none was found."""
    low = int(max(_WINDOW_SIDES[0], core.x2 - core.x1 + 8, core.y2 - core.y1 + 8))
    for _ in range(30):
        side = rng.randint(low, _WINDOW_SIDES[1])
        x = rng.randint(0, SIZE - side)
        y = rng.randint(0, SIZE - side)
        window = Box(x, y, x + side, y + side, FRAME)
        if _holds(window, core) and all(
            _holds(window, each.box) or apart(window, each.box, gap=0) for each in source.objects
        ):
            return window
    return None


def _inside(source: Scene, window: Box) -> tuple[SceneObject, ...]:
    return tuple(each for each in source.objects if _holds(window, each.box))


def _holds(window: Box, box: Box) -> bool:
    margin = _WINDOW_MARGIN
    return (
        box.x1 >= window.x1 + margin
        and box.y1 >= window.y1 + margin
        and box.x2 <= window.x2 - margin
        and box.y2 <= window.y2 - margin
    )


def _magnified(source: Scene, window: Box) -> Scene:
    scale = SIZE / (window.x2 - window.x1)
    objects = (
        replace(each, box=_rescaled(each.box, scale, -scale * window.x1, -scale * window.y1))
        for each in _inside(source, window)
    )
    return replace(source, objects=tuple(objects))


def _plain(rng: random.Random) -> Background:
    """A background that looks alike wherever the view is moved."""
    return sample_background(rng, plain=True)
