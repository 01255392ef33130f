from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reground.config import config, load
from reground.errors import ConfigError, UserError
from reground.grounding.boxes import THOUSAND, Box
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import Sample, Target
from reground.model.chat import EncodedImage, Prompt
from reground.protocols.protocol import AnswerProtocol, get_protocol
from reground.rollout.episode import RolloutStatus, Trajectory, Turn
from reground.tinyworld import scenes as synth
from reground.training.rewards import (
    Format,
    Giou,
    ImageIndex,
    Iou,
    IouSquared,
    IouThreshold,
    Length,
    OwnReward,
    Rewards,
    RewardSettings,
    Scored,
)

FAMILY = get_protocol("univg_r1")
SAMPLES_PER_TASK = 20
BLANK = EncodedImage(torch.zeros(0), (1, 2, 2), EncodedSize(28, 28, 28, 28))


def encoded(sample: Sample) -> EncodedSize:
    """The target image as an encoder with sides of 28 pixels records it."""
    image = sample.images[sample.target_image]
    sides = (max(28, 28 * round(side / 28)) for side in (image.width, image.height))
    return EncodedSize(image.width, image.height, *sides)


def gold(sample: Sample, family: AnswerProtocol = FAMILY) -> str:
    return family.render(sample.boxes, size=encoded(sample), think=sample.think)


def scored(
    text: str,
    sample: Sample,
    *rewards: RewardSettings,
    family: AnswerProtocol = FAMILY,
    num_sampled: int = 1,
) -> Scored:
    """What a trajectory with this text earns; IoU and form unless other rewards are given."""
    images = tuple(replace(BLANK, size=encoded(sample)) for _ in sample.images)
    turn = Turn((1,) * num_sampled, (0.0,) * num_sampled)
    trajectory = Trajectory(
        sample, Prompt((), images), (turn,), RolloutStatus.COMPLETED, text=text, protocol=family
    )
    answer = family.read(text, encoded(sample))
    return Rewards(rewards or (Iou(), Format())).score(trajectory, answer)


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
        assert best.reward == best.terms["iou"] + 1
        for text in worse_answers(sample, random.Random(index)):
            assert scored(text, sample).reward < best.reward, (sample.id, text)


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
        found = scored(gold(sample, own), sample, family=own)
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


@pytest.mark.parametrize(("iou", "form"), [(1, 1), (2, 0.5), (0, 1), (1, 0)])
def test_the_reward_is_the_weighted_sum(iou: float, form: float) -> None:
    text = f"<think>x</think><answer>{PAIR}</answer>"
    found = scored(text, EXAMPLE, Iou(weight=iou), Format(weight=form))
    assert found.reward == pytest.approx(iou * found.terms["iou"] + form * found.terms["format"])


def answered(box: list[int]) -> str:
    return moved(EXAMPLE, [box])


@pytest.mark.parametrize(
    ("reward", "box", "value"),
    [
        # EXAMPLE's box is BOX; its upper half overlaps by a half, one beside it by nothing.
        (IouThreshold(threshold=0.4), "half", 1),
        (IouThreshold(threshold=0.6), "half", 0),
        (IouSquared(), "half", 0.25),
        (Giou(), "same", 1),
        (Giou(), "half", 0.75),  # the hull is the true box: GIoU is the IoU
        (ImageIndex(), "half", 1),
        (Format(), "half", 1),
    ],
)
def test_rewards_by_hand(reward: RewardSettings, box: str, value: float) -> None:
    left, upper, right, lower = BOX
    boxes = {"same": BOX, "half": [left, upper, right, (upper + lower) // 2]}
    found = scored(answered(boxes[box]), EXAMPLE, reward)
    assert found.terms[reward.name] == pytest.approx(value, abs=0.04)
    assert found.iou == pytest.approx(1 if box == "same" else 0.5, abs=0.04), "whatever is asked"


@pytest.mark.parametrize(
    "reward",
    [Iou(), IouThreshold(), IouSquared(), Giou(), ImageIndex()],
    ids=lambda each: each.name,
)
def test_what_is_no_answer_earns_nothing(reward: RewardSettings) -> None:
    assert scored("left", EXAMPLE, reward).reward == 0


def test_a_near_miss_earns_more_giou_than_a_far_one() -> None:
    near, far = ([x, 0, x + 50, 50] for x in (100, 800))
    target = replace(EXAMPLE, targets=(Target(0, _pixels([0, 0, 50, 50])),))
    first, second = (scored(moved(target, [box]), target, Giou()).reward for box in (near, far))
    assert 0.5 > first > second > 0


def _pixels(box: list[int]) -> Box:
    image = EXAMPLE.images[0]
    return Box(*box, THOUSAND).to(image.frame)


@pytest.mark.parametrize(
    ("num_sampled", "value"), [(1, 0), (80, 0), (90, -0.5), (100, -1), (150, -1)]
)
def test_long_responses_are_punished_softly(num_sampled: int, value: float) -> None:
    reward = Length(limit=100, buffer=20)
    assert scored("x", EXAMPLE, reward, num_sampled=num_sampled).reward == pytest.approx(value)


# ---- a user's own ------------------------------------------------------------------------------

OWN = """
def centre(answer, sample, trajectory):
    (box,), (true,) = answer.boxes, sample.boxes
    return float(abs(box.x1 + box.x2 - true.x1 - true.x2) < 10)

def breaks(answer, sample, trajectory):
    return 1 / 0

def nothing(answer, sample, trajectory):
    return float("nan")

number = 3
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "my_rewards.py"
    path.write_text(OWN)
    return path


def test_a_users_own_reward_is_a_function_in_a_file(own: Path) -> None:
    config = load(
        Section, None, [f"rewards=[{{type: iou}}, {{path: '{own}:centre', weight: 0.5}}]"]
    )
    found = scored(answered(BOX), EXAMPLE, *config.rewards)
    assert found.terms["centre"] == 1
    assert found.reward == pytest.approx(found.iou + 0.5)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nowhere", "holds no 'nowhere'"),
        ("number", "is no function"),
        ("breaks", f"failed for sample {EXAMPLE.id} .ZeroDivisionError"),
        ("nothing", f"gave nan for sample {EXAMPLE.id}"),
    ],
)
def test_what_is_wrong_with_a_users_own_is_one_sentence(own: Path, name: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as raised:
        scored(answered(BOX), EXAMPLE, OwnReward(path=f"{own}:{name}"))
    assert str(own) in str(raised.value) and "\n" not in str(raised.value)


@config
class Section:
    rewards: tuple[RewardSettings, ...] = (Iou(),)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("[{type: iuo}]", "iuo"),
        ("[{type: iou, weight: -1}]", "weight"),
        ("[{type: iou, threshold: 0.5}]", "threshold"),
        ("[{type: iou_threshold, threshold: 1.5}]", "threshold"),
        ("[{type: length, limit: 10, buffer: 20}]", "buffer 20 is above limit 10"),
        ("[{weight: 1}]", "rewards"),
    ],
)
def test_rewards_that_do_not_fit_are_one_sentence(override: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as raised:
        load(Section, None, [f"rewards={override}"])
    assert "\n" not in str(raised.value)
