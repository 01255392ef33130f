"""CCR, NSRI and the rates beside them, against a plain reading of the definitions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reground.evaluation.records import SampleScore
from reground.evaluation.scoring.metrics import clustered_mean
from reground.evaluation.scoring.refinement import (
    Refined,
    ToolOutcome,
    figures,
    refined,
    refinement,
    refinement_of,
    tool_outcome,
)
from reground.grounding.answers import Status
from reground.grounding.boxes import Box, Frame, iou
from reground.grounding.sample import Detection, ImageRef, Sample, Target

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
        "accuracy_difference": share(counts["correct"] - counts["tool"], n),
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


# ---- outcomes and standard errors --------------------------------------------------------------


def score(name: str, final: float | None, *boxes: Box, image: str = "") -> SampleScore:
    """The score of a sample whose one true box is 10 x 10, with a detector's ``boxes``."""
    ref = ImageRef(image or f"{name}.png", 40, 40)
    found = tuple(Detection(0, box) for box in boxes)
    target = Target(0, Box(0, 0, 10, 10, ref.frame))
    sample = Sample(name, (ref,), "the cup", (target,), "find", tool_results=found)
    if final is None:
        return SampleScore(sample, error="no such image")
    return SampleScore(sample, status=Status.OK, iou=final, finish="stop")


def rows_of(pairs: list[tuple[float | None, float]], num_images: int = 99) -> list[Refined]:
    """Samples with these IoUs, in turn of ``num_images`` images."""
    return [
        Refined(score(str(index), final, image=f"{index % num_images}.png"), tool)
        for index, (final, tool) in enumerate(pairs)
    ]


@pytest.mark.parametrize(
    ("final", "tool", "outcome"),
    [
        (0.729, 0.476, "corrected"),
        (0.51, 0.5, "corrected"),  # 0.5 itself is wrong, as in every figure
        (0.9, 0.6, "followed"),
        (0.51, 1.0, "followed"),
        (0.5, 0.51, "worsened"),
        (0.3, 0.3 + 1e-12, "inherited"),
        (0.0, 0.0, "inherited"),
        (0.3, 0.3 + 1e-6, "still_wrong"),
        (0.3, 0.4, "still_wrong"),
    ],
)
def test_outcomes(final: float, tool: float, outcome: str) -> None:
    assert tool_outcome(final, tool) == ToolOutcome(outcome)


ROWS = st.lists(st.tuples(IOU | st.none(), IOU), min_size=1, max_size=12)


@given(ROWS, st.integers(1, 4))
def test_figures_are_the_measures_with_their_errors(
    pairs: list[tuple[float | None, float]], num_images: int
) -> None:
    rows = rows_of(pairs, num_images)
    answered = [pair for pair in pairs if pair[0] is not None] or [(None, 0.0)]
    found, expected = figures(rows), refinement(*zip(*answered, strict=True))
    if answered == [(None, 0.0)]:
        assert all((own.value, own.n) == (None, 0) for own in found.values())
        return
    for name, figure in found.items():
        assert figure.value == getattr(expected, name)
        assert (figure.value is None) == (figure.n == 0)
    outcomes = [row.outcome for row in rows]
    wrong = sum(tool <= 0.5 for final, tool in pairs if final is not None)
    assert found["ccr"].n == found["nsri_w"].n == wrong
    assert outcomes.count(ToolOutcome.CORRECTED) == found["critical_gain"].n
    gained = outcomes.count(ToolOutcome.CORRECTED) - outcomes.count(ToolOutcome.WORSENED)
    assert found["accuracy_difference"].value == pytest.approx(gained / len(answered))
    inherited, errors = outcomes.count(ToolOutcome.INHERITED), found["inherited_error_rate"]
    assert errors.value is None or errors.value == pytest.approx(inherited / errors.n)


def test_errors_are_of_paired_differences_and_clustered_by_image() -> None:
    finals = [0.9, 0.1, 0.9, 0.1, 0.1, 0.1]  # of the wrong tool boxes, between right ones
    pairs: list[tuple[float | None, float]] = []
    for final in finals:
        pairs += [(0.8, 0.8), (final, 0.1)]
    alone, shared = figures(rows_of(pairs)), figures(rows_of(pairs, num_images=4))
    difference = alone["accuracy_difference"]
    gains = [float(final == 0.9) for final, _ in pairs]
    expected = clustered_mean(gains, [str(index) for index in range(12)])
    assert (difference.value, difference.stderr) == (expected.value, expected.stderr)
    # It is smaller than of two independent means: six samples were right before and after.
    assert difference.stderr < alone["accuracy"].stderr  # type: ignore[operator]
    own = clustered_mean([float(final == 0.9) for final in finals], ["1", "3"] * 3)
    ccr = shared["ccr"]
    assert (ccr.value, ccr.stderr, ccr.n) == (own.value, own.stderr, 6)
    assert ccr.stderr != alone["ccr"].stderr


def test_one_image_gives_no_error() -> None:
    found = figures(rows_of([(0.9, 0.1), (0.2, 0.1)], num_images=1))
    assert (found["ccr"].value, found["ccr"].stderr) == (0.5, None)


def test_samples_without_an_answer_are_in_no_figure_and_have_no_outcome() -> None:
    (row,) = refined([score("a", None, Box(0, 0, 10, 10, Frame.pixels(40, 40)))])
    found = figures([row])
    assert (row.tool_iou, row.outcome) == (1.0, None)
    assert (found["nsri"].value, found["nsri"].n) == (None, 0)
    assert (found["ccr"].value, found["nsri_c"].n) == (None, 0)
    assert figures([]) == {name: type(own)(None, None, 0) for name, own in found.items()}


@pytest.mark.parametrize(
    "box", [(5, 5, 5, 5), (10, 10, 0, 0), (-30, -30, -10, -10), (60, 60, 90, 90)]
)
def test_a_box_that_is_none_counts_as_a_wrong_one(box: tuple[float, ...]) -> None:
    bad = Box(*box, Frame.pixels(40, 40))
    for own in (score("a", 0.9, bad), score("a", 0.9)):
        (row,) = refined([own])
        assert (row.tool_iou, row.outcome) == (0.0, ToolOutcome.CORRECTED)
        assert refinement_of([own]).ccr == 1.0  # type: ignore[union-attr]
