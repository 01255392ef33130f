"""CCR, NSRI and the rates beside them, against a plain reading of the definitions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reground.evaluation.scoring.refinement import refinement
from reground.grounding.boxes import Box, Frame, iou

SHARED = Path(__file__).parents[1] / "../shared/data"
IOU = st.sampled_from([0.0, 0.2, 0.5, 0.6, 0.9, 1.0])
PAIRS = st.lists(st.tuples(IOU | st.none(), IOU | st.none()), min_size=1, max_size=12)


def plain(pairs: list[tuple[float | None, float | None]]) -> dict[str, float | None]:
    """The definitions, one sample after the other."""
    gains: dict[str, list[float]] = {name: [] for name in ("all", "wrong", "right")}
    counts = dict.fromkeys(("correct", "tool", "critical", "better", "kept", "worse", "own"), 0)
    final_wrong = 0
    for final, tool in pairs:
        if final is None or tool is None:
            gains["all"].append(0.0)
            continue
        gain = 0.0
        if final > tool:
            gain = (final - tool) / (1 - tool)
        elif final < tool:
            gain = (final - tool) / tool
        gains["all"].append(gain)
        gains["right" if tool > 0.5 else "wrong"].append(gain)
        counts["correct"] += final > 0.5
        counts["tool"] += tool > 0.5
        counts["critical"] += tool <= 0.5 < final
        counts["better"] += final > tool > 0.5
        counts["kept"] += final == tool > 0.5
        counts["worse"] += final < tool
        counts["own"] += final <= 0.5 and final == tool
        final_wrong += final <= 0.5
    n, right, wrong = len(pairs), len(gains["right"]), len(gains["wrong"])

    def share(part: float, whole: int) -> float | None:
        return part / whole if whole else None

    return {
        "accuracy": share(counts["correct"], n),
        "tool_accuracy": share(counts["tool"], n),
        "ccr": share(counts["critical"], wrong),
        "nsri": share(sum(gains["all"]), n),
        "nsri_w": share(sum(gains["wrong"]), wrong),
        "nsri_c": share(sum(gains["right"]), right),
        "refinement_rate": share(counts["better"], right),
        "follow_correct_rate": share(counts["kept"], right),
        "worsen_rate": share(counts["worse"], n),
        "inherited_error_rate": share(counts["own"], final_wrong),
    }


@given(PAIRS)
def test_every_measure_is_what_its_definition_says(
    pairs: list[tuple[float | None, float | None]],
) -> None:
    found = refinement(*zip(*pairs, strict=True))
    for name, value in plain(pairs).items():
        assert getattr(found, name) == (None if value is None else pytest.approx(value)), name
    assert found.n == len(pairs)
    assert found.unscored == sum(None in pair for pair in pairs)


@given(PAIRS)
def test_order_does_not_matter(pairs: list[tuple[float | None, float | None]]) -> None:
    forward = refinement(*zip(*pairs, strict=True))
    backward = refinement(*zip(*pairs[::-1], strict=True))
    for name in ("ccr", "nsri", "nsri_w", "nsri_c", "worsen_loss", "critical_gain"):
        first, second = getattr(forward, name), getattr(backward, name)
        assert first == (None if second is None else pytest.approx(second))


def test_means_of_changes() -> None:
    found = refinement([0.75, 0.9, 0.3, 0.2], [0.5, 0.8, 0.6, 0.2])
    assert found.critical_gain == pytest.approx(0.5)
    assert found.refinement_gain == pytest.approx(0.5)
    assert found.worsen_loss == pytest.approx(-0.5)
    assert found.mean_iou_delta == pytest.approx(0.05 / 4)
    assert found.nsri_scaled == pytest.approx((1 + 0.5 / 4) / 2)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real data in ../shared/data")
def test_the_pizza() -> None:
    facts = json.loads((SHARED / "samples/annotations.json").read_text())["pizza.jpg"]
    frame = Frame.pixels(*facts["size_wh"])
    truth = Box(*facts["gt_xyxy"], frame)
    tool = iou(Box(*facts["tool_boxes_xyxy"][0], frame), truth)
    final = iou(Box(*facts["qwen2_5_vl_7b_box_xyxy"], frame), truth)
    assert (round(tool, 3), round(final, 3)) == (0.476, 0.729)
    found = refinement([final], [tool])
    assert (found.ccr, found.tool_accuracy, found.accuracy) == (1.0, 0.0, 1.0)
