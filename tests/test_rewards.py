from __future__ import annotations

import random

import pytest

from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import Sample
from reground.protocols.protocol import AnswerProtocol, get_protocol
from reground.tinyworld import scenes as synth
from reground.training.rewards import Score, score
from reground.training.settings import Grpo

FAMILY = get_protocol("univg_r1")
SAMPLES_PER_TASK = 20


def encoded(sample: Sample) -> EncodedSize:
    """The target image as an encoder with sides of 28 pixels records it."""
    image = sample.images[sample.target_image]
    sides = (max(28, 28 * round(side / 28)) for side in (image.width, image.height))
    return EncodedSize(image.width, image.height, *sides)


def gold(sample: Sample, family: AnswerProtocol = FAMILY) -> str:
    return family.render(sample.boxes, size=encoded(sample), think=sample.think)


def scored(text: str, sample: Sample, settings: Grpo | None = None) -> Score:
    size = encoded(sample)
    answer = FAMILY.read(text, size)
    return score(text, answer, sample, settings or Grpo(), codec=FAMILY.codec, size=size)


def moved(sample: Sample, boxes: list[list[int]]) -> str:
    """An answer of the right form with these boxes, 0-1000."""
    pairs = "\n".join("({},{}),({},{})".format(*box) for box in boxes) or "none"
    return f"<think>{sample.think}</think><answer>{pairs}</answer>"


def gold_boxes(sample: Sample) -> list[list[int]]:
    """The true boxes, 0-1000, rounded to whole numbers by the reader's own frame."""
    frame = encoded(sample).frame(FAMILY.codec.frame)
    return [[round(edge) for edge in box.to(frame).xyxy] for box in sample.boxes]


@pytest.mark.parametrize("task", synth.TASKS)
def test_the_gold_answer_scores_the_maximum(task: str) -> None:
    """Invariant 5: full marks, but for what whole numbers of 0-1000 cannot say."""
    for index in range(SAMPLES_PER_TASK):
        sample = synth.sample(task, seed=5, index=index)
        best = scored(gold(sample), sample)
        assert best.terms["format"] == 1
        assert best.terms["iou"] >= rounding_bound(sample) > 0.8, sample.id
        assert best.total == best.terms["iou"] + 1
        for text in worse_answers(sample, random.Random(index)):
            assert scored(text, sample).total < best.total, (sample.id, text)


def rounding_bound(sample: Sample) -> float:
    """The least IoU that edges off by half a unit each can leave."""
    frame = encoded(sample).frame(FAMILY.codec.frame)
    sides = [(b.x2 - b.x1, b.y2 - b.y1) for b in (box.to(frame) for box in sample.boxes)]
    return min(((w - 1) * (h - 1) / (w * h) for w, h in sides), default=1.0)


def worse_answers(sample: Sample, rng: random.Random) -> list[str]:
    """The gold answer with one thing wrong: boxes shifted, one added or lost, or the form."""
    boxes, text = gold_boxes(sample), gold(sample)
    shifted = [[max(0, edge - 15) for edge in box] for box in boxes]
    left, upper = rng.randrange(400), rng.randrange(400)
    stranger = [left, upper, left + 80, upper + 80]
    worse = [
        moved(sample, [*boxes, stranger]),
        text.replace("<think>", "").replace("</think>", ""),
        text.replace("</answer>", ""),
        text.removesuffix("</answer>").rpartition(",")[0],
        text + " That is it.",
        text.partition("<answer>")[2].removesuffix("</answer>"),
    ]
    if boxes:
        worse += [moved(sample, shifted), moved(sample, boxes[1:])]
    return worse


@pytest.mark.parametrize("family", ["univg_r1", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_gold_is_gold_in_every_family(family: str) -> None:
    own = get_protocol(family, "direct")
    for task in synth.TASKS:
        sample = synth.sample(task, seed=5, index=0)
        size = encoded(sample)
        text = gold(sample, own)
        answer = own.read(text, size)
        found = score(text, answer, sample, Grpo(), codec=own.codec, size=size)
        assert found.terms["format"] == 1
        assert found.terms["iou"] > 0.75, (family, sample.id)  # 112 pixels are few integers


EXAMPLE = synth.sample("referring@2-2", seed=0, index=0)
BOX = gold_boxes(EXAMPLE)[0]
PAIR = "({},{}),({},{})".format(*BOX)
TWISTED = "({2},{3}),({0},{1})".format(*BOX)


@pytest.mark.parametrize(
    ("text", "iou", "well_formed"),
    [
        (f"<think>x</think><answer>{PAIR}</answer>", 1, 1),
        ("<think>x</think><answer>(0,0),(1,1)</answer>", 0, 1),  # wrong box, right form
        (f"<answer>{PAIR}</answer>", 1, 0),  # right box, no thought
        (f"<think>x</think>{PAIR}", 0, 0),  # right box outside the answer
        (f"<think>{PAIR}</think><answer>(0,0),(1,1)</answer>", 0, 1),  # a thought is no answer
        (f"<think>x</think><answer>{TWISTED}</answer>", 0, 1),  # corners in the wrong order
        ("<think>x</think><answer>(0,0),(2000,2000)</answer>", 0, 1),  # out of bounds
        ("<think>x</think><answer>none</answer>", 0, 1),  # there is one
        ("<think>x</think><answer>left</answer>", 0, 0),  # no box
        ("", 0, 0),
    ],
)
def test_place_and_form_are_told_apart(text: str, iou: float, well_formed: float) -> None:
    found = scored(text, EXAMPLE)
    assert found.terms["iou"] == pytest.approx(iou, abs=0.05)
    assert found.terms["format"] == well_formed


def test_a_half_right_box_earns_its_overlap() -> None:
    left, upper, right, lower = BOX
    text = moved(EXAMPLE, [[left, upper, right, (upper + lower) // 2]])
    assert scored(text, EXAMPLE).terms["iou"] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("iou_reward", "format_reward"), [(1, 1), (2, 0.5), (0, 1), (1, 0)])
def test_the_total_is_the_weighted_sum(iou_reward: float, format_reward: float) -> None:
    settings = Grpo(iou_reward=iou_reward, format_reward=format_reward)
    found = scored(f"<think>x</think><answer>{PAIR}</answer>", EXAMPLE, settings)
    want = iou_reward * found.terms["iou"] + format_reward * found.terms["format"]
    assert found.total == pytest.approx(want)
