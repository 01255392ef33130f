"""Verification: what is rejected and why, what is not, and that any text is judged quickly."""

from __future__ import annotations

import gc
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faults import FAULTS
from reground.config import load
from reground.errors import ConfigError, RunError
from reground.grounding.boxes import Box
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import ImageRef, Sample, Target
from reground.teacher import reasoning
from reground.teacher.embedded import chain
from reground.teacher.rows import Finding, Pick, Rejection, TeacherCall
from reground.teacher.settings import TeachConfig, Verify
from reground.teacher.store import Store
from reground.teacher.verify import finding_on, verify
from reground.tinyworld import scenes as synth
from reviewing import answered

SIZE = EncodedSize(400, 300, 392, 308)
IMAGE = ImageRef("photo.jpg", 400, 300)
SAMPLE = Sample("s", (IMAGE,), "the cup", (Target(0, Box(40, 60, 200, 180, IMAGE.frame)),), "t")
THOUGHT = "The blue cup stands left of the laptop, near the edge of the table."
ANSWER = "<answer>(100,200),(500,600)</answer>"
GOOD = f"<think>{THOUGHT}</think>{ANSWER}"


def judged(
    text: str, sample: Sample = SAMPLE, *, finish: str = "stop", **settings: float
) -> Finding:
    sizes = tuple(EncodedSize(each.width, each.height, 392, 308) for each in sample.images)
    call = TeacherCall(
        sample=sample.id,
        stage="ask",
        number=0,
        model="m",
        prompt_sha256="p",
        state="answered",
        text=text,
        finish=finish,
        sizes=sizes,
        id=7,
    )
    return finding_on(call, sample, Verify(**settings))  # type: ignore[arg-type]


def thought(words: str) -> str:
    return f"<think>{words}</think>{ANSWER}"


def test_a_good_chain_is_kept_with_its_reasoning_boxes_and_iou() -> None:
    verdict = judged(GOOD)
    assert verdict == Finding(
        call=7, ok=True, think=THOUGHT, boxes=((40.0, 60.0, 200.0, 180.0),), iou=1.0
    )


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        ("", Rejection.FORM, "no answer"),
        (THOUGHT, Rejection.FORM, "no answer"),
        (GOOD + " Done.", Rejection.FORM, "nothing else"),
        (GOOD.replace("</think>", ""), Rejection.FORM, "no answer"),
        (GOOD.replace("(500,600)", ""), Rejection.FORM, "unparsable"),
        (GOOD.replace("(500,600)", "(50,60)"), Rejection.FORM, "degenerate"),
        (GOOD.replace("(500,600)", "(500,1600)"), Rejection.FORM, "out of bounds"),
        (GOOD.replace("500", "250"), Rejection.WRONG_BOX, "IoU 0.375, expected 0.5"),
        (GOOD.replace(ANSWER, "<answer>none</answer>"), Rejection.WRONG_BOX, "0 boxes, expected 1"),
        (
            GOOD.replace("</answer>", "\n(100,200),(500,600)</answer>"),
            Rejection.WRONG_BOX,
            "2 boxes, expected 1",
        ),
        (thought(""), Rejection.SHORT, "0 words, expected 5"),
        (thought("The blue cup."), Rejection.SHORT, "3 words"),
        (
            thought(" ".join(f"word{chr(97 + n % 26)}{n}" for n in range(500))),
            Rejection.LONG,
            "500",
        ),
        (thought(f"{THOUGHT} {THOUGHT} {THOUGHT}"), Rejection.REPETITION, "3 times 'the blue cup"),
        (thought(THOUGHT + " and so on" * 9), Rejection.REPETITION, "a loop of 'and so on'"),
        (
            thought(f"{THOUGHT} It is red. It {THOUGHT[4:]} So {THOUGHT}"),
            Rejection.REPETITION,
            "59% of the words were",
        ),
        (thought(f"{THOUGHT} This is the ground truth."), Rejection.LEAK, "ground truth"),
        (thought(f"{THOUGHT} It is at (100, 200)."), Rejection.COORDINATES, "(100, 200"),
    ],
)
def test_the_first_check_that_fails_gives_the_reason(
    text: str, reason: Rejection, detail: str
) -> None:
    verdict = judged(text)
    assert (verdict.ok, verdict.reason) == (False, reason)
    assert detail in verdict.detail


def test_a_chain_that_was_cut_off_has_no_form_whatever_it_looks_like() -> None:
    assert judged(GOOD, finish="length").reason is Rejection.FORM


def test_settings_move_the_limits() -> None:
    near = GOOD.replace("500", "430")  # IoU 0.825
    assert judged(near).ok and judged(near, min_iou=0.9).reason is Rejection.WRONG_BOX
    assert judged(GOOD, min_words=30).reason is Rejection.SHORT
    assert judged(GOOD, max_words=6).reason is Rejection.LONG
    with pytest.raises(ConfigError, match="min_words must be at most max_words"):
        load(TeachConfig, None, ["store=x", "verify.min_words=900"])


def test_several_boxes_are_matched_one_to_one() -> None:
    boxes = (Box(40, 60, 200, 180, IMAGE.frame), Box(0, 0, 40, 30, IMAGE.frame))
    two = Sample("s", (IMAGE,), "the cups", tuple(Target(0, box) for box in boxes), "t")
    both = "<answer>(0,0),(100,100)\n(100,200),(500,600)</answer>"
    assert judged(GOOD.replace(ANSWER, both), two).iou == 1.0
    assert judged(GOOD, two).detail == "1 boxes, expected 2"
    nothing = Sample("s", (IMAGE,), "the cups", (), "t")
    assert judged(GOOD.replace(ANSWER, "<answer>none</answer>"), nothing).ok


# Leaks.


@pytest.mark.parametrize(
    "text",
    [
        "As the ground truth says, it is the left one.",
        "This agrees with the Ground-Truth annotation.",
        "The provided coordinates lie on the left cup.",
        "The given bounding box is around the cup.",
        "Looking at the **given box**, I see a cup.",
        "As given, the target is at the left.",
        "The answer is provided, so it must be the left cup.",
        "The coordinates have been given.",
        "According to the coordinates, this is the cup.",
        "Given the bounding box, the cup must be meant.",
        "This corresponds to the bounding box.",
        "We are told the location; wait, we are given the box.",
        "I\u2019ve been told the answer.",
        "The user provided the bounding box of the cup.",
        "The reference answer is the cup.",
        "The known coordinates\nfit the cup.",
        "I know the answer already.",
        "The annotation is at the left.",
        "The labelled bounding box shows it.",
        "Using the coordinates, one finds the cup.",
    ],
)
def test_what_betrays_that_the_answer_was_given(text: str) -> None:
    assert reasoning.leak(text, question="the cup left of the laptop") is not None


@pytest.mark.parametrize(
    "text",
    [
        "In the given image there are two cups.",
        "The provided images show a street by day and by night.",
        "As given in the question, the cup must be blue.",
        "As specified, I look for the blue cup.",
        "We are given two images, and the task is to find the cup in the second.",
        "The question asks for the answer to a riddle: the cup.",
        "The description matches the cup at the left; the correct answer is therefore that cup.",
        "A cardboard box stands beside the cup, and the man gives the box to the woman.",
        "The given object of the first image is a cup; the reference image shows its handle.",
        "The truth is that both look alike, but only one has a handle.",
        "A hint of red on the ground shows where the cup stood.",
        "The label on the bottle says cola, which matches the logo in the first image.",
        "So the bounding box should surround the cup and its handle.",
        "The man is given a cup by the woman on the ground floor.",
        "I was told nothing about the colour, so both cups are candidates.",
        "Based on these observations, the left cup is the answer.",
        "The correct object is the cup whose position is known from the first image.",
        "The user wants the cup that is marked in the first image.",
    ],
)
def test_what_only_sounds_like_a_leak(text: str) -> None:
    assert reasoning.leak(text, question="the cup left of the laptop") is None


def test_what_the_question_says_may_be_spoken_of() -> None:
    question = (
        "What is in the given bounding box (10, 20), (300, 400) of image-1? Find it in image-2"
    )
    text = "The given bounding box in image 1, at (10,20), shows a cup."
    assert reasoning.leak(text, question=question) is None
    assert reasoning.leak("This matches the bounding box.", question=question) is None
    assert reasoning.leak("This is the ground truth.", question=question) == "ground truth"
    assert not reasoning.coordinates(text, question=question, truth=(), size=SIZE)


# Coordinates.


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It is at (100, 200).", True),
        ("Its corner [100,200] is near the edge.", True),
        ("The box {412; 300} holds it.", True),
        ("About <120, 340> or so.", True),
        ("It fills 0.25, 0.10, 0.50, 0.75 of it.", True),
        ("It spans 112 228 560 703 there.", True),
        ("Its box starts at x1 = 52.", True),
        ("From ymin: 52 on.", True),
        ("About 120 pixels wide.", True),
        ('Then {"bbox_2d": none}.', True),
        ("Between 100 and 500 across.", True),  # edges of the truth in 0-1000
        ("Between 40 and 200 across.", True),  # in original pixels
        ("Between 39 and 196 across.", True),  # in pixels as sent
        ("There are 3 cups (1, 2 and 3 from the left).", False),
        ("Of 12 people, player 23 stands at the left.", False),
        ("The clock shows 10:30, on the 2nd shelf of 4.", False),
        ("In images 1, 2, 3, 4 the same car is seen.", False),
        ("Compare (1, 2) with the others.", False),
        ("One of 100 sheep in 2019.", False),
        ("Photo 1: a dog. Photo 2: 2 dogs, one of them 1.5 times as large.", False),
    ],
)
def test_coordinates_are_found_and_counts_are_not(text: str, found: bool) -> None:
    said = reasoning.coordinates(text, question="the cup", truth=SAMPLE.boxes, size=SIZE)
    assert (said is not None) is found, said


# The wrong image.


@pytest.mark.parametrize(
    ("text", "target", "wrong"),
    [
        ("The cup stands on the table.", 1, False),
        ("In the second image the cup is at the left.", 1, False),
        ("In the second image the cup is at the left.", 0, True),
        ("It is in the third image. The cup is at the top.", 1, True),
        ("Image 1 shows a cup at the left. In Image 2 the same cup is on the desk.", 1, False),
        ("The cup is at the lower left of image 2. It matches the one of image 1.", 1, False),
        ("The first image shows a dog. The third one has none. The dog is at the top.", 1, True),
        ("The target is in the 2nd image, at the left, unlike in the first image.", 1, False),
        ("The cup of the 2nd image is gone. In the first image it is at the left.", 1, True),
        ("The cup of the 2nd image is gone. In the first image it is at the left.", 0, False),
        ("In the first picture it is at the left.", 1, True),
        ("In photo 2 it is at the left, in photo 3 it is hidden.", 1, False),
        ("It is only visible in the last image.", 2, False),
        ("It is only visible in the last image.", 0, True),
        ("Find it in the second image. It is in the third image.", 1, True),
        ("In the seventh image it is at the left, in image 2 too.", 1, True),  # there is none
        ("All images share a cup. In image-2, between the plates, stands the cup.", 1, False),
        ("Frame 1 and frame 2 show the car; it moves. In frame 2 it is at the right.", 1, False),
    ],
)
def test_another_image_named_as_the_targets(text: str, target: int, wrong: bool) -> None:
    found = reasoning.wrong_image(text, target=target, num_images=3)
    assert (found is not None) is wrong, found
    assert reasoning.wrong_image(text, target=0, num_images=1) is None


# Good and bad chains of scenes.

TASKS = ("referring", "phrases", "diff", "common_object", "object_tracking", "multi_view", "region")
TASKS += ("refer_grounding", "group_grounding", "video")
PER_TASK, N = 50, 3


def told(sample: Sample, number: int, text: str) -> TeacherCall:
    sizes = tuple(EncodedSize(*(each.width, each.height) * 2) for each in sample.images)
    return answered(sample.id, text, sizes, number=number)


@pytest.mark.parametrize("seed", [0, 1])
def test_every_fault_is_caught_with_its_reason_and_good_chains_are_kept(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    samples = [synth.sample(task, seed=seed, index=n) for task in TASKS for n in range(PER_TASK)]
    expected: dict[int, Rejection | None] = {}
    with Store.create(tmp_path / "c.db", samples, data="scenes") as store:
        with store.together():
            for sample in samples:
                for number in range(N):
                    text = chain(sample, number)
                    reason = _fault(rng)
                    if reason is Rejection.WRONG_IMAGE and len(sample.images) == 1:
                        reason = None
                    text = FAULTS[reason](sample, text, rng) if reason else text
                    expected[store.add_call(told(sample, number, text))] = reason
        counts = verify(store, Verify())
        items = list(store.entries())
    verdicts = [each.finding for item in items for each in item.chains]
    assert counts.total() == len(verdicts) == N * len(samples)
    wrong = [(v, expected[v.call]) for v in verdicts if v and v.reason != expected[v.call]]
    assert wrong == []  # also of the good ones, of which fewer than 1 % may be rejected
    injected = Counter(reason for reason in expected.values() if reason)
    assert set(injected) == set(FAULTS) and min(injected.values()) > 0.02 * len(expected)


def _fault(rng: random.Random) -> Rejection | None:
    """Each fault for 5 % of the chains, none for the others."""
    kinds = list(FAULTS)
    place = rng.random() / 0.05
    return kinds[int(place)] if place < len(kinds) else None


@pytest.mark.parametrize("task", synth.TASKS)
def test_scenes_of_every_task_bring_good_chains(task: str) -> None:
    for index in range(30):
        sample = synth.sample(task, seed=3, index=index)
        call = told(sample, 0, chain(sample, index % 12))
        assert finding_on(call, sample, Verify()).ok, call.text


LOGS = Path(__file__).parents[1] / "../shared/data/rec_logs"


@pytest.mark.skipif(not LOGS.is_dir(), reason="needs the real logs in ../shared/data/rec_logs")
def test_hardly_any_thought_of_real_models_that_were_told_nothing_is_taken_for_a_leak() -> None:
    thoughts = [
        (row["question"], found[1])
        for path in sorted(LOGS.glob("*r1_*.json"))
        for row in json.loads(path.read_text())["results"]
        if (found := re.search("<think>(.*?)</think>", str(row["model_output"]), re.DOTALL))
    ]
    leaks = Counter(reasoning.leak(text, question=question) for question, text in thoughts)
    looped = [text for _, text in thoughts if reasoning.repetition(text, most=0.5)]
    assert len(thoughts) > 2000 and looped == []
    assert set(leaks) <= {None, "given coordinates"} and leaks[None] > 0.99 * len(thoughts)


# The stage.


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store.create(tmp_path / "c.db", [SAMPLE], data="x")
    for number, text in enumerate([GOOD, GOOD.replace("500", "430"), "no"]):
        made.add_call(told(SAMPLE, number, text))
    return made


def test_only_chains_without_a_verdict_are_judged(store: Store) -> None:
    assert verify(store, Verify()) == {"ok": 2, "form": 1}
    assert verify(store, Verify()) == {}
    store.add_call(told(SAMPLE, 3, GOOD))
    assert verify(store, Verify(min_iou=0.99)) == {"ok": 1}
    assert verify(store, Verify(min_iou=0.99), again=True) == {"ok": 2, "form": 1, "wrong_box": 1}


def test_a_pick_that_is_verified_no_more_is_taken_back(store: Store) -> None:
    verify(store, Verify())
    second = store.entry("s").chains[1].call.id
    store.set_pick(Pick(sample="s", call=second, rule="judge"))
    verify(store, Verify(), again=True)
    assert store.entry("s").pick is not None
    verify(store, Verify(min_iou=0.9), again=True)
    assert store.entry("s").pick is None


def test_failed_calls_and_those_of_a_judge_are_no_chains(tmp_path: Path) -> None:
    with Store.create(tmp_path / "d.db", [SAMPLE], data="x") as store:
        for stage, state in (("ask", "failed"), ("judge", "answered")):
            store.add_call(
                TeacherCall(
                    sample="s",
                    stage=stage,  # type: ignore[arg-type]
                    number=0,
                    model="m",
                    prompt_sha256="p",
                    state=state,  # type: ignore[arg-type]
                )
            )
        with pytest.raises(RunError, match="holds no chain yet"):
            verify(store, Verify())


# Any text.

PIECES = st.sampled_from(
    ("<think>", "</think>", "<answer>", "</answer>", "(10,20),", "(", "9" * 30, "image 2", ". ")
) | st.sampled_from(
    ("the first image", "ground truth", "given the box", "none", "\n", "\0", "x=", "²", "١٢", "İ")
)


@given(st.lists(PIECES | st.text(max_size=5), max_size=30).map("".join), st.integers(1, 3))
def test_any_text_gets_a_verdict(text: str, num_images: int) -> None:
    sample = Sample("s", (IMAGE,) * num_images, text, SAMPLE.targets, "t")
    for written in (text, thought(text.replace("<", "")), f"<think>{text}"):
        verdict = judged(written, sample)
        assert verdict.ok is (verdict.reason is None)
        assert len(verdict.detail) < 200


HOSTILE = ("(", "1", "1 ", "1, ", "(1,", "a", "a ", "a. ", "as given ", "given x ", "image 2 ")
HOSTILE += ("the answer is ", "x", "x=", "known coordinates ", "'", "the box that is ", "<", "\n")
HOSTILE += ("it is x in the y ", "a'", "1.", "12.5,", "as given in the ", "a b c d e f g h i. ")
CHECKS: Sequence[Callable[[str], object]] = (
    lambda text: reasoning.repetition(text, most=1.0),
    lambda text: reasoning.leak(text, question="known coordinates as given"),
    lambda text: reasoning.coordinates(text, question="1 12.5", truth=SAMPLE.boxes, size=SIZE),
    lambda text: reasoning.wrong_image(text, target=0, num_images=2),
)


def seconds(check: Callable[[str], object], text: str) -> float:
    times = []
    gc.disable()
    try:
        for _ in range(2):
            start = time.process_time()
            check(text)
            times.append(time.process_time() - start)
    finally:
        gc.enable()
    return min(times)


@pytest.mark.parametrize("piece", HOSTILE)
def test_every_check_takes_time_linear_in_the_text(piece: str) -> None:
    for check in CHECKS:
        short, long = (seconds(check, piece * (n // len(piece))) for n in (12_000, 48_000))
        assert long < 8 * short + 0.02
