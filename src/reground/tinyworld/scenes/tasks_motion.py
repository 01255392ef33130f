"""Questions about moving objects: follow one, or find one by how it moves or where it started."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Final

from reground.grounding.boxes import Box, place
from reground.tinyworld.scenes.drafts import Draft, seek
from reground.tinyworld.scenes.queries import Description, Query, Relation, resolve
from reground.tinyworld.scenes.world import (
    FRAME,
    MARGIN,
    SIZE,
    Kind,
    Scene,
    apart,
    paint,
    sample_background,
    sample_kinds,
    sample_kinds_alike,
    sample_spot,
)


class Motion(StrEnum):
    """Which way an object moves, or that it does not."""

    LEFT = "left"
    RIGHT = "right"
    UP = "up"
    DOWN = "down"
    STILL = "still"


_MOVING: Final = (Motion.LEFT, Motion.RIGHT, Motion.UP, Motion.DOWN)
_STEPS: Final = (4, 7)  # pixels from one frame to the next; fewer than half of any side
_VIDEO_FRAMES: Final = 6
_VIDEO_TARGET: Final = 2  # the object is sought in the third of six frames
_STARTS: Final = (Relation.LEFTMOST, Relation.RIGHTMOST, Relation.HIGHEST, Relation.LOWEST)


def object_tracking(rng: random.Random, count: int) -> Draft:
    """Three to six frames; an object marked or named in the first is sought in a later one.

    A marked object may have a twin. The nearest of the two in the next frame is the object: its
    step is 7 pixels at most, while the twin, at least 16 wide and 4 apart, is 13 or more away.
    """
    num_frames = rng.randint(3, 6)
    image = rng.randrange(1, num_frames)
    marked = rng.random() < 0.7
    kinds = sample_kinds_alike(rng, count)
    if marked and count >= 2 and rng.random() < 0.4:
        kinds[1] = kinds[0]
    frames = film(rng, kinds, rng.choices(tuple(Motion), k=count), num_frames)
    first = frames[0].objects[0]
    if marked:
        frames = (replace(frames[0], mark=first.box), *frames[1:])
        question, called = "the object marked in the first image", f"marked {first.name}"
    else:
        question, called = f"the {first.name} of the first image", first.name
    think = f"the {called} starts at the {place(first.box)}."
    return _found(frames, image, question, "marked" if marked else "named", think)


def video(rng: random.Random, count: int) -> Draft:
    """Six frames; an object described by its motion or its start is sought in the third."""
    return rng.choice((_by_motion, _by_rest, _by_start))(rng, count)


def film(
    rng: random.Random, kinds: Sequence[Kind], motions: Sequence[Motion], num_frames: int
) -> tuple[Scene, ...]:
    """Frames in which each object moves at its own steady pace and keeps its distance."""
    tracks: list[list[Box]] = []
    while len(tracks) < len(kinds):
        track = _track(rng, motions[len(tracks)], num_frames, tracks)
        tracks = [*tracks, track] if track is not None else []
    background = sample_background(rng)
    painted = [paint(rng, kind, track[0]) for kind, track in zip(kinds, tracks, strict=True)]
    return tuple(
        Scene(
            SIZE,
            SIZE,
            background,
            tuple(
                replace(each, box=track[frame]) for each, track in zip(painted, tracks, strict=True)
            ),
        )
        for frame in range(num_frames)
    )


def _track(
    rng: random.Random, motion: Motion, num_frames: int, others: Sequence[Sequence[Box]]
) -> list[Box] | None:
    """The boxes of one more object, frame by frame, or None where no way was found."""
    step = rng.randint(*_STEPS)
    x_step = {Motion.LEFT: -step, Motion.RIGHT: step}.get(motion, 0)
    y_step = {Motion.UP: -step, Motion.DOWN: step}.get(motion, 0)
    starts = [other[0] for other in others]
    for _ in range(40):
        start = sample_spot(rng, starts)
        if start is None:
            return None
        track = [_shifted(start, frame * x_step, frame * y_step) for frame in range(num_frames)]
        free = all(apart(box, other[frame]) for other in others for frame, box in enumerate(track))
        if free and _is_inside(track[-1]):
            return track
    return None


def _shifted(box: Box, x: int, y: int) -> Box:
    return Box(box.x1 + x, box.y1 + y, box.x2 + x, box.y2 + y, FRAME)


def _is_inside(box: Box) -> bool:
    return min(box.x1, box.y1) >= MARGIN and max(box.x2, box.y2) <= SIZE - MARGIN


def _by_motion(rng: random.Random, count: int) -> Draft:
    """By its motion among all objects, or among its like where there is another of its shape."""
    kinds = sample_kinds_alike(rng, count)
    motion = rng.choice(_MOVING)
    others = [each for each in Motion if each is not motion]
    motions = [motion, *rng.choices(others, k=count - 1)]
    noun = kinds[0].shape if kinds[0].shape == kinds[1].shape else "object"
    think = f"the {kinds[0].name} moves {motion}."
    frames = film(rng, kinds, motions, _VIDEO_FRAMES)
    return _found(frames, _VIDEO_TARGET, f"the {noun} that moves {motion}", "motion", think)


def _by_rest(rng: random.Random, count: int) -> Draft:
    kinds = sample_kinds(rng, count)
    motions = [Motion.STILL, *rng.choices(_MOVING, k=count - 1)]
    frames = film(rng, kinds, motions, _VIDEO_FRAMES)
    think = f"the {kinds[0].name} stays still."
    return _found(frames, _VIDEO_TARGET, "the object that stays still", "rest", think)


def _by_start(rng: random.Random, count: int) -> Draft:
    relation = rng.choice(_STARTS)
    while True:
        kinds = sample_kinds(rng, count)
        frames = film(rng, kinds, rng.choices(tuple(Motion), k=count), _VIDEO_FRAMES)
        target = resolve(Query(Description(), relation), frames[0].objects)
        if target is not None:
            break
    index = frames[0].objects.index(target)
    think = f"the {relation} object in the first image is the {target.name}."
    question = f"the object that is {relation} in the first image"
    return _found(frames, _VIDEO_TARGET, question, "start", think, index)


def _found(
    frames: tuple[Scene, ...], image: int, expression: str, kind: str, think: str, index: int = 0
) -> Draft:
    """The draft whose target is object ``index`` of the frame ``image``."""
    target = frames[image].objects[index]
    return seek(target, frames, image, expression=expression, kind=kind, think=think)
