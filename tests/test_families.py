from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reground.errors import ConfigError, DataError
from reground.grounding.answers import Answer, Status, parse
from reground.grounding.boxes import THOUSAND, UNIT, Box, Frame, FrameKind, iou
from reground.grounding.families import FAMILIES, EncodedSize, Family, Form, Grammar, get_family
from reground.grounding.prompts import load_profile
from reground.grounding.sample import ImageRef, Sample, Target
from reground.grounding.scoring import score


def overlap(answer: Answer, boxes: Sequence[Box]) -> float:
    """The score of an answer to a sample with these true boxes."""
    image = ImageRef("image.png", 640, 480)
    return score(answer, Sample("s", (image,), "q", tuple(Target(0, b) for b in boxes), task="t"))


SHARED = Path(__file__).parents[1] / "../shared/data"
PHOTO = EncodedSize(640, 480, 644, 476)
EVERY = [*FAMILIES.values()]
every_family = pytest.mark.parametrize("family", EVERY, ids=[*FAMILIES])


@st.composite
def sizes(draw: st.DrawFn) -> EncodedSize:
    """A photo, and the size that it is encoded at: a multiple of 28, as processors choose."""
    width, height = draw(st.integers(56, 4000)), draw(st.integers(56, 4000))
    scale = draw(st.floats(0.25, 1.5))
    return EncodedSize(
        width,
        height,
        28 * max(1, round(width * scale / 28)),
        28 * max(1, round(height * scale / 28)),
    )


@st.composite
def rows(draw: st.DrawFn, smallest: float = 0.001) -> tuple[EncodedSize, list[Box]]:
    """A photo with true boxes of at least ``smallest`` of each side."""
    size = draw(sizes())
    boxes = []
    for _ in range(draw(st.integers(0, 4))):
        spans = []
        for side in (size.width, size.height):
            extent = draw(st.floats(smallest, 1))
            low = draw(st.floats(0, 1 - extent))
            spans.append((low * side, min(side, (low + extent) * side)))
        (x1, x2), (y1, y2) = spans
        boxes.append(Box(x1, y1, x2, y2, size.pixels))
    return size, boxes


@every_family
@given(rows())
def test_round_trip_is_right_up_to_rounding(
    family: Family, row: tuple[EncodedSize, list[Box]]
) -> None:
    size, boxes = row
    answer = parse(family.render(boxes, size=size, think="a", rethink="b"), family, size)
    assert answer.status is Status.OK
    assert answer.well_formed
    assert answer.num_clipped == 0
    assert len(answer.boxes) == len(boxes)
    frame = size.frame(family.frame)
    for read, true in zip(answer.boxes, boxes, strict=True):
        read_units, true_units = read.to(frame).xyxy, true.to(frame).xyxy
        assert read_units == pytest.approx(true_units, abs=1 + 1e-6)  # one unit where widened


@every_family
@given(rows(smallest=0.2))
def test_invariant_5b_the_gold_answer_of_a_large_box_scores_close_to_one(
    family: Family, row: tuple[EncodedSize, list[Box]]
) -> None:
    size, boxes = row
    gold = family.render(boxes, size=size, think="a", rethink="b")
    units = min(size.frame(family.frame).width, size.frame(family.frame).height)
    rounding = 2 / (0.2 * units)  # half a unit at each of four edges
    assert overlap(parse(gold, family, size), boxes) >= 1 - 2 * rounding


@every_family
@given(sizes(), st.data())
def test_invariant_5b_the_gold_answer_scores_the_maximum(
    family: Family, size: EncodedSize, data: st.DataObject
) -> None:
    frame = size.frame(family.frame)
    boxes = []
    for _ in range(data.draw(st.integers(0, 3))):
        edges = [
            sorted(
                data.draw(st.lists(st.integers(0, int(side)), min_size=2, max_size=2, unique=True))
            )
            for side in (frame.width, frame.height)
        ]
        (x1, x2), (y1, y2) = edges
        boxes.append(Box(x1, y1, x2, y2, frame).to(size.pixels))
    gold = parse(family.render(boxes, size=size), family, size)
    assert gold.well_formed
    assert overlap(gold, boxes) == pytest.approx(1)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the folder ../shared/data")
def test_invariant_5b_on_every_row_of_the_revised_mig_bench() -> None:
    family = get_family("univg_r1")
    size = EncodedSize(1000, 1000, 1000, 1000)  # its answers are integers of the 0-1000 frame
    rows = json.loads((SHARED / "mig_bench/revised_MIG_bench.json").read_text())
    boxes = [Box(x1, y1, x2, y2, size.pixels) for x1, y1, x2, y2 in (row["answer"] for row in rows)]
    usable = [box.clipped() for box in boxes if not box.clipped().is_degenerate]
    assert len(usable) >= 4270
    for box in usable:
        gold = parse(family.render([box], size=size, think="a", rethink="b"), family, size)
        assert gold.well_formed
        assert overlap(gold, [box]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "two", "none"),
    [
        (
            "qwen2_vl",
            "<|box_start|>(100,250),(500,750)<|box_end|>\n<|box_start|>(0,0),(1000,1000)<|box_end|>",
            "none",
        ),
        (
            "qwen2_5_vl",
            '[{"bbox_2d": [64, 119, 322, 357]}, {"bbox_2d": [0, 0, 644, 476]}]',
            "[]",
        ),
        (
            "qwen3_vl",
            '[{"bbox_2d": [100, 250, 500, 750]}, {"bbox_2d": [0, 0, 1000, 1000]}]',
            "[]",
        ),
        (
            "univg_r1",
            "<think>T</think><answer>(100,250),(500,750)\n(0,0),(1000,1000)</answer>",
            "<think>T</think><answer>none</answer>",
        ),
        ("univg_r1_direct", "(100,250),(500,750)\n(0,0),(1000,1000)", "none"),
        (
            "vg_refiner",
            "<think>T</think>\n<rethink>R</rethink>\n"
            '<answer>[{"bbox_2d": [64, 119, 322, 357]}, {"bbox_2d": [0, 0, 644, 476]}]</answer>',
            "<think>T</think>\n<rethink>R</rethink>\n<answer>[]</answer>",
        ),
    ],
)
def test_gold_answers_are_written_as_the_family_writes(name: str, two: str, none: str) -> None:
    family = get_family(name)
    boxes = [Box(64, 120, 320, 360, PHOTO.pixels), Box(0, 0, 640, 480, PHOTO.pixels)]
    assert family.render(boxes, size=PHOTO, think="T", rethink="R") == two
    assert family.render([], size=PHOTO, think="T", rethink="R") == none


def test_a_think_family_without_a_chain_has_an_empty_block() -> None:
    gold = get_family("univg_r1").render([], size=PHOTO)
    assert gold == "<think></think><answer>none</answer>"


@every_family
@pytest.mark.parametrize(
    "edges",
    [
        (10.001, 10.001, 10.002, 10.002),
        (0, 0, 1e-6, 1e-6),
        (4000 - 1e-6, 3000 - 1e-6, 4000, 3000),
        (10.4, 10.4, 10.6, 2999),
        (3999.9, 5, 4000, 5.01),
    ],
)
def test_a_sliver_is_widened_and_never_degenerate(
    family: Family, edges: tuple[float, float, float, float]
) -> None:
    size = EncodedSize(4000, 3000, 504, 364)
    x1, y1, x2, y2 = edges
    true = Box(x1, y1, x2, y2, size.pixels)
    answer = parse(family.render([true], size=size), family, size)
    assert (answer.status, answer.num_clipped) == (Status.OK, 0)
    assert iou(answer.boxes[0], true) > 0  # it still covers the place


@every_family
def test_a_box_that_reaches_outside_is_clamped(family: Family) -> None:
    gold = family.render([Box(-50, -1, 700, 481, PHOTO.pixels)], size=PHOTO)
    (box,) = parse(gold, family, PHOTO).boxes
    assert box.xyxy == pytest.approx((0, 0, 640, 480))


@pytest.mark.parametrize(
    "edges", [(10, 10, 10, 20), (20, 20, 10, 10), (640, 0, 700, 480), (0, -9, 5, 0)]
)
def test_a_box_without_area_is_refused(edges: tuple[float, float, float, float]) -> None:
    x1, y1, x2, y2 = edges
    with pytest.raises(DataError, match="no area inside its 640 x 480 image"):
        EVERY[0].render([Box(x1, y1, x2, y2, PHOTO.pixels)], size=PHOTO)


def test_a_box_of_another_frame_or_image_is_refused() -> None:
    for frame in (THOUSAND, Frame.pixels(480, 640), Frame.input(640, 480)):
        with pytest.raises(ValueError, match="must be in"):
            EVERY[0].render([Box(1, 2, 3, 4, frame)], size=PHOTO)


@pytest.mark.parametrize("tag", ["</think>", "<answer>", "<function>", "</rethink>", "<tool>"])
def test_a_chain_with_tags_is_refused(tag: str) -> None:
    with pytest.raises(DataError, match=tag):
        get_family("univg_r1").render([], size=PHOTO, think=f"So {tag} it is.")
    with pytest.raises(DataError, match="a rethink text holds the tag"):
        get_family("vg_refiner").render([], size=PHOTO, think="ok", rethink=tag)


def test_frames_of_an_image() -> None:
    assert PHOTO.frame(FrameKind.PIXELS) == PHOTO.pixels == Frame.pixels(640, 480)
    assert PHOTO.frame(FrameKind.INPUT) == Frame.input(644, 476)
    assert PHOTO.frame(FrameKind.THOUSAND) == THOUSAND
    assert PHOTO.frame(FrameKind.UNIT) == UNIT


@pytest.mark.parametrize(
    ("name", "frame", "grammar", "form"),
    [
        ("qwen2_vl", FrameKind.THOUSAND, Grammar.BOX_TOKENS, Form.DIRECT),
        ("qwen2_5_vl", FrameKind.INPUT, Grammar.JSON, Form.DIRECT),
        ("qwen3_vl", FrameKind.THOUSAND, Grammar.JSON, Form.DIRECT),
        ("univg_r1", FrameKind.THOUSAND, Grammar.PAIRS, Form.THINK),
        ("univg_r1_direct", FrameKind.THOUSAND, Grammar.PAIRS, Form.DIRECT),
        ("vg_refiner", FrameKind.INPUT, Grammar.JSON, Form.THINK_RETHINK),
    ],
)
def test_families_declare_what_the_models_write(
    name: str, frame: FrameKind, grammar: Grammar, form: Form
) -> None:
    family = get_family(name)
    assert (family.name, family.frame, family.grammar, family.form) == (name, frame, grammar, form)


@every_family
def test_the_default_prompt_of_a_family_exists(family: Family) -> None:
    assert load_profile(family.prompt).name == family.prompt


@pytest.mark.parametrize(
    ("name", "hint"),
    [("qwen3vl", "did you mean 'qwen3_vl'"), ("univg-r1", "'univg_r1'"), ("llama", "known are")],
)
def test_an_unknown_family_is_named(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        get_family(name)
