from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from reground.grounding.boxes import (
    THOUSAND,
    UNIT,
    Box,
    Frame,
    FrameKind,
    as_array,
    giou_matrix,
    iou,
    iou_matrix,
    match,
    set_iou,
)
from reground.grounding.codecs import PixelLimits

PHOTO = Frame.pixels(640, 480)
COORDINATE = st.floats(-50, 1050, allow_nan=False).map(lambda value: round(value, 3))
FRAMES = st.sampled_from(
    [THOUSAND, UNIT, PHOTO, Frame.input(644, 476), Frame.pixels(4000, 3), Frame.square(641, 480)]
)


@st.composite
def boxes(draw: st.DrawFn, frame: Frame = THOUSAND) -> Box:
    """A box with an area, perhaps partly outside its frame."""
    x1, y1 = draw(COORDINATE), draw(COORDINATE)
    width, height = draw(st.floats(0.01, 900)), draw(st.floats(0.01, 900))
    return Box(x1, y1, x1 + width, y1 + height, frame)


@given(boxes(), boxes())
def test_iou_is_symmetric_and_a_share(first: Box, second: Box) -> None:
    assert iou(first, second) == pytest.approx(iou(second, first))
    assert 0 <= iou(first, second) <= 1 + 1e-12
    assert iou(first, first) == pytest.approx(1)
    assert iou(first, second) == iou_matrix(as_array([first]), as_array([second]))[0, 0]


@given(boxes(), boxes())
def test_giou_is_at_most_iou(first: Box, second: Box) -> None:
    giou = giou_matrix(as_array([first]), as_array([second]))[0, 0]
    assert -1 <= giou <= iou(first, second) + 1e-12


@given(boxes(), FRAMES)
def test_conversion_round_trip(box: Box, frame: Frame) -> None:
    back = box.to(frame).to(box.frame)
    assert back.frame == box.frame
    assert back.xyxy == pytest.approx(box.xyxy, rel=1e-9, abs=1e-9)


@given(boxes(), boxes(), FRAMES)
def test_iou_does_not_depend_on_the_frame(first: Box, second: Box, frame: Frame) -> None:
    converted = iou(first.to(frame), second.to(frame))
    assert converted == pytest.approx(iou(first, second), abs=1e-6)


@pytest.mark.parametrize(
    ("width", "height", "expected", "bar"),
    [
        (640, 480, (0, 0.125, 1, 0.875), 80 / 480),
        (480, 640, (0.125, 0, 0.875, 1), 80 / 480),
        (500, 500, (0, 0, 1, 1), 0),
        (100, 51, (0, 0.24, 1, 0.75), 25 / 51),  # 24 rows above the image, 25 below
    ],
)
def test_an_image_lies_in_the_middle_of_its_square(
    width: int, height: int, expected: tuple[float, ...], bar: float
) -> None:
    frame = Frame.square(width, height)
    assert Box(0, 0, width, height, Frame.pixels(width, height)).to(frame).xyxy == pytest.approx(
        expected
    )
    square = Box(0, 0, 1, 1, frame)
    assert square.clipped().xyxy == pytest.approx(expected)
    assert (square.clipped().overhang(), square.overhang()) == (0, pytest.approx(bar))


@given(boxes())
def test_a_clipped_box_has_no_overhang(box: Box) -> None:
    assert box.clipped().overhang() == 0
    assert (box.clipped() == box) == (box.overhang() == 0)


@given(st.lists(boxes(), min_size=1, max_size=6), st.data())
def test_set_iou_of_a_permutation_is_one(truth: list[Box], data: st.DataObject) -> None:
    assert set_iou(data.draw(st.permutations(truth)), truth) == pytest.approx(1)


@given(st.lists(boxes(), max_size=5), st.lists(boxes(), max_size=5))
def test_set_iou_is_symmetric_and_a_share(first: list[Box], second: list[Box]) -> None:
    assert set_iou(first, second) == pytest.approx(set_iou(second, first))
    assert 0 <= set_iou(first, second) <= 1 + 1e-12


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 0, 10, 10), (5, 0, 15, 10), 1 / 3),
        ((0, 0, 10, 10), (2, 2, 4, 4), 4 / 100),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0),  # continuous: a shared edge has no area
        ((0, 0, 10, 10), (20, 20, 30, 30), 0),
        ((0, 0, 0, 10), (0, 0, 0, 10), 0),  # no area, no overlap, no division by zero
        ((10, 10, 0, 0), (0, 0, 10, 10), 0),  # never turned the right way round
    ],
)
def test_iou_of_known_boxes(
    first: tuple[int, ...], second: tuple[int, ...], expected: float
) -> None:
    a, b = np.array([first], float), np.array([second], float)
    assert iou_matrix(a, b)[0, 0] == pytest.approx(expected)


def test_giou_of_boxes_far_apart_is_negative() -> None:
    first, second = np.array([[0.0, 0, 1, 1]]), np.array([[9.0, 0, 10, 1]])
    assert giou_matrix(first, second)[0, 0] == pytest.approx(-0.8)


def test_set_iou_divides_by_the_larger_number_of_boxes() -> None:
    hit, other = Box(0, 0, 10, 10, PHOTO), Box(50, 50, 60, 60, PHOTO)
    assert set_iou([], []) == 1
    assert set_iou([], [hit]) == set_iou([hit], []) == 0
    assert set_iou([hit, other], [hit]) == pytest.approx(1 / 2)
    assert set_iou([hit] * 4, [hit]) == pytest.approx(1 / 4)


def test_match_takes_the_best_sum_not_the_best_pair() -> None:
    predicted = np.array([[0.0, 0, 10, 10], [0, 0, 10, 6]])
    truth = np.array([[0.0, 0, 10, 9], [0, 5, 10, 12]])
    assert match(predicted, truth) == [(0, 1), (1, 0)]


def test_conversion_uses_both_sides_of_the_image() -> None:
    box = Box(322, 238, 644, 476, Frame.input(644, 476))
    assert box.to(PHOTO).xyxy == (320, 240, 640, 480)
    assert box.to(UNIT).xyxy == pytest.approx((0.5, 0.5, 1, 1))


@pytest.mark.parametrize(
    ("xyxy", "expected"),
    [
        ((0, 0, 1000, 1000), 0),
        ((0, 0, 1010, 1000), 0.01),
        ((-20, 0, 10, 10), 0.02),
        ((0, 1500, 10, 10), 0.5),  # also where the corners are in the wrong order
        ((0, 0, 1010, 1030), 0.03),
    ],
)
def test_overhang_is_the_furthest_reach(
    xyxy: tuple[float, float, float, float], expected: float
) -> None:
    assert Box(*xyxy, THOUSAND).overhang() == pytest.approx(expected)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_box_refuses_what_is_no_number(value: float) -> None:
    with pytest.raises(ValueError, match="four finite numbers"):
        Box(0, 0, value, 1, PHOTO)


@pytest.mark.parametrize(("width", "height"), [(0, 10), (10, 0), (-1, 5), (math.nan, 5)])
def test_a_frame_refuses_sides_without_extent(width: float, height: float) -> None:
    with pytest.raises(ValueError, match="positive sides"):
        Frame(FrameKind.PIXELS, width, height)


def test_boxes_of_different_frames_are_never_compared() -> None:
    box = Box(0, 0, 10, 10, THOUSAND)
    other = Box(0, 0, 10, 10, PHOTO)
    with pytest.raises(ValueError, match="different frames"):
        iou(box, other)
    with pytest.raises(ValueError, match="different frames"):
        set_iou([box], [other])


@pytest.mark.parametrize(
    ("xyxy", "area"), [((0, 0, 4, 5), 20), ((4, 0, 4, 5), 0), ((4, 5, 0, 0), 0), ((0, 5, 4, 0), 0)]
)
def test_area_and_degenerate_agree(xyxy: tuple[float, float, float, float], area: float) -> None:
    box = Box(*xyxy, PHOTO)
    assert box.area == area
    assert box.is_degenerate == (area == 0)


@pytest.mark.slow
def test_iou_agrees_with_shapely_on_100_000_pairs() -> None:
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 60, (2, 100_000, 2, 2)) / rng.choice([1, 7], (2, 100_000, 1, 1))
    first, second = (np.sort(boxes, axis=1).reshape(-1, 4) for boxes in corners)
    a, b = shapely.box(*first.T), shapely.box(*second.T)
    inter, union = shapely.area(shapely.intersection(a, b)), shapely.area(shapely.union(a, b))
    expected = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    frame = Frame.pixels(100, 100)
    found = [
        iou(Box(*one, frame), Box(*other, frame))
        for one, other in zip(first.tolist(), second.tolist(), strict=True)
    ]
    assert np.abs(np.array(found) - expected).max() < 1e-9
    assert 0.2 < (expected > 0).mean() < 0.8
    some = iou_matrix(first[:300], second[:300])
    assert np.abs(np.diag(some) - expected[:300]).max() < 1e-9


@given(
    st.integers(28, 5000),
    st.integers(28, 5000),
    st.integers(1, 64),
    st.integers(64 * 64, 4_000_000),
)
def test_resized_copies_fit(width: int, height: int, factor: int, most: int) -> None:
    sides = PixelLimits(most=most).resized(width, height, factor=factor)
    assert all(side % factor == 0 and side > 0 for side in sides)
    is_narrow = factor in sides  # a side of one multiple cannot shrink
    assert is_narrow or sides[0] * sides[1] <= most
    assert PixelLimits().resized(width, height, factor=1) == (width, height)


@given(
    st.integers(28, 5000),
    st.integers(28, 5000),
    st.sampled_from([28, 32]),
    st.sampled_from([(1, 401_408), (3136, 12_845_056), (200_704, 1_003_520), (65_536, 65_536)]),
)
def test_copies_are_those_of_qwens_processor(
    width: int, height: int, factor: int, limits: tuple[int, int]
) -> None:
    theirs = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    high, wide = theirs.smart_resize(
        height, width, factor=factor, min_pixels=limits[0], max_pixels=limits[1]
    )
    assert PixelLimits(*limits).resized(width, height, factor=factor) == (wide, high)
