"""A mismatch of frames or corners is seen, and what is right is not suspected."""

from __future__ import annotations

import pytest

from reground.evaluation.records import Prediction
from reground.evaluation.scoring.diagnose import diagnose, verdict
from reground.grounding.boxes import Box, FrameKind
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import ImageRef, Sample, Target
from reground.protocols.protocol import get_protocol
from reground.protocols.readings import TRIED, Reading

SIZE = EncodedSize(640, 480, 1288, 952)
IMAGE = ImageRef("a.png", 640, 480)


def answered(kind: FrameKind, *, swapped: bool) -> list[Prediction]:
    """Right answers of ``qwen3_vl`` but for the frame of their numbers or the order of corners."""
    rows = []
    for number in range(8):
        box = Box(40 + 30 * number, 60, 240 + 30 * number, 160 + 20 * number, IMAGE.frame)
        x1, y1, x2, y2 = box.to(SIZE.frame(kind)).xyxy
        numbers = [y1, x1, y2, x2] if swapped else [x1, y1, x2, y2]
        text = f'[{{"bbox_2d": {numbers}}}]'
        sample = Sample(str(number), (IMAGE,), "it", (Target(0, box),), "find")
        rows.append(Prediction(sample, text, (SIZE,), 9, "stop"))
    return rows


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("kind", TRIED)
def test_the_true_reading_is_found(kind: FrameKind, swapped: bool) -> None:
    readings = diagnose(answered(kind, swapped=swapped), lambda _: get_protocol("qwen3_vl"))
    assert len(readings) == 2 * len(TRIED)
    assert readings[0].reading == Reading(kind, swapped)
    assert readings[0].mean_iou == pytest.approx(1)
    right = kind is FrameKind.THOUSAND and not swapped
    assert verdict(readings).startswith("no mismatch" if right else "frame mismatch")


def test_what_cannot_be_read_counts_nothing() -> None:
    rows = answered(FrameKind.THOUSAND, swapped=False)
    half = [*rows[:4], *(Prediction(row.sample, "no", (SIZE,), 1, "stop") for row in rows[4:])]
    unscored = Prediction(rows[0].sample, error="no image")
    readings = diagnose([*half, unscored], lambda _: get_protocol("qwen3_vl"))
    assert readings[0].mean_iou == pytest.approx(0.5)
    assert verdict(readings).startswith("no mismatch")
