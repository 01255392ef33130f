"""Other views of a photo: crops and flips that keep the question's answer, words included."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from reground.data.images import SYNTH_PREFIX
from reground.data.views import View
from reground.grounding.boxes import place
from reground.grounding.sample import ImageRef, Sample, Target

_PLACE = re.compile(r"\b(?:(?:top|middle|bottom) (?:left|centre|right)|centre)\b")
_SIDEWAYS = re.compile(r"\b(?:left|right)(?:most)?\b")
_UPRIGHT = re.compile(r"\b(?:top|bottom|upper|lower|above|below|high|low)(?:est)?\b")


def augment(sample: Sample, generator: np.random.Generator, *, min_side: float) -> Sample:
    """A random view of a single-image sample that holds all its targets whole.

    Sides shrink to at least ``min_side`` of the image's; a flip is drawn only where no word of
    the question and no order of several targets depends on it; place words of the chain follow the
    first target. Samples with several images, without targets or of the scene world are returned as
    they are.
    """
    image = sample.images[0]
    if len(sample.images) > 1 or not sample.targets or image.path.startswith(SYNTH_PREFIX):
        return sample
    view = _draw_view(sample, generator, min_side)
    targets = tuple(Target(0, view.box(target.box).clipped()) for target in sample.targets)
    think = sample.think and _PLACE.sub(place(targets[0].box), sample.think)
    ref = ImageRef(view.path_of(image.path), view.right - view.left, view.lower - view.upper)
    return replace(sample, images=(ref,), targets=targets, think=think)


def _draw_view(sample: Sample, generator: np.random.Generator, min_side: float) -> View:
    image = sample.images[0]
    boxes = np.array([box.xyxy for box in sample.boxes])
    share = generator.uniform(min_side, 1.0)
    left, right = _draw_span(image.width, boxes[:, [0, 2]], share, generator)
    upper, lower = _draw_span(image.height, boxes[:, [1, 3]], share, generator)
    flips = generator.random(2) < 0.5
    return View(
        left,
        upper,
        right,
        lower,
        bool(flips[0]) and not _SIDEWAYS.search(sample.question) and len(boxes) == 1,
        bool(flips[1]) and not _UPRIGHT.search(sample.question) and len(boxes) == 1,
    )


def _draw_span(
    side: int, edges: np.ndarray, share: float, generator: np.random.Generator
) -> tuple[int, int]:
    """A span of about ``share`` of the side that holds all edges."""
    low, high = float(np.floor(edges.min())), float(np.ceil(edges.max()))
    length = min(side, max(round(side * share), int(high - low)))
    first, last = max(0.0, high - length), min(low, float(side - length))
    start = int(generator.uniform(first, max(first, last)))
    return start, min(side, start + length)
