"""Dense targets: which object every image token shows, from scenes and from boxed photos."""

from __future__ import annotations

import pytest

from reground.grounding.boxes import Box, Frame
from reground.grounding.sample import ImageRef, Sample, Target
from reground.tinyworld import scenes as synth
from reground.tinyworld.dense import VisibleObject, Vocabulary, token_targets

PHOTO = ImageRef("cells.png", 80, 40)


def seen(x1: float, y1: float, x2: float, y2: float) -> VisibleObject:
    return VisibleObject(Box(x1, y1, x2, y2, Frame.pixels(80, 40)), (0,))


LARGE, SMALL = seen(0, 0, 80, 40), seen(18, 18, 24, 24)


@pytest.mark.parametrize(
    ("objects", "own_share", "expected"),
    [
        ([], False, [-1] * 8),
        ([seen(0, 0, 20, 20)], False, [0, -1, -1, -1, -1, -1, -1, -1]),
        ([seen(0, 0, 40, 40)], False, [0, 0, -1, -1, 0, 0, -1, -1]),
        ([seen(0, 0, 21, 2)], False, [0, -1, -1, -1, -1, -1, -1, -1]),  # 2 px of 400 are unseen
        ([LARGE, SMALL], False, [0] * 8),
        ([LARGE, SMALL], True, [0, 0, 0, 0, 0, 1, 0, 0]),  # 4 of its 6 px of height and width
        ([SMALL, LARGE], True, [1, 1, 1, 1, 1, 0, 1, 1]),
    ],
)
def test_each_cell_shows_one_object(
    objects: list[VisibleObject], own_share: bool, expected: list[int]
) -> None:
    places, boxes = token_targets(objects, PHOTO, 2, 4, own_share=own_share)
    assert places.tolist() == expected
    for place, box in zip(expected, boxes.tolist(), strict=True):
        unit = (80, 40, 80, 40)
        own = (
            [e / side for e, side in zip(objects[place].box.xyxy, unit, strict=True)]
            if (place >= 0)
            else [-1.0] * 4
        )
        assert box == pytest.approx(own)


def row(question: str, *lefts: float, image: ImageRef = PHOTO) -> Sample:
    boxes = [Box(left, 0, left + 5, 5, image.frame) for left in lefts]
    targets = tuple(Target(0, box) for box in boxes)
    return Sample(question, (image,), question, targets, task="voc")


def test_a_file_names_objects_by_its_questions() -> None:
    rows = [row("red cell", 0, 10, 20), row("white cell", 30)]
    vocabulary = Vocabulary(rows)
    assert vocabulary.names == {"object": ["red cell", "white cell"]}
    assert [(item.box.x1, item.names) for item in vocabulary.objects(0, rows)] == [
        (0, (0,)),
        (10, (0,)),
        (20, (0,)),
        (30, (1,)),
    ]


def test_scenes_name_objects_by_colour_and_shape() -> None:
    vocabulary = Vocabulary([])
    sample = synth.sample("listing@3-3", seed=1, index=0)
    (scene,) = synth.scenes("listing@3-3", seed=1, index=0)
    found = vocabulary.objects(0, [sample])
    colours, shapes = (list(names) for names in vocabulary.names.values())
    assert [(colours[item.names[0]], shapes[item.names[1]]) for item in found] == [
        (item.kind.colour, item.kind.shape) for item in scene.objects
    ]
