"""Views of photos: what is asked about a crop or a flip is true of its pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from reground.data.convert.questions import (
    MIN_SEEN,
    Asker,
    Labelled,
    QuestionRule,
    random_views,
)
from reground.data.images import load, split_view
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef

PHOTO = ImageRef("cells.png", 640, 480)


@st.composite
def objects(draw: st.DrawFn) -> list[Labelled]:
    def one() -> Labelled:
        x1, y1 = draw(st.integers(0, 600)), draw(st.integers(0, 440))
        x2, y2 = draw(st.integers(x1 + 8, 640)), draw(st.integers(y1 + 8, 480))
        return Labelled(draw(st.sampled_from("ab")), Box(x1, y1, x2, y2, PHOTO.frame))

    return [one() for _ in range(draw(st.integers(1, 5)))]


@settings(max_examples=100)
@given(objects(), st.text(min_size=1, max_size=5))
def test_a_view_holds_what_is_seen_of_each_object(items: list[Labelled], name: str) -> None:
    for own, image, seen in random_views(name, PHOTO, items, 3):
        assert own.startswith(f"{name}-view")
        _, view = split_view(image.path)
        assert view is not None and (view.right - view.left, view.lower - view.upper) == (
            image.width,
            image.height,
        )
        inside = [view.box(item.box).clipped() for item in items]
        kept = [
            (item.label, box)
            for item, box in zip(items, inside, strict=True)
            if box.area > MIN_SEEN * item.box.area
        ]
        assert [(item.label, item.box) for item in seen] == kept
        assert all(item.box.frame == image.frame for item in seen)


def test_views_depend_on_the_name_and_differ() -> None:
    paths = [image.path for _, image, _ in random_views("a", PHOTO, [], 40)]
    assert paths == [image.path for _, image, _ in random_views("a", PHOTO, [], 40)]
    assert paths[0] != next(random_views("b", PHOTO, [], 1))[1].path
    views = {split_view(path)[1] for path in paths}
    assert len(views) == 40
    assert len({(view.mirrored, view.upside_down) for view in views if view}) == 4


def test_the_box_of_a_view_is_where_its_pixels_are(tmp_path: Path) -> None:
    picture = Image.new("RGB", (640, 480), "white")
    ImageDraw.Draw(picture).rectangle((200, 150, 299, 229), fill="black")
    picture.save(tmp_path / "cells.png")
    image = ImageRef(str(tmp_path / "cells.png"), 640, 480)
    item = Labelled("cell", Box(200, 150, 300, 230, image.frame))
    for _, part, seen in random_views("a", image, [item], 20):
        dark = np.asarray(load(part))[:, :, 0] < 128
        if not seen:
            assert dark.sum() <= MIN_SEEN * item.box.area
            continue
        ys, xs = np.nonzero(dark)
        found = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert seen[0].box.xyxy == pytest.approx(found)


def test_each_view_is_asked_about_as_what_it_shows(tmp_path: Path) -> None:
    Image.new("RGB", (640, 480), (120, 60, 160)).save(tmp_path / "cells.png")
    image = ImageRef(str(tmp_path / "cells.png"), 640, 480)
    items = [Labelled("cell", Box(x, 200, x + 40, 240, image.frame)) for x in (10, 300, 590)]
    asker = Asker("voc", {"cell": {QuestionRule.LEFTMOST: "the leftmost cell"}}, views=40)
    first, *others = asker.samples("photo", image, items)
    assert first.id == "photo-cell-leftmost" and first.boxes == (items[0].box,)
    assert 5 < len(others) < 40  # where fewer than two cells are seen, none is the leftmost
    for sample in others:
        _, view = split_view(sample.images[0].path)
        assert view is not None
        seen = [view.box(item.box).clipped() for item in items]
        seen = [box for box in seen if box.area > MIN_SEEN * 1600]
        assert sample.boxes == (min(seen, key=lambda box: box.x1 + box.x2),)
        assert sample.think is not None and "purple" in sample.think
