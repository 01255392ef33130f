from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import answer_tables
from answer_tables import BOX, NO_ANSWER, OK, OUT_OF_BOUNDS, RETHINK
from answer_tables_baselines import BASELINES
from answer_tables_others import OTHERS
from made import PROTOCOLS, overlap
from reground.grounding.answers import Answer, Status
from reground.grounding.boxes import Box
from reground.grounding.codecs import EncodedSize
from reground.protocols.protocol import get_protocol

SHARED = Path(__file__).parents[1] / "../shared/data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the folder ../shared/data")

# One unit of every frame is one original pixel, so that the tables can be read.
PLAIN = EncodedSize(1000, 1000, 1000, 1000)
PHOTO = EncodedSize(640, 480, 644, 476)


def read(family: str, text: str, size: EncodedSize = PLAIN) -> Answer:
    return PROTOCOLS[family].read(text, size)


def pixel_box(x1: float, y1: float, x2: float, y2: float) -> Box:
    return Box(x1, y1, x2, y2, PLAIN.pixels)


def corners(answer: Answer) -> list[tuple[float, float, float, float]]:
    return [box.xyxy for box in answer.boxes]


TABLES = {
    "qwen2_vl": answer_tables.BOX_TOKENS,
    "qwen2_5_vl": answer_tables.JSON,
    "qwen3_vl": answer_tables.JSON,
    "univg_r1": answer_tables.THINK,
    "univg_r1/direct": answer_tables.PAIRS,
    "vlm_r1": answer_tables.THINK_JSON,
    "vg_refiner": answer_tables.RETHINK,
    **BASELINES,
    **OTHERS,
}
CASES = [(name, *row) for name, table in TABLES.items() for row in table]


@pytest.mark.parametrize(("family", "text", "status", "boxes", "well_formed"), CASES)
def test_answers(
    family: str, text: str, status: Status, boxes: list[Any], well_formed: bool
) -> None:
    answer = read(family, text)
    assert answer.status is status
    assert corners(answer) == [pytest.approx(box) for box in boxes]
    assert answer.well_formed == well_formed


def test_every_family_has_a_table() -> None:
    assert TABLES.keys() == PROTOCOLS.keys()


# ---- invariant 1: one parser --------------------------------------------------------------------


@pytest.mark.parametrize(("family", "text", "status", "boxes", "well_formed"), CASES)
def test_invariant_1_only_ok_scores(
    family: str, text: str, status: Status, boxes: list[Any], well_formed: bool
) -> None:
    answer = read(family, text)
    truth = [pixel_box(*box) for box in boxes or [BOX]]
    expected = 1.0 if status is OK and boxes else 0.0
    assert overlap(answer, truth) == pytest.approx(expected)
    assert status is OK or not answer.boxes


def test_invariant_1_an_explicit_empty_answer_is_right_where_nothing_fits() -> None:
    truth = [pixel_box(*BOX)]
    for family, text in [("qwen3_vl", "[]"), ("univg_r1/direct", "none"), ("shikra", "none")]:
        empty = read(family, text)
        assert (empty.status, overlap(empty, []), overlap(empty, truth)) == (OK, 1, 0)
        assert overlap(read(family, "gibberish"), []) == 0
    assert overlap(read("qwen3_vl", "[10,20,30,40]"), []) == 0


@given(st.integers(-5000, 5000), st.integers(-5000, 5000))
def test_invariant_1_the_form_term_does_not_see_where_the_box_is(x: int, y: int) -> None:
    assert read("univg_r1/direct", f"({x},{y}),({y},{x})").well_formed
    assert read("qwen2_5_vl", f'[{{"bbox_2d": [{x}, {y}, {y}, {x}]}}]').well_formed


@pytest.mark.parametrize(
    ("text", "status", "num_clipped", "box"),
    [
        ("(0,0),(1000,1000)", OK, 0, (0, 0, 1000, 1000)),
        ("(-10,0),(1010,500)", OK, 1, (0, 0, 1000, 500)),
        ("(0,0),(1010,1010)\n(0,0),(10,10)\n(5,5),(9,1001)", OK, 2, (0, 0, 1000, 1000)),
        ("(0,0),(1010.1,1000)", OUT_OF_BOUNDS, 0, None),
        ("(-10.1,0),(500,500)", OUT_OF_BOUNDS, 0, None),
    ],
)
def test_invariant_1_one_percent_outside_is_clipped_and_counted(
    text: str, status: Status, num_clipped: int, box: Any
) -> None:
    answer = read("univg_r1/direct", text)
    assert (answer.status, answer.num_clipped) == (status, num_clipped)
    assert corners(answer)[:1] == ([box] if box else [])


def test_invariant_1_a_thousand_boxes_do_not_beat_one() -> None:
    truth = pixel_box(*BOX)
    guesses = [[x, y, x + 20, y + 20] for x in range(0, 100, 10) for y in range(0, 100, 10)]
    assert overlap(read("qwen3_vl", json.dumps(guesses)), [truth]) == pytest.approx(
        1 / len(guesses)
    )


BLOCKS = ["think", "rethink", "tool", "function"]


@given(
    st.lists(st.tuples(st.sampled_from(BLOCKS), st.sampled_from(["(1,2),(3,4)", "x", " "]))),
    st.lists(st.tuples(st.sampled_from(BLOCKS), st.sampled_from(["[5,6,7,8]", "(5,6),(7,8)"]))),
)
def test_invariant_1_thoughts_and_tools_never_change_the_answer(
    before: list[tuple[str, str]], after: list[tuple[str, str]]
) -> None:
    head = "".join(f"<{tag}>{text}</{tag}>" for tag, text in before)
    tail = "".join(f"<{tag}>{text}</{tag}>" for tag, text in after)
    assert corners(read("univg_r1/direct", f"{head}(10,20),(30,40){tail}")) == [BOX]
    thought = read("univg_r1", f"{head}<answer>(10,20),(30,40)</answer>{tail}")
    assert corners(thought) == [BOX]
    assert read("univg_r1", head + tail).status is NO_ANSWER


# ---- invariant 2: one frame inside --------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "text", "pixels"),
    [
        ("qwen2_vl", "<|box_start|>(100,250),(500,750)<|box_end|>", (64, 120, 320, 360)),
        ("univg_r1/direct", "(100,250),(500,750)", (64, 120, 320, 360)),
        ("qwen3_vl", '[{"bbox_2d": [100, 250, 500, 750]}]', (64, 120, 320, 360)),
        ("qwen2_5_vl", '[{"bbox_2d": [322, 238, 644, 476]}]', (320, 240, 640, 480)),
        ("internvl", "<box>[[100, 250, 500, 750]]</box>", (64, 120, 320, 360)),
        ("minicpm_v", "<box>100 250 500 750</box>", (64, 120, 320, 360)),
        ("cogvlm", "[[100,250,500,750]]", (64, 120, 320, 360)),
        ("mantis", "[0.1, 0.25, 0.5, 0.75]", (64, 120, 320, 360)),
        ("shikra", "[0.100,0.250,0.500,0.750]", (64, 80, 320, 400)),  # bars of 80 pixels
        ("grounding_gpt", "[0.1, 0.125, 0.5, 0.875]", (64, 0, 320, 480)),
        ("grounding_dino", '[{"bbox_2d": [64, 120, 320, 360]}]', (64, 120, 320, 360)),
    ],
)
def test_invariant_2_boxes_come_back_in_original_pixels(
    family: str, text: str, pixels: tuple[float, ...]
) -> None:
    (box,) = read(family, text, PHOTO).boxes
    assert box.frame == PHOTO.pixels
    assert box.xyxy == pytest.approx(pixels)


def test_invariant_2_the_bars_of_a_padded_image_are_outside() -> None:
    assert read("shikra", "[0.1,0.05,0.5,0.5]", PHOTO).status is OUT_OF_BOUNDS
    rounded = read("shikra", "[0.1,0.124,0.5,0.5]", PHOTO)
    assert (rounded.status, rounded.num_clipped, rounded.boxes[0].y1) == (OK, 1, 0)


def test_invariant_2_the_frame_is_never_guessed_from_magnitude() -> None:
    small = read("qwen3_vl", "[0.1, 0.2, 0.3, 0.4]", PHOTO).boxes[0]  # not read as shares
    assert small.xyxy == pytest.approx((0.064, 0.096, 0.192, 0.192))
    large = EncodedSize(4000, 3000, 2016, 1512)
    assert read("qwen2_5_vl", "[100, 100, 900, 900]", large).boxes[0].x2 == pytest.approx(
        900 * 4000 / 2016
    )
    assert read("qwen2_5_vl", "[100, 100, 900, 900]", PHOTO).status is OUT_OF_BOUNDS


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 2000), st.integers(1, 2000))
def test_invariant_2_a_full_frame_box_is_exactly_the_image(
    w: int, h: int, iw: int, ih: int
) -> None:
    size = EncodedSize(w, h, iw, ih)
    for family, text in [("qwen3_vl", "[0,0,1000,1000]"), ("qwen2_5_vl", f"[0,0,{iw},{ih}]")]:
        (box,) = read(family, text, size).boxes
        assert box.overhang() == 0
        assert box.xyxy == pytest.approx((0, 0, w, h))


# ---- the other fields ---------------------------------------------------------------------------


def test_texts_of_the_blocks() -> None:
    answer = read("vg_refiner", RETHINK[0][0])
    assert (answer.think, answer.rethink) == ("a", "It is wrong.")
    assert answer.tool_call == "get_extra_ref_result()"


@pytest.mark.parametrize(
    ("text", "think", "tool_call"),
    [
        ("<think>\nwhere </think><function>get()</function>", "where", "get()"),
        ("<think>cut", "cut", None),
        ("opened by the prompt</think>[]", "opened by the prompt", None),
        ("<think>a</think><function>get(", "a", None),  # not closed: no call
        (
            "<think>I could <function>get()</function></think>",
            "I could <function>get()</function>",
            None,
        ),
        ("<think>a</think><tool><function>get()</function></tool>", "a", None),
        ("[]", None, None),
    ],
)
def test_thoughts_and_calls(text: str, think: str | None, tool_call: str | None) -> None:
    answer = read("vg_refiner", text)
    assert (answer.think, answer.tool_call) == (think, tool_call)


@pytest.mark.parametrize(
    ("text", "image_index"),
    [
        ('[{"bbox_2d": [1, 2, 3, 4], "image": 2}]', 2),
        ('{"bbox_2d": [1, 2, 3, 4], "image": 0}', 0),
        ('[{"bbox_2d": [1, 2, 3, 4], "image": 1}, {"bbox_2d": [1, 2, 3, 4], "image": 1}]', 1),
        ('[{"bbox_2d": [1, 2, 3, 4], "image": 1}, {"bbox_2d": [1, 2, 3, 4], "image": 2}]', None),
        ('[{"bbox_2d": [1, 2, 3, 4], "image": 1}, {"bbox_2d": [1, 2, 3, 4]}]', None),
        ('{"bbox_2d": [1, 2, 3, 4], "image": -1}', None),
        ('{"bbox_2d": [1, 2, 3, 4], "image": 1.5}', None),
        ('{"bbox_2d": [1, 2, 3, 4], "image": true}', None),
        ('{"bbox_2d": [1, 2, 3, 4], "image": "second"}', None),
        ('{"bbox_2d": [1, 2, 3, 4], "image": 1e999}', None),
        ('{"bbox_2d": [3, 4, 1, 2], "image": 1}', None),  # degenerate
        ("[1, 2, 3, 4]", None),
        ("[]", None),
    ],
)
def test_image_index(text: str, image_index: int | None) -> None:
    assert read("qwen3_vl", text).image_index == image_index


# ---- real answers -------------------------------------------------------------------------------


@needs_shared
@pytest.mark.parametrize("model", ["migician", "qwen2_vl"])
def test_real_mig_bench_outputs(model: str) -> None:
    texts = [
        row["answer"]
        for path in sorted((SHARED / "mig_bench/outputs" / model).glob("*.json"))
        for row in json.loads(path.read_text())[:-1]  # the last element holds the totals
    ]
    answers = [read("qwen2_vl", text) for text in texts]
    num_ok = sum(answer.status is OK for answer in answers)
    assert len(texts) == 4276
    assert num_ok == (4276 if model == "migician" else pytest.approx(4050, abs=50))


@needs_shared
@pytest.mark.parametrize(
    ("step", "correct"), [(100, 448), (200, 448), (300, 450), (400, 455), (500, 453), (600, 451)]
)
def test_real_vlm_r1_logs(step: int, correct: int) -> None:
    name = f"rec_results_refcoco_val_qwen2_5vl_3b_instruct_r1_{step}.json"
    rows = json.loads((SHARED / "rec_logs" / name).read_text())["results"]
    size = EncodedSize(640, 640, 640, 640)  # the logs hold no sizes; no side is longer than this
    family = get_protocol("vlm_r1")
    answers = [family.read(row["model_output"], size) for row in rows]
    corners_of_truths = [row["ground_truth"] for row in rows]
    truths = [Box(x1, y1, x2, y2, size.pixels) for x1, y1, x2, y2 in corners_of_truths]
    hits = sum(
        overlap(answer, [truth]) > 0.5 for answer, truth in zip(answers, truths, strict=True)
    )
    assert all(answer.status is OK and answer.think for answer in answers)
    assert hits == pytest.approx(correct, abs=1)  # their IoU counts pixels inclusively


@needs_shared
def test_real_answers_outside_the_answer_tags_do_not_count() -> None:
    rows = json.loads((SHARED / "rec_logs/vlmr1_7b_untrained_refcoco_val.json").read_text())
    family = get_protocol("vlm_r1")
    for row in rows["results"]:
        text = row["model_output"]
        if "</answer>" not in text:
            assert family.read(text, PHOTO).status is NO_ANSWER
