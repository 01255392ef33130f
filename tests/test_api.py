"""Grounding in Python, with and without a detector."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from reground.api import Grounder, GroundingRequest
from reground.errors import ConfigError, DataError
from reground.grounding.answers import Status
from reground.grounding.boxes import iou
from reground.model.forward import shared_logprobs
from reground.protocols.calls import CALL
from reground.tinyworld import scenes as synth
from reground.training.packing import TrainGroup, TrainSequence, collate
from scripted import ScriptedPolicy

SAMPLE = synth.sample("referring", seed=3, index=1)
IMAGE = synth.render(SAMPLE.images[0].path)
BOX = SAMPLE.boxes[0].xyxy


def test_an_answer_without_a_detector(tiny: Grounder) -> None:
    found = tiny.ground([IMAGE], SAMPLE.question)
    assert (found.answer.status, found.image, found.tool) == (Status.OK, 0, None)
    assert iou(found.answer.boxes[0], SAMPLE.boxes[0]) > 0.5


def test_a_score_is_the_probability_that_the_model_gives_the_boxes_numbers(tiny: Grounder) -> None:
    """Read again, with all words at once, the model finds its numbers as probable."""
    found = tiny.ground([IMAGE], SAMPLE.question)
    chat = tiny.prompter.checkpoint.chat
    ids = [*chat.encode(found.text), chat.end_id]
    prompt = tiny.prompter.prompts([SAMPLE], images=[IMAGE])[0]
    group = TrainGroup(prompt, (TrainSequence(tuple(ids), (1.0,) * len(ids)),))
    batch = collate([group], pad_id=chat.pad_id, device=torch.device("cpu")).batch
    with torch.no_grad():
        logprobs = shared_logprobs(
            tiny.prompter.checkpoint.model, batch, banned_ids=chat.banned_ids
        ).tolist()
    own = [
        logprob
        for id, logprob in zip(ids, logprobs, strict=True)
        if any(map(str.isdigit, chat.decode([id])))
    ]
    assert found.scores == pytest.approx([math.exp(sum(own) / len(own))], rel=1e-4)


def test_a_box_at_hand_is_given_back_beside_the_answer(tiny: Grounder) -> None:
    """The model thinks, is told the box in its own frame, and answers with what it makes of it."""
    refiner = tiny.under("think_rethink")
    said = [f"<think>here.</think>{CALL}", "<answer>(0,0),(500,500)</answer>"]
    told: list[str] = []

    def later(text: str, number: int) -> str:
        told.append(text)
        return f"<rethink>too small.</rethink>{said[1]}"

    policy = ScriptedPolicy(tiny.prompter.checkpoint.chat, lambda prompt, number: said[0], later)
    grounder = Grounder(refiner.prompter, policy)
    found = grounder.ground([IMAGE], SAMPLE.question, tool=[(11.2, 0, 56, 112)])
    assert '{"reftool_1": "(100,0),(500,1000)"}' in told[0]
    assert [each.box.xyxy for each in found.tool or ()] == [(11.2, 0, 56, 112)]
    assert [box.xyxy for box in found.answer.boxes] == [(0, 0, 56, 56)]
    assert (found.answer.think, found.answer.rethink) == ("here.", "too small.")


def test_piter_shows_the_box_with_the_question(tiny: Grounder) -> None:
    shown = tiny.under("piter")
    assert shown.protocol.shows_tool and not tiny.protocol.shows_tool
    asked = []

    def answers(prompt: object, number: int) -> str:
        asked.append(shown.prompter.checkpoint.chat.decode(prompt.ids))  # type: ignore[attr-defined]
        return '[{"bbox_2d": [0, 0, 500, 500]}]'

    grounder = Grounder(shown.prompter, ScriptedPolicy(shown.prompter.checkpoint.chat, answers))
    found = grounder.ground([IMAGE], SAMPLE.question, tool=[(11.2, 0, 56, 112)])
    assert '{"bbox_2d": [100, 0, 500, 1000]}' in asked[0]
    assert found.answer.status is Status.OK


@pytest.mark.parametrize(
    ("tool", "problem"),
    [
        ([(1, 2, 3)], r"found the box \(1, 2, 3\), expected \[x1, y1, x2, y2\] in pixels"),
        ([(1, 2, 3, float("nan"))], r"found the box"),
        ("http://127.0.0.1:9/none", r"tool http.*: "),
    ],
)
def test_a_tool_without_a_box_is_an_error(tiny: Grounder, tool: object, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        tiny.under("piter").ground([IMAGE], SAMPLE.question, tool=tool)  # type: ignore[arg-type]


def test_a_model_that_would_not_see_the_box_is_refused(tiny: Grounder) -> None:
    with pytest.raises(ConfigError, match="protocol think does not show a tool's boxes"):
        tiny.ground([IMAGE], SAMPLE.question, tool=[BOX])


def test_bad_images_are_errors(tiny: Grounder, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such image"):
        tiny.ground([tmp_path / "gone.png"], "the cup")
    with pytest.raises(DataError, match="found image 3 of 1 images"):
        tiny.ground([IMAGE], "the cup", target_image=3)
    with pytest.raises(DataError, match="found an empty text"):
        tiny.ground([IMAGE], " ")


def test_a_batch_answers_as_one_by_one(tiny: Grounder) -> None:
    """Each under its own protocol, about its own images."""
    asked = [synth.sample("referring", seed=3, index=index) for index in range(4)]
    requests = [
        GroundingRequest(
            images=[synth.render(each.images[0].path)],
            text=each.question,
            protocol="think" if place % 2 else None,
        )
        for place, each in enumerate(asked)
    ]
    together = tiny.ground_batch(requests)
    thinker = tiny.under("think")
    for place, (found, request) in enumerate(zip(together, requests, strict=True)):
        alone = (thinker if place % 2 else tiny).ground(request.images, request.text)
        assert (found.text, found.answer, found.image) == (alone.text, alone.answer, alone.image)
        assert found.scores == pytest.approx(alone.scores, rel=1e-4)
