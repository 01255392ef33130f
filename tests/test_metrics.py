"""Means, their clustered standard errors, and what counts in them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reground.evaluation.records import Finish, SampleScore
from reground.evaluation.scoring.columns import columns_of, slices_of
from reground.evaluation.scoring.metrics import (
    Estimate,
    Outcome,
    by_task,
    clustered_mean,
    macro_accuracy,
    outcome,
    summarise,
)
from reground.evaluation.scoring.slices import by_slice
from reground.grounding.answers import Status
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample, Span, Target

SHARED = Path(__file__).parents[1] / "../shared/data"
MIG_OUTPUTS = SHARED / "mig_bench" / "outputs"

VALUES = st.lists(st.floats(0, 1), min_size=2, max_size=30)


def score(
    iou: float | None,
    *,
    image: str = "a.jpg",
    task: str = "find",
    status: Status = Status.OK,
    strata: dict[str, str] | None = None,
    num_tokens: int = 10,
    num_clipped: int = 0,
    finish: Finish = "stop",
) -> SampleScore:
    """A score with the given IoU; None stands for a sample that was never answered."""
    ref = ImageRef(image, 100, 100)
    target = Target(0, Box(10, 10, 50, 50, ref.frame))
    sample = Sample("x", (ref,), "the cup", (target,), task, strata=strata or {})
    if iou is None:
        return SampleScore(sample, error="the image is missing")
    return SampleScore(
        sample,
        status=status,
        iou=iou,
        num_tokens=num_tokens,
        num_clipped=num_clipped,
        finish=finish,
        well_formed=True,
    )


@pytest.mark.parametrize(
    ("iou", "accuracies"),
    [
        (0.3, (0, 0, 0)),
        (0.30001, (1, 0, 0)),
        (0.5, (1, 0, 0)),
        (0.50001, (1, 1, 0)),
        (0.7, (1, 1, 0)),
        (1.0, (1, 1, 1)),
    ],
)
def test_accuracy_counts_iou_above_the_threshold(
    iou: float, accuracies: tuple[int, int, int]
) -> None:
    row = summarise(columns_of([score(iou)])).to_json()
    assert (row["acc@0.3"], row["acc@0.5"], row["acc@0.7"]) == accuracies
    assert row["mean_iou"] == iou


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (score(0.51), Outcome.HIT),
        (score(0.5), Outcome.MISS),
        (score(0.0, status=Status.NO_ANSWER), Outcome.NO_ANSWER),
        (score(0.0, status=Status.UNPARSABLE), Outcome.UNPARSABLE),
        (score(0.0, status=Status.OUT_OF_BOUNDS), Outcome.OUT_OF_BOUNDS),
        (score(0.0, status=Status.DEGENERATE), Outcome.DEGENERATE),
        (score(None), Outcome.UNSCORED),
    ],
)
def test_every_sample_has_one_outcome(one: SampleScore, expected: Outcome) -> None:
    assert outcome(one) is expected


def test_unscored_is_not_zero() -> None:
    answered = [score(1.0, image="a"), score(0.5, image="b")]
    unreadable = score(0.0, image="c", status=Status.UNPARSABLE)
    assert (
        summarise(columns_of([*answered, score(None)])).estimates
        == summarise(columns_of(answered)).estimates
    )
    assert summarise(columns_of([*answered, score(None)])).to_json()["errors"] == 1
    assert summarise(columns_of([*answered, unreadable])).estimates["mean_iou"].value == 0.5


def test_nothing_scored_gives_no_figures() -> None:
    summary = summarise(columns_of([score(None)]))
    assert (summary.n, summary.errors, summary.num_images) == (0, 1, 0)
    assert set(summary.estimates.values()) == {Estimate(None, None)}
    assert macro_accuracy(columns_of([score(None)])) == Estimate(None, None)


def test_summary_counts_status_lengths_and_shares() -> None:
    rows = [
        score(0.9, image="a", num_tokens=10, num_clipped=1),
        score(0.1, image="b", num_tokens=20),
        score(0.0, image="c", status=Status.NO_ANSWER, num_tokens=60, finish="length"),
        score(0.8, image="c", num_tokens=10),
    ]
    row = summarise(columns_of(rows)).to_json()
    assert (row["n"], row["images"], row["length"]) == (4, 3, 25.0)
    assert (row["clipped"], row["truncated"], row["well_formed"]) == (0.25, 0.25, 1.0)
    assert row["status"] == {
        "ok": 3,
        "no_answer": 1,
        "unparsable": 0,
        "out_of_bounds": 0,
        "degenerate": 0,
        "abstained": 0,
    }


def test_tasks_and_slices_are_summarised_apart() -> None:
    rows = [
        score(0.9, task="track", strata={"kind": "relation", "objects": "3"}),
        score(0.1, task="find", strata={"kind": "attribute", "objects": "3"}),
        score(0.9, task="find", strata={"kind": "relation"}),
        score(None, task="find", strata={"kind": "relation"}),
    ]
    assert [(name, row.n, row.errors) for name, row in by_task(columns_of(rows)).items()] == [
        ("find", 2, 1),
        ("track", 1, 0),
    ]
    slices = by_slice(columns_of(rows))
    assert list(slices) == ["kind"]  # all have one box, phrase and image alike, and three objects
    relation = slices["kind"]["relation"]
    assert (list(slices["kind"]), relation.summary.n) == (["attribute", "relation"], 2)
    assert relation.summary.estimates["acc@0.5"].value == 1.0


@pytest.mark.parametrize(
    ("sides", "size"),
    [
        ((32, 31.9), "small (< 32²)"),
        ((32, 32), "medium (< 96²)"),
        ((96, 95.9), "medium (< 96²)"),
        ((96, 96), "large"),
    ],
)
def test_a_box_has_coco_s_size(sides: tuple[float, float], size: str) -> None:
    image = ImageRef("a.png", 640, 480)
    box = Target(0, Box(10, 20, 10 + sides[0], 20 + sides[1], image.frame))
    sample = Sample("s", (image,), "the cup", (box,), "find")
    assert slices_of(sample)["box"] == size
    assert "box" not in slices_of(replace(sample, targets=()))
    assert "box" not in slices_of(replace(sample, targets=(box, box)))


@pytest.mark.parametrize(
    ("question", "length"),
    [
        ("a b  c", "1 to 3 words"),
        ("a b c d", "4 to 8 words"),
        (" ".join("abcdefgh"), "4 to 8 words"),
        (" ".join("abcdefghi"), "9 or more words"),
        ("", "1 to 3 words"),
    ],
)
def test_a_phrase_has_a_length(question: str, length: str) -> None:
    image = ImageRef("a.png", 640, 480)
    sample = Sample("s", (image, image), question, (), "find", strata={"images": "many"})
    assert slices_of(sample) == {"phrase": length, "images": "2"}
    marked = replace(
        sample,
        question=f"Please find all of {question}",
        spans=(Span(19, 19 + len(question), "phrase"),),
    )
    assert slices_of(marked)["phrase"] == length


def test_slices_come_in_their_order_with_intervals_and_without_the_unanswered() -> None:
    rows = [
        score(0.9 * (n % 3 > 0), image=f"{n}.png", strata={"objects": number, "x": "y"})
        for n, number in enumerate(["10", "9", "none", "10", "9", "10"])
    ]
    rows.append(score(None, image="z.png", strata={"objects": "9"}))
    slices = by_slice(columns_of(rows))
    assert list(slices) == ["objects"] and list(slices["objects"]) == ["9", "10", "none"]
    nine, ten, none = slices["objects"].values()
    assert (nine.summary.n, nine.summary.errors, ten.summary.n, none.summary.n) == (2, 1, 3, 1)
    assert none.accuracy is None  # one image
    assert ten.accuracy is not None and ten.accuracy.low <= 1 / 3 <= ten.accuracy.high


def test_clustered_error_by_hand() -> None:
    # Mean 0.5; residual sums: a -0.5 - 0.5 = -1, b 0.5, c 0.5; 3/2 * (1 + 0.25 + 0.25) / 4^2.
    estimate = clustered_mean([0, 0, 1, 1], ["a", "a", "b", "c"])
    assert estimate.value == 0.5
    assert estimate.stderr == pytest.approx(math.sqrt(1.5 * 1.5 / 16))


@given(VALUES)
def test_error_without_repeated_images_is_the_ordinary_one(values: list[float]) -> None:
    expected = np.std(values, ddof=1) / math.sqrt(len(values))
    estimate = clustered_mean(values, [str(index) for index in range(len(values))])
    assert estimate.stderr == pytest.approx(expected, abs=1e-12)


@given(VALUES, st.integers(2, 4))
def test_asking_the_same_thing_again_teaches_nothing(values: list[float], times: int) -> None:
    images = [str(index) for index in range(len(values))]
    once, again = clustered_mean(values, images), clustered_mean(values * times, images * times)
    assert again.value == pytest.approx(once.value)
    assert again.stderr == pytest.approx(once.stderr, abs=1e-12)


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=2, max_size=12))
def test_clustered_error_is_the_jackknife_over_equal_clusters(
    images: list[tuple[float, float, float]],
) -> None:
    values = np.array(images)
    left_out = [np.delete(values, index, axis=0).mean() for index in range(len(values))]
    spread = np.square(np.array(left_out) - values.mean()).sum()
    expected = math.sqrt((len(values) - 1) / len(values) * spread)
    clusters = [str(index) for index in range(len(values)) for _ in range(3)]
    estimate = clustered_mean(values.reshape(-1).tolist(), clusters)
    assert estimate.stderr == pytest.approx(expected, abs=1e-12)


def test_macro_weighs_tasks_alike() -> None:
    rows = [score(0.9, task="few", image=name) for name in "ab"]
    rows += [score(0.9 * (name in "cd"), task="many", image=name) for name in "cdefghij"]
    tasks = by_task(columns_of(rows))
    errors = [tasks[name].estimates["acc@0.5"].stderr or 0.0 for name in ("few", "many")]
    macro = macro_accuracy(columns_of(rows))
    assert macro.value == pytest.approx((1.0 + 0.25) / 2)
    assert macro.stderr == pytest.approx(math.hypot(*errors) / 2)


def test_macro_of_one_task_is_its_accuracy() -> None:
    rows = [score(iou, image=name) for iou, name in [(0.9, "a"), (0.1, "a"), (0.8, "b")]]
    assert macro_accuracy(columns_of(rows)) == summarise(columns_of(rows)).estimates["acc@0.5"]


def test_macro_error_grows_when_tasks_share_images() -> None:
    def rows(second: str) -> list[SampleScore]:
        hits = [0.9, 0.1, 0.9, 0.1]
        first = [score(iou, task="one", image=name) for iou, name in zip(hits, "abcd", strict=True)]
        return first + [
            score(iou, task="two", image=name) for iou, name in zip(hits, second, strict=True)
        ]

    apart, shared = (
        macro_accuracy(columns_of(rows("efgh"))),
        macro_accuracy(columns_of(rows("abcd"))),
    )
    assert apart.value == shared.value
    assert shared.stderr == pytest.approx(math.sqrt(2) * (apart.stderr or 0))


def test_macro_error_is_unknown_where_a_task_has_one_image() -> None:
    rows = [score(0.9, task="one"), *(score(0.9, task="two", image=name) for name in "bc")]
    assert macro_accuracy(columns_of(rows)) == Estimate(1.0, None)


@pytest.mark.skipif(not MIG_OUTPUTS.is_dir(), reason="the optional ../shared/data is absent")
@pytest.mark.parametrize(("model", "expected"), [("migician", 63.37), ("qwen2_vl", 30.02)])
def test_macro_reproduces_mig_bench_averages_from_recorded_ious(
    model: str, expected: float
) -> None:
    rows = []
    for path in sorted((MIG_OUTPUTS / model).iterdir()):
        answers = json.loads(path.read_text(encoding="utf-8"))[:-1]
        rows += [
            score(answer["iou"], task=answer["task"], image=f"{path.name}/{index}")
            for index, answer in enumerate(answers)
        ]
    assert len(by_task(columns_of(rows))) == 10
    macro = macro_accuracy(columns_of(rows))
    assert 100 * (macro.value or 0) == pytest.approx(expected, abs=0.006)
    assert 0.005 < (macro.stderr or 0) < 0.02
