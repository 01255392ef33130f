"""What a family writes is read back: exact up to the rounding of its own numbers."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from made import PROTOCOLS, overlap
from reground.grounding.answers import Status
from reground.grounding.boxes import Box, FrameKind, iou
from reground.grounding.codecs import EncodedSize
from reground.grounding.grammars import LARGEST
from reground.protocols.protocol import AnswerProtocol, get_protocol

SHARED = Path(__file__).parents[1] / "../shared/data"
every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=[*PROTOCOLS])

SIZES = {
    "square 224": (224, 224),
    "square 336": (336, 336),
    "square 1024": (1024, 1024),
    "4:3": (640, 480),
    "3:4": (480, 640),
    "3:2, COCO": (640, 427),
    "2:3, COCO": (427, 640),
    "16:9": (1280, 720),
    "9:16": (720, 1280),
    "5:3, a detector's input": (1333, 800),
    "3:5, a detector's input": (800, 1333),
    "4:1, a panorama": (1200, 300),
}


@dataclass(frozen=True)
class Ruler:
    """The numbers that a family can write for one image, from edge to edge, in its last unit."""

    columns: range
    rows: range
    units: int  # to one of the frame
    reach: float  # how many units an edge may move

    @classmethod
    def of(cls, protocol: AnswerProtocol, size: EncodedSize) -> Ruler:
        frame, units = size.frame(protocol.codec.frame), 10**protocol.codec.decimals
        last = LARGEST.get(protocol.codec.grammar, math.inf)
        spans = (frame.left, frame.width), (frame.upper, frame.height)
        columns, rows = (
            range(
                math.ceil(start * units - 1e-6),
                math.floor(min((start + extent) * units, last) + 1e-6) + 1,
            )
            for start, extent in spans
        )
        misses_edges = protocol.codec.grammar in LARGEST or protocol.codec.frame in (
            FrameKind.SQUARE,
            FrameKind.BINS,
            FrameKind.PATCHES,
        )
        return cls(columns, rows, units, 1.0 if misses_edges else 0.5)


def sayable(protocol: AnswerProtocol, size: EncodedSize) -> Box:
    """From the first to the last numbers that a family can write: at times not to the edges."""
    frame, ruler = size.frame(protocol.codec.frame), Ruler.of(protocol, size)
    ends = (ruler.columns[0], ruler.rows[0], ruler.columns[-1], ruler.rows[-1])
    return Box(*(end / ruler.units for end in ends), frame).to(size.pixels)


# ---- twelve sizes -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIZES)
@every_protocol
def test_a_box_comes_back_within_a_pixel(protocol: AnswerProtocol, name: str) -> None:
    """Or within the precision of the family's numbers, where that is less than a pixel."""
    width, height = SIZES[name]
    size = EncodedSize(width, height, 28 * round(width / 28), 28 * round(height / 28))
    frame, ruler = size.frame(protocol.codec.frame), Ruler.of(protocol, size)
    unit = max(width / frame.width, height / frame.height) / ruler.units  # in pixels
    rng = random.Random(name)
    boxes = [Box(0, 0, width, height, size.pixels)]
    while len(boxes) < 100:
        x1, x2 = sorted(rng.uniform(0, width) for _ in range(2))
        y1, y2 = sorted(rng.uniform(0, height) for _ in range(2))
        if min(x2 - x1, y2 - y1) > 2 * unit:  # a sliver is widened
            boxes.append(Box(x1, y1, x2, y2, size.pixels))
    answer = protocol.read(protocol.render(boxes, size=size), size)
    assert answer.status is Status.OK
    bound = max(1.0, ruler.reach * unit)
    if protocol.codec.frame is not FrameKind.PATCHES:
        assert bound <= 1.34  # the unit of 0-1000 on 1333 pixels, at an edge that no number hits
    for read, true in zip(answer.boxes, boxes, strict=True):
        assert read.xyxy == pytest.approx(true.xyxy, abs=bound + 1e-6)


def test_there_are_twelve_sizes() -> None:
    assert len(SIZES) == len(set(SIZES.values())) == 12


# ---- any size -----------------------------------------------------------------------------------


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


@every_protocol
@given(rows())
def test_round_trip_is_right_up_to_rounding(
    protocol: AnswerProtocol, row: tuple[EncodedSize, list[Box]]
) -> None:
    size, boxes = row
    answer = protocol.read(protocol.render(boxes, size=size, think="a", rethink="b"), size)
    assert answer.status is Status.OK
    assert answer.well_formed
    assert answer.num_clipped == 0
    assert len(answer.boxes) == len(boxes)
    frame, ruler = size.frame(protocol.codec.frame), Ruler.of(protocol, size)
    widened = 2 * ruler.reach / ruler.units  # a sliver moves by one unit, or two at such an edge
    for read, true in zip(answer.boxes, boxes, strict=True):
        assert read.to(frame).xyxy == pytest.approx(true.to(frame).xyxy, abs=widened + 1e-6)


@every_protocol
@given(rows(smallest=0.2))
def test_invariant_5b_the_gold_answer_of_a_large_box_scores_close_to_one(
    protocol: AnswerProtocol, row: tuple[EncodedSize, list[Box]]
) -> None:
    size, boxes = row
    gold = protocol.render(boxes, size=size, think="a", rethink="b")
    ruler = Ruler.of(protocol, size)
    units = min(len(ruler.columns), len(ruler.rows)) - 1
    rounding = 4 * ruler.reach / (0.2 * units)  # at each of four edges
    assert overlap(protocol.read(gold, size), boxes) >= 1 - 2 * rounding


@every_protocol
@given(sizes(), st.data())
def test_invariant_5b_the_gold_answer_scores_the_maximum(
    protocol: AnswerProtocol, size: EncodedSize, data: st.DataObject
) -> None:
    frame, ruler = size.frame(protocol.codec.frame), Ruler.of(protocol, size)
    boxes = []
    for _ in range(data.draw(st.integers(0, 3))):
        (x1, x2), (y1, y2) = (
            sorted(data.draw(st.lists(st.sampled_from(span), min_size=2, max_size=2, unique=True)))
            for span in (ruler.columns, ruler.rows)
        )
        edges = (edge / ruler.units for edge in (x1, y1, x2, y2))
        boxes.append(Box(*edges, frame).to(size.pixels))
    gold = protocol.read(protocol.render(boxes, size=size), size)
    assert gold.well_formed
    assert overlap(gold, boxes) == pytest.approx(1)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the folder ../shared/data")
def test_invariant_5b_on_every_row_of_the_revised_mig_bench() -> None:
    protocol = get_protocol("univg_r1")
    size = EncodedSize(1000, 1000, 1000, 1000)  # its answers are integers of the 0-1000 frame
    answers = json.loads((SHARED / "mig_bench/revised_MIG_bench.json").read_text())
    boxes = [Box(*row["answer"], size.pixels).clipped() for row in answers]
    usable = [box for box in boxes if not box.is_degenerate]
    assert len(usable) >= 4270
    for box in usable:
        gold = protocol.read(protocol.render([box], size=size, think="a", rethink="b"), size)
        assert gold.well_formed
        assert overlap(gold, [box]) == pytest.approx(1)


# ---- edges --------------------------------------------------------------------------------------


@every_protocol
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
    protocol: AnswerProtocol, edges: tuple[float, float, float, float]
) -> None:
    size = EncodedSize(4000, 3000, 504, 364)
    true = Box(*edges, size.pixels)
    answer = protocol.read(protocol.render([true], size=size), size)
    assert (answer.status, answer.num_clipped) == (Status.OK, 0)
    can_say = iou(true, sayable(protocol, size)) > 0
    assert (iou(answer.boxes[0], true) > 0) == can_say  # it still covers the place


@every_protocol
def test_a_box_that_reaches_outside_is_clamped(protocol: AnswerProtocol) -> None:
    size = EncodedSize(640, 480, 644, 476)
    gold = protocol.render([Box(-50, -1, 700, 481, size.pixels)], size=size)
    (box,) = protocol.read(gold, size).boxes
    edges = (0, 0, 640, 480)
    if protocol.codec.frame is not FrameKind.SQUARE:  # rounded, then cut off by the clamp
        edges = sayable(protocol, size).xyxy
    assert box.xyxy == pytest.approx(edges)
