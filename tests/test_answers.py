from __future__ import annotations

import gc
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reground.grounding.answers import Answer, Status, parse
from reground.grounding.boxes import Box, FrameKind
from reground.grounding.families import (
    FAMILIES,
    EncodedSize,
    Family,
    Form,
    Grammar,
    get_family,
)
from reground.grounding.sample import ImageRef, Sample, Target
from reground.grounding.scoring import score


def overlap(answer: Answer, boxes: Sequence[Box]) -> float:
    """The score of an answer to a sample with these true boxes."""
    image = ImageRef("image.png", 640, 480)
    return score(answer, Sample("s", (image,), "q", tuple(Target(0, b) for b in boxes), task="t"))


SHARED = Path(__file__).parents[1] / "../shared/data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the folder ../shared/data")

# One unit of every frame is one original pixel, so that the tables can be read.
PLAIN = EncodedSize(1000, 1000, 1000, 1000)
PHOTO = EncodedSize(640, 480, 644, 476)
BOX = (10.0, 20.0, 30.0, 40.0)
OTHER = (50.0, 60.0, 70.0, 80.0)

OK, NO_ANSWER, UNPARSABLE = Status.OK, Status.NO_ANSWER, Status.UNPARSABLE
OUT_OF_BOUNDS, DEGENERATE = Status.OUT_OF_BOUNDS, Status.DEGENERATE


def read(family: str, text: str, size: EncodedSize = PLAIN) -> Answer:
    return parse(text, get_family(family), size)


def pixel_box(x1: float, y1: float, x2: float, y2: float) -> Box:
    return Box(x1, y1, x2, y2, PLAIN.pixels)


def corners(answer: Answer) -> list[tuple[float, float, float, float]]:
    return [box.xyxy for box in answer.boxes]


# ---- tables of answers: text, status, boxes, well-formed ----------------------------------------

BOX_TOKENS = [
    ("<|box_start|>(10,20),(30,40)<|box_end|>", OK, [BOX], True),
    ("<|box_start|>(10,20),(30,40)<|box_end|><|im_end|>", OK, [BOX], True),
    ("(10,20),(30,40)<|im_end|>\n<|endoftext|>", OK, [BOX], True),  # decoding dropped the tokens
    (
        "<|box_start|>(10,20),(30,40)<|box_end|>\n<|box_start|>(50,60),(70,80)<|box_end|>",
        OK,
        [BOX, OTHER],
        True,
    ),
    ("none", OK, [], True),
    ("boat(10,20),(30,40)", OK, [BOX], False),
    ("It's in the second image. (10,20),(30,40)", OK, [BOX], False),
    ("These images share no object.", UNPARSABLE, [], False),
    ("<|box_start|>(10,20),(30,40", UNPARSABLE, [], False),
    ("<|box_start|>10,20,30,40<|box_end|>", UNPARSABLE, [], False),
    ("<|box_start|><|box_end|>", UNPARSABLE, [], False),
    ("", NO_ANSWER, [], False),
    (" \n<|im_end|>", NO_ANSWER, [], False),
    ("<think>(10,20),(30,40)</think>", NO_ANSWER, [], False),
]

PAIRS = [
    ("(10,20),(30,40)", OK, [BOX], True),
    ("(10, 20), (30, 40)", OK, [BOX], True),
    (" ( 10 ,20 ) , (30,40)\n", OK, [BOX], True),
    ("(10.0,20.00),(30.,40)", OK, [BOX], True),
    ("(10,20),(30,40)\n(50,60),(70,80)", OK, [BOX, OTHER], True),
    ("(10,20),(30,40),(50,60),(70,80)", OK, [BOX, OTHER], True),
    ("(10,20),(30,40)(50,60),(70,80)", OK, [BOX, OTHER], True),
    ("None", OK, [], True),
    ("The dog is at (10,20),(30,40).", OK, [BOX], False),
    ("No reasoning.</think>(10,20),(30,40)", OK, [BOX], False),  # the prompt opened the block
    ("I see (1,2),(3,4)</think>", NO_ANSWER, [], False),
    ("<think>(1,2),(3,4)</think>(10,20),(30,40)", OK, [BOX], False),
    ("<think>(1,2),(3,4)", NO_ANSWER, [], False),
    ("<tool>(1,2),(3,4)</tool><rethink>(5,6),(7,8)</rethink>", NO_ANSWER, [], False),
    ("(10,20),(30,40),(50,60)", UNPARSABLE, [], False),  # a corner without a partner
    ("(10,20),(30,40)\n(50,60),(70,", UNPARSABLE, [], False),  # cut off
    ("(10,20),(30,40)\n(50", UNPARSABLE, [], False),
    ("(10,20)", UNPARSABLE, [], False),
    ("[10,20,30,40]", UNPARSABLE, [], False),  # another family's grammar is not guessed at
    ("(10,20,30,40)", UNPARSABLE, [], False),
    ("(nan,20),(30,40)", UNPARSABLE, [], False),
    ("(1e1,20),(30,40)", UNPARSABLE, [], False),
    ("(x1,y1),(x2,y2)", UNPARSABLE, [], False),
    ("nothing", UNPARSABLE, [], False),
    ("(\u0661\u0660,20),(30,40)", UNPARSABLE, [], False),  # digits of another script
    ("(" + "9" * 5000 + ",20),(30,40)", UNPARSABLE, [], True),
    ("(30,40),(10,20)", DEGENERATE, [], True),  # never turned the right way round
    ("(10,20),(10,40)", DEGENERATE, [], True),
    ("(10,40),(30,20)", DEGENERATE, [], True),
    ("(10,20),(30,40)\n(50,60),(50,80)", DEGENERATE, [], True),  # one bad box spoils the answer
    ("(10,20),(30,1011)", OUT_OF_BOUNDS, [], True),
    ("(-11,20),(30,40)", OUT_OF_BOUNDS, [], True),
    ("(10,20),(30," + "9" * 40 + ")", OUT_OF_BOUNDS, [], True),
    ("(1001,20),(1009,40)", DEGENERATE, [], True),  # nothing of it is inside
]

THINK = [
    ("<think>a</think><answer>(10,20),(30,40)</answer>", OK, [BOX], True),
    ("<think>a</think><answer>(10, 20), (30, 40)</answer><|im_end|>", OK, [BOX], True),
    (" <think>a\nb</think>\n<answer> (10,20),(30,40)\n</answer>\n", OK, [BOX], True),
    ("<think></think><answer>(10,20),(30,40)\n(50,60),(70,80)</answer>", OK, [BOX, OTHER], True),
    ("<think>a</think><answer>none</answer>", OK, [], True),
    ("<think>a (1,2),(3,4)</think><answer>(10,20),(30,40)</answer>", OK, [BOX], True),
    ("<answer>(10,20),(30,40)</answer>", OK, [BOX], False),
    ("<think>a</think>So: <answer>(10,20),(30,40)</answer>", OK, [BOX], False),
    ("<think>a</think><answer>(10,20),(30,40)</answer>.", OK, [BOX], False),
    ("<think>a</think><answer>at (10,20),(30,40)</answer>", OK, [BOX], False),
    ("<answer>(10,20),(30,40)</answer><think>a</think>", OK, [BOX], False),
    ("<think>a</think><think>b</think><answer>(10,20),(30,40)</answer>", OK, [BOX], False),
    (
        "<think>a<answer>(1,2),(3,4)</answer></think><answer>(10,20),(30,40)</answer>",
        OK,
        [BOX],
        False,
    ),
    ("<think>a</think>(1,2),(3,4)<answer>(10,20),(30,40)</answer>", OK, [BOX], False),
    ("<answer>(1,2),(3,4)</answer><answer>(10,20),(30,40)</answer>", OK, [BOX], False),  # the last
    ("<answer>(10,20),(30,40)</answer><answer>(1,2),(3", OK, [BOX], False),  # the last closed one
    ("<answer>(10,20),(30,40)</answer><tool><answer>(1,2),(3,4)</answer></tool>", OK, [BOX], False),
    ("<answer><think>(1,2),(3,4)</think>(10,20),(30,40)</answer>", OK, [BOX], False),
    ("a</think><answer>(10,20),(30,40)</answer>", OK, [BOX], False),
    ("<think>a</think><answer>(10,20),(30,40)", NO_ANSWER, [], False),  # never closed
    ("<think>a</think>(10,20),(30,40)", NO_ANSWER, [], False),
    ("<think>a<answer>(10,20),(30,40)</answer>", NO_ANSWER, [], False),  # all of it is a thought
    ("<answer>(10,20),(30,40)</answer></think>", NO_ANSWER, [], False),
    ("<tool><answer>(10,20),(30,40)</answer></tool>", NO_ANSWER, [], False),
    ("<rethink><answer>(10,20),(30,40)</answer></rethink>", NO_ANSWER, [], False),
    ("<answer><think>(10,20),(30,40)</think></answer>", NO_ANSWER, [], False),
    ("<think>a</think><answer> </answer>", NO_ANSWER, [], False),
    ("(10,20),(30,40)", NO_ANSWER, [], False),
    ("<ANSWER>(10,20),(30,40)</ANSWER>", NO_ANSWER, [], False),
    ("<think>a</think><answer>the left dog</answer>", UNPARSABLE, [], False),
    ("<think>a</think><answer>[10,20,30,40]</answer>", UNPARSABLE, [], False),
    ("<think>a</think><answer>(30,40),(10,20)</answer>", DEGENERATE, [], True),
    ("<think>a</think><answer>(10,20),(30,4000)</answer>", OUT_OF_BOUNDS, [], True),
]

JSON = [
    ('[{"bbox_2d": [10, 20, 30, 40], "label": "the dog"}]', OK, [BOX], True),
    ('```json\n[\n\t{"bbox_2d": [10, 20, 30, 40], "label": "dog"}\n]\n```', OK, [BOX], True),
    ('```\n{"bbox_2d": [10, 20, 30, 40]}\n```<|im_end|>', OK, [BOX], True),
    ('{"bbox_2d": [10, 20.0, 3e1, 40]}', OK, [BOX], True),
    ("[10, 20, 30, 40]", OK, [BOX], True),
    ("[[10, 20, 30, 40]]", OK, [BOX], True),
    ("[[10, 20, 30, 40], [50, 60, 70, 80]]", OK, [BOX, OTHER], True),
    ('[{"bbox_2d": [10, 20, 30, 40]}, {"bbox_2d": [50, 60, 70, 80]}]', OK, [BOX, OTHER], True),
    ("[]", OK, [], True),
    ("```json\n[]\n```", OK, [], True),
    ('[{"bbox_2d": [10,20,30,40], "label": "sign \\"[1,2,3,4]\\""}]', OK, [BOX], True),
    ('[{"bbox_2d": [10,20,30,40], "label": "\\"bbox_2d\\": [1,2,3,4]"}]', OK, [BOX], True),
    ('Here it is:\n```json\n[{"bbox_2d": [10, 20, 30, 40]}]\n```', OK, [BOX], False),
    ('```json\n[{"bbox_2d": [10, 20, 30, 40]}]\n```json', OK, [BOX], False),
    ('```json\n[{"bbox_2d": [10, 20, 30, 40]}]', OK, [BOX], False),
    ('["{"bbox_2d": [10, 20, 30, 40], "label": "dog"}]', OK, [BOX], False),  # a real VLM-R1 slip
    ("The box is [10, 20, 30, 40].", OK, [BOX], False),
    ("{'bbox_2d': [10, 20, 30, 40]}", OK, [BOX], False),
    (
        '```json\n{"bbox_2d": [10,20,30,40]}\n``` and ```json\n{"bbox_2d": [50,60,70,80]}\n```',
        OK,
        [BOX, OTHER],
        False,
    ),
    ('<think>{"bbox_2d": [1, 2, 3, 4]}</think>[10, 20, 30, 40]', OK, [BOX], False),
    ('<tool>{"bbox_2d": [1, 2, 3, 4]}</tool>', NO_ANSWER, [], False),
    ("", NO_ANSWER, [], False),
    ("There is no such thing.", UNPARSABLE, [], False),
    ('[{"bbox_2d": [10, 20, 30, 40]}, {"bbox_2d": [50, 60', UNPARSABLE, [], False),  # cut off
    ('{"bbox_2d": [10, 20, 30]}', UNPARSABLE, [], False),
    ('{"bbox_2d": [10, 20, 30, 40, 50]}', UNPARSABLE, [], False),
    ('{"bbox_2d": [10, 20, 30, "40"]}', UNPARSABLE, [], False),
    ('{"bbox_2d": [true, 20, 30, 40]}', UNPARSABLE, [], False),
    ('{"bbox_2d": [10, 20, 30, null]}', UNPARSABLE, [], False),
    ('{"bbox_2d": null}', UNPARSABLE, [], False),
    ('{"label": "dog"}', UNPARSABLE, [], False),
    ('[{"bbox_2d": [10, 20, 30, 40]}, {"label": "dog"}]', UNPARSABLE, [], False),
    ("[10, 20, 30]", UNPARSABLE, [], False),
    ("[[]]", UNPARSABLE, [], False),
    ("{}", UNPARSABLE, [], False),
    ("42", UNPARSABLE, [], False),
    ("null", UNPARSABLE, [], False),
    ("(10,20),(30,40)", UNPARSABLE, [], False),
    ('{"bbox_2d": [NaN, 20, 30, 40]}', UNPARSABLE, [], True),
    ('{"bbox_2d": [10, 20, 30, Infinity]}', UNPARSABLE, [], True),
    ('{"bbox_2d": [10, 20, 30, 1e999]}', UNPARSABLE, [], True),
    ('{"bbox_2d": [10, 20, 30, ' + "9" * 5000 + "]}", UNPARSABLE, [], True),
    ('{"bbox_2d": [10, 20, 30, 1e308]}', OUT_OF_BOUNDS, [], True),
    ('{"bbox_2d": [-1e308, 20, 30, 1e308]}', OUT_OF_BOUNDS, [], True),
    ('{"bbox_2d": [30, 20, 10, 40]}', DEGENERATE, [], True),
]

RETHINK = [
    (
        "<think>a</think>\n<function>\nget_extra_ref_result()\n</function>"
        '<tool>{"reftool_1": "[{\\"bbox_2d\\": [1, 2, 3, 4]}]"}</tool>'
        '<rethink>It is wrong.</rethink><answer>{"bbox_2d": [10, 20, 30, 40]}</answer>',
        OK,
        [BOX],
        True,
    ),
    ("<think>a</think><rethink>b</rethink><answer>[10,20,30,40]</answer>", OK, [BOX], True),
    ("<think>a</think> x <rethink>b</rethink><answer>[10,20,30,40]</answer>", OK, [BOX], True),
    ("<think>a</think><answer>[10,20,30,40]</answer>", OK, [BOX], False),
    ("<rethink>b</rethink><think>a</think><answer>[10,20,30,40]</answer>", OK, [BOX], False),
    ("<think>a</think><rethink>b</rethink><answer>no idea</answer>", UNPARSABLE, [], True),
    ("<think>a</think><rethink>b</rethink><answer>[10,20,30,40]", NO_ANSWER, [], False),
    ("<think>a</think><rethink>b<answer>[10,20,30,40]</answer>", NO_ANSWER, [], False),
    (
        "<think>a</think><tool><rethink>b</rethink><answer>[1,2,3,4]</answer></tool>",
        NO_ANSWER,
        [],
        False,
    ),
]

THINK_JSON = [
    (
        '<think>a</think>\n<answer>{"bbox_2d": [10, 20, 30, 40], "label": "dog"} </answer>',
        OK,
        [BOX],
        True,
    ),
    ('<think>a</think><answer> [ { "bbox_2d": [10, 20, 30, 40] } ] </answer>', OK, [BOX], True),
    (
        '<think>a</think>\n\n<answer>\n```json\n[{"bbox_2d": [10, 20, 30, 40]}]\n```\n</answer>',
        OK,
        [BOX],
        True,
    ),
    (
        '<think>a</think><answer>["{"bbox_2d": [10, 20, 30, 40], "label": "dog"}]</answer>',
        OK,
        [BOX],
        False,
    ),
    ('<think>{"bbox_2d": [1, 2, 3, 4]}</think><answer>[10, 20, 30, 40]</answer>', OK, [BOX], True),
    ('<answer>{"bbox_2d": [10, 20, 30, 40]}</answer>', OK, [BOX], False),
    ('<think>a</think>\n```json\n[{"bbox_2d": [10, 20, 30, 40]}]\n```', NO_ANSWER, [], False),
    ('<think>a</think><answer>{"bbox_2d": [10, 20, 30, 40]}', NO_ANSWER, [], False),
    ("<think>a</think><answer>none</answer>", UNPARSABLE, [], False),
    ('<think>a</think><answer>{"bbox_2d": [30, 20, 10, 40]}</answer>', DEGENERATE, [], True),
    ('<think>a</think><answer>{"bbox_2d": [10, 20, 30, 4000]}</answer>', OUT_OF_BOUNDS, [], True),
]

TABLES: dict[str, list[tuple[str, Status, list[Any], bool]]] = {
    "qwen2_vl": BOX_TOKENS,
    "qwen2_5_vl": JSON,
    "qwen3_vl": JSON,
    "univg_r1": THINK,
    "univg_r1_direct": PAIRS,
    "vlm_r1": THINK_JSON,
    "vg_refiner": RETHINK,
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
    assert TABLES.keys() == FAMILIES.keys()


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
    for family, text in [("qwen3_vl", "[]"), ("univg_r1_direct", "none")]:
        empty = read(family, text)
        assert (empty.status, overlap(empty, []), overlap(empty, truth)) == (OK, 1, 0)
        assert overlap(read(family, "gibberish"), []) == 0
    assert overlap(read("qwen3_vl", "[10,20,30,40]"), []) == 0


@given(st.integers(-5000, 5000), st.integers(-5000, 5000))
def test_invariant_1_the_form_term_does_not_see_where_the_box_is(x: int, y: int) -> None:
    assert read("univg_r1_direct", f"({x},{y}),({y},{x})").well_formed
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
    answer = read("univg_r1_direct", text)
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
    assert corners(read("univg_r1_direct", f"{head}(10,20),(30,40){tail}")) == [BOX]
    thought = read("univg_r1", f"{head}<answer>(10,20),(30,40)</answer>{tail}")
    assert corners(thought) == [BOX]
    assert read("univg_r1", head + tail).status is NO_ANSWER


# ---- invariant 2: one frame inside --------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "text", "pixels"),
    [
        ("qwen2_vl", "<|box_start|>(100,250),(500,750)<|box_end|>", (64, 120, 320, 360)),
        ("univg_r1_direct", "(100,250),(500,750)", (64, 120, 320, 360)),
        ("qwen3_vl", '[{"bbox_2d": [100, 250, 500, 750]}]', (64, 120, 320, 360)),
        ("qwen2_5_vl", '[{"bbox_2d": [322, 238, 644, 476]}]', (320, 240, 640, 480)),
    ],
)
def test_invariant_2_boxes_come_back_in_original_pixels(
    family: str, text: str, pixels: tuple[float, ...]
) -> None:
    (box,) = read(family, text, PHOTO).boxes
    assert box.frame == PHOTO.pixels
    assert box.xyxy == pytest.approx(pixels)


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


# ---- whatever the text --------------------------------------------------------------------------

PIECES = [
    *("<think>", "</think>", "<answer>", "</answer>", "<tool>", "</function>", "<|im_end|>"),
    *("<|box_start|>", "```json", "```", '"bbox_2d": ', '"image"', "[", "]", "{", "}", "(", ")"),
    *(",", ":", '"', "\\", " ", "\n", "-", "1", "20", "3.5", "1e999", "NaN", "none", "null", "é"),
]


@given(st.sampled_from([*FAMILIES.values()]), st.lists(st.sampled_from(PIECES)) | st.text())
def test_any_text_gets_a_status(family: Family, pieces: list[str] | str) -> None:
    answer = parse("".join(pieces), family, PHOTO)
    assert answer.status in Status
    for box in answer.boxes:
        assert not box.is_degenerate
        assert (box.frame, box.overhang()) == (PHOTO.pixels, 0)


def in_json_family(form: Form) -> Family:
    return Family("vlm_r1", FrameKind.PIXELS, Grammar.JSON, form, "qwen2_5_vl")


HOSTILE = [
    *("<think>", "</think>", "<think></think>", "<answer>", "<answer></answer>", "<", "<tool>"),
    *("(", "(1,", "( ", "(1,2),", "(3,4),(1,2)\n", "[", "[1,", "[3,4,1,2],", "{", '{"a":', "[ "),
    *("1", "1.", "-", " ", "\n", '"', "\\", "```", "<|im_end|>", '"bbox_2d": ', '"bbox_2d": ['),
]


def seconds(text: str, family: Family) -> float:
    """The lesser processor time of two readings, so that other work on the machine is left out."""
    times = []
    gc.disable()
    try:
        for _ in range(2):
            start = time.process_time()
            parse(text, family, PHOTO)
            times.append(time.process_time() - start)
    finally:
        gc.enable()
    return min(times)


@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.parametrize("family", ["univg_r1", "univg_r1_direct", "qwen3_vl"])
def test_invariant_1_reading_time_is_linear(family: str, piece: str) -> None:
    is_direct = FAMILIES[family].form is Form.DIRECT
    opening, closing = ("", "") if is_direct else ("<answer>", "</answer>")
    short, long = (
        seconds(opening + piece * (length // len(piece)) + closing, FAMILIES[family])
        for length in (100_000, 400_000)
    )
    assert long < 8 * short + 0.02  # linear is 4, quadratic 16


@pytest.mark.parametrize(
    "piece", ["<think>", "(", "[", "[[1,", '{"a":', "9", '"bbox_2d": [1,', " "]
)
def test_a_hostile_megabyte_is_no_answer(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    for family in (FAMILIES["univg_r1"], in_json_family(Form.DIRECT), in_json_family(Form.THINK)):
        assert parse(f"<answer>{text}</answer>", family, PHOTO).status in (NO_ANSWER, UNPARSABLE)


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
    family = get_family("vlm_r1")
    answers = [parse(row["model_output"], family, size) for row in rows]
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
    family = get_family("vlm_r1")
    for row in rows["results"]:
        text = row["model_output"]
        if "</answer>" not in text:
            assert parse(text, family, PHOTO).status is NO_ANSWER
