"""The scene world: coloured shapes with exact questions, boxes and reasoning chains.

A sample is a pure function of a task, a seed and an index, whatever was drawn before and in which
process. A task may carry a range for the number of objects in a scene, as in ``referring@1-3``.

>>> example = sample("referring@1-3", seed=0, index=7)
>>> example.images[0].path
'synth:referring@1-3/0/7/0'
>>> render(example.images[0].path).size
(112, 112)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from PIL import Image

from reground.errors import DataError, did_you_mean
from reground.grounding.sample import ImageRef, Sample, Target
from reground.tinyworld.scenes import tasks_kinds, tasks_motion, tasks_single, tasks_views
from reground.tinyworld.scenes.drafts import Draft
from reground.tinyworld.scenes.render import draw
from reground.tinyworld.scenes.world import SIZE, Sampler, Scene

_MAKERS: Final[dict[str, Callable[[Sampler, int], Draft]]] = {
    maker.__name__: maker
    for maker in (
        tasks_single.referring,
        tasks_single.attribute,
        tasks_single.relation,
        tasks_single.phrases,
        tasks_single.listing,
        tasks_views.diff,
        tasks_views.view_diff,
        tasks_kinds.common_object,
        tasks_motion.object_tracking,
        tasks_views.multi_view,
        tasks_views.region,
        tasks_kinds.refer_grounding,
        tasks_kinds.group_grounding,
        tasks_kinds.reasoning,
        tasks_kinds.correspondence,
        tasks_motion.video,
    )
}

TASKS: Final[tuple[str, ...]] = tuple(_MAKERS)
"""The names of all tasks."""

PREFIX: Final = "synth:"
"""Begins the path of every image."""

# Objects without which a task has nothing to ask.
_FEWEST: Final = {"relation": 2, "correspondence": 2, "video": 2}
_MOST: Final = 6  # objects that fit into one image
_DEFAULT_RANGE: Final = range(2, 6)
_SPEC = re.compile(r"(?P<name>[^@/]+)(?:@(?P<low>\d{1,2})-(?P<high>\d{1,2}))?")
_PATH = re.compile(PREFIX + r"(?P<task>[^/]+)/(?P<seed>-?\d+)/(?P<index>\d+)/(?P<image>\d+)")


def sample(task: str, *, seed: int, index: int) -> Sample:
    """Sample ``index`` of ``task`` under ``seed``.

    Raises ``DataError`` for an unknown task or an impossible range of objects.
    """
    draft = _draft(task, seed, index)
    return Sample(
        id=f"{task}-{seed}-{index}",
        images=tuple(
            ImageRef(f"{PREFIX}{task}/{seed}/{index}/{image}", SIZE, SIZE)
            for image in range(len(draft.scenes))
        ),
        question=draft.question,
        targets=tuple(Target(draft.image, box) for box in draft.boxes),
        task=task.partition("@")[0],
        target_image=draft.image,
        think=draft.think,
        difficulty=draft.difficulty,
        strata={
            "kind": draft.kind,
            "distractor": "yes" if draft.distractor else "no",
            "objects": str(len(draft.objects)),
        },
    )


def scenes(task: str, *, seed: int, index: int) -> tuple[Scene, ...]:
    """The scene that each image of that sample shows."""
    return _draft(task, seed, index).scenes


def render(path: str) -> Image.Image:
    """The RGB image of a path ``synth:TASK/SEED/INDEX/IMAGE``; raises ``DataError`` for others."""
    return draw(scene(path))


def scene(path: str) -> Scene:
    """The scene that the image of such a path shows."""
    if (parts := _PATH.fullmatch(path)) is None:
        raise DataError(
            f"{path!r} names no image of the scene world; expected synth:TASK/SEED/INDEX/IMAGE, "
            "such as synth:referring/0/7/0"
        )
    drawn = scenes(parts["task"], seed=int(parts["seed"]), index=int(parts["index"]))
    image = int(parts["image"])
    if image >= len(drawn):
        raise DataError(f"{path!r}: image {image} of a sample with {len(drawn)}; count from 0")
    return drawn[image]


@lru_cache(maxsize=1024)
def _draft(task: str, seed: int, index: int) -> Draft:
    name, counts = task.partition("@")[0], _counts(task)
    rng = Sampler(f"{task}/{seed}/{index}")  # hashes text with SHA-512, alike everywhere
    return _MAKERS[name](rng, rng.choice(counts))


@lru_cache
def _counts(task: str) -> range:
    """How many objects a scene of the task may have."""
    parts = _SPEC.fullmatch(task)
    if parts is None or parts["name"] not in _MAKERS:
        name = task.partition("@")[0]
        form = "write TASK or TASK@LOW-HIGH"
        hint = form if name in TASKS else did_you_mean(name, TASKS, otherwise=form)
        raise DataError(
            f"unknown task {task!r} of the scene world; {hint} (tasks: {', '.join(TASKS)})"
        )
    if not parts["low"]:
        return _DEFAULT_RANGE
    low, high = int(parts["low"]), int(parts["high"])
    fewest = _FEWEST.get(parts["name"], 1)
    if not fewest <= low <= high <= _MOST:
        raise DataError(
            f"task {task!r} asks for {low} to {high} objects; {parts['name']} takes a range "
            f"LOW-HIGH within {fewest}-{_MOST}"
        )
    return range(low, high + 1)
