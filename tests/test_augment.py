"""Views of photos: the answer stays whole, stays where the question says, and keeps its order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reground.data.augment import augment
from reground.data.views import split_view
from reground.grounding.boxes import Box, place
from reground.grounding.sample import ImageRef, Sample, Target

PHOTO = ImageRef("cells.jpg", 640, 480)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x1, y1 = draw(st.integers(0, 600)), draw(st.integers(0, 440))
    x2, y2 = draw(st.integers(x1 + 8, 640)), draw(st.integers(y1 + 8, 480))
    return Box(x1, y1, x2, y2, PHOTO.frame)


def asked(*targets: Box, question: str = "the cell") -> Sample:
    think = f"the cell is at the {place(targets[0])}."
    found = tuple(Target(0, box) for box in targets)
    return Sample("a", (PHOTO,), question, found, task="voc", think=think)


def view_of(sample: Sample, seed: int) -> Sample:
    return augment(sample, np.random.default_rng(seed), min_side=0.5)


def _sides(box: Box) -> tuple[float, float]:
    return box.x2 - box.x1, box.y2 - box.y1


@settings(max_examples=200)
@given(st.lists(boxes(), min_size=1, max_size=4), st.integers(0, 2**32))
def test_targets_stay_whole_and_keep_their_size(targets: list[Box], seed: int) -> None:
    seen = view_of(asked(*targets), seed)
    (image,) = seen.images
    assert len(seen.boxes) == len(targets)
    for old, new in zip(targets, seen.boxes, strict=True):
        assert _sides(new) == pytest.approx(_sides(old))
        assert new.frame == image.frame and new == new.clipped()
    assert seen.think == f"the cell is at the {place(seen.boxes[0])}."


@settings(max_examples=200)
@given(boxes(), boxes(), st.integers(0, 2**32))
def test_order_and_direction_survive(first: Box, second: Box, seed: int) -> None:
    for sample in (asked(first, second), asked(first, question="the highest, leftmost cell")):
        seen = view_of(sample, seed)
        _, view = split_view(seen.images[0].path)
        assert view is None or not (view.mirrored or view.upside_down)


def test_views_differ_and_flips_are_drawn_both_ways() -> None:
    sample = asked(Box(100, 100, 200, 180, PHOTO.frame))
    views = [split_view(view_of(sample, seed).images[0].path)[1] for seed in range(40)]
    assert len(set(views)) == 40
    flips = {(view.mirrored, view.upside_down) for view in views if view}
    assert len(flips) == 4
