"""Questions about moving objects: follow one, or find one by how it moves or where it started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from reground.grounding.boxes import Box, place
from reground.tinyworld.scenes.drafts import Draft, seek
from reground.tinyworld.scenes.queries import Query, Relation, resolve
from reground.tinyworld.scenes.world import MARGIN, WHOLE, Kind, Sampler, Scene, apart, holds, moved

_MOTIONS: Final = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
_WAYS: Final = tuple(_MOTIONS)
_STEPS: Final = (4, 7)  # pixels from one frame to the next; fewer than half of any side
_VIDEO_FRAMES: Final = 6
_VIDEO_TARGET: Final = 2  # the object is sought in the third of six frames
_STARTS: Final = (Relation.LEFTMOST, Relation.RIGHTMOST, Relation.HIGHEST, Relation.LOWEST)


def object_tracking(rng: Sampler, count: int) -> Draft:
    """Three to six frames; an object marked or named in the first is sought in a later one.

    A marked object may have a twin. The nearest of the two in the next frame is the object: its
    step is 7 pixels at most, while the twin, at least 16 wide and 4 apart, is 13 or more away.
    """
    num_frames = rng.randint(3, 6)
    image = rng.randrange(1, num_frames)
    marked = rng.random() < 0.7
    kinds = rng.kinds_alike(count)
    if marked and count >= 2 and rng.random() < 0.4:
        kinds[1] = kinds[0]
    frames = film(rng, kinds, rng.choices(_WAYS, k=count), num_frames)
    first = frames[0].objects[0]
    expression, called = f"the {first.name} of the first image", first.name
    if marked:
        frames = (replace(frames[0], mark=first.box), *frames[1:])
        expression, called = "the object marked in the first image", f"marked {first.name}"
    think = f"the {called} starts at the {place(first.box)}."
    kind = "marked" if marked else "named"
    return seek(frames, image, expression=expression, kind=kind, think=think)


def video(rng: Sampler, count: int) -> Draft:
    """Six frames; an object described by its motion or its start is sought in the third."""
    return rng.choice((_by_motion, _by_rest, _by_start))(rng, count)


def film(
    rng: Sampler, kinds: Sequence[Kind], motions: Sequence[str], num_frames: int
) -> tuple[Scene, ...]:
    """Frames in which each object moves at its own steady pace and keeps its distance."""
    tracks: list[list[Box]] = []
    while len(tracks) < len(kinds):
        track = _track(rng, motions[len(tracks)], num_frames, tracks)
        tracks = [*tracks, track] if track is not None else []
    background = rng.background()
    objects = [rng.paint(kind, track[0]) for kind, track in zip(kinds, tracks, strict=True)]
    first = Scene(background, tuple(objects))
    return tuple(first.at(boxes) for boxes in zip(*tracks, strict=True))


def _track(
    rng: Sampler, motion: str, num_frames: int, others: Sequence[Sequence[Box]]
) -> list[Box] | None:
    """The boxes of one more object, frame by frame, or None where no way was found."""
    step = rng.randint(*_STEPS)
    x, y = _MOTIONS[motion]
    starts = [other[0] for other in others]
    for _ in range(40):
        start = rng.spot(starts)
        if start is None:
            return None
        track = [moved(start, frame * step * x, frame * step * y) for frame in range(num_frames)]
        free = all(apart(box, other[frame]) for other in others for frame, box in enumerate(track))
        if free and holds(WHOLE, track[-1], margin=MARGIN):
            return track
    return None


def _by_motion(rng: Sampler, count: int) -> Draft:
    """By its motion among all objects, or among its like where there is another of its shape."""
    kinds = rng.kinds_alike(count)
    motion = rng.choice(_WAYS[:-1])
    motions = [motion, *rng.choices([each for each in _WAYS if each != motion], k=count - 1)]
    frames = film(rng, kinds, motions, _VIDEO_FRAMES)
    noun = kinds[0].shape if kinds[0].shape == kinds[1].shape else "object"
    return seek(
        frames,
        _VIDEO_TARGET,
        expression=f"the {noun} that moves {motion}",
        kind="motion",
        think=f"the {kinds[0].name} moves {motion}.",
    )


def _by_rest(rng: Sampler, count: int) -> Draft:
    kinds = rng.kinds(count)
    motions = ["still", *rng.choices(_WAYS[:-1], k=count - 1)]
    return seek(
        film(rng, kinds, motions, _VIDEO_FRAMES),
        _VIDEO_TARGET,
        expression="the object that stays still",
        kind="rest",
        think=f"the {kinds[0].name} stays still.",
    )


def _by_start(rng: Sampler, count: int) -> Draft:
    relation = rng.choice(_STARTS)
    target = None
    while target is None:
        kinds = rng.kinds(count)
        frames = film(rng, kinds, rng.choices(_WAYS, k=count), _VIDEO_FRAMES)
        target = resolve(Query(Kind(), relation), frames[0].objects)
    return seek(
        frames,
        _VIDEO_TARGET,
        expression=f"the object that is {relation} in the first image",
        kind="start",
        think=f"the {relation} object in the first image is the {target.name}.",
        index=frames[0].objects.index(target),
    )
