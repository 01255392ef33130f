"""A closer look in the middle of a rollout: what is told, and that training sees what was seen."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from files import read_rows
from made import prompter_of
from reground.data.images import load
from reground.data.source import save_dataset
from reground.grounding.boxes import Box
from reground.grounding.codecs import Codec, EncodedSize
from reground.grounding.sample import Detection, ImageRef, Sample
from reground.model.chat import EncodedImage, Prompt
from reground.model.forward import shared_logprobs
from reground.model.load import Checkpoint
from reground.model.prompting import Prompter
from reground.protocols.calls import CALL, Call, read_call
from reground.protocols.protocol import get_protocol
from reground.rollout.environment import PlannedEnvironment, Start, Zoom
from reground.rollout.episode import RolloutStatus, Trajectory, roll_out
from reground.rollout.policy import Policy, Sampling
from reground.rollout.transformers_policy import TransformersPolicy
from reground.tinyworld import models as tiny
from reground.tinyworld import scenes as synth
from reground.training.packing import TrainGroup, TrainSequence, collate
from scripted import ScriptedPolicy
from worlds import World, column

FAMILY = get_protocol("qwen3_vl", "think_rethink")
LIMIT = Sampling(max_tokens=600)
FINAL = '<rethink>larger.</rethink>\n<answer>[{"bbox_2d": [100, 200, 500, 1000]}]</answer>'


def zoom(arguments: str) -> str:
    return f"<think>too small.</think>\n<function>\nzoom_in({arguments})\n</function>"


@pytest.fixture(scope="module")
def prompter(tokenizer: Any) -> Prompter:
    checkpoint = tiny.make("qwen3_vl", tokenizer=tokenizer)
    return asking(checkpoint)


def asking(checkpoint: Checkpoint, *, zoom: bool = True, max_calls: int = 3) -> Prompter:
    how = {"prompt": "tiny_refiner", "zoom": zoom, "max_calls": max_calls}
    return prompter_of(checkpoint, "qwen3_vl", "think_rethink", **how)


def start_of(prompter: Prompter, index: int = 0) -> Start:
    """A scene of 112 x 112 pixels with one box of a detector."""
    sample = asked(synth.sample("referring", seed=0, index=index))
    return Start(sample, prompter.prompt(sample))


def says(prompter: Prompter, *turns: str) -> ScriptedPolicy:
    """A policy that says one text in each turn."""

    def next_turn(before: str, number: int) -> str:
        return turns[before.count("<tool>")]

    return ScriptedPolicy(prompter.checkpoint.chat, lambda prompt, number: turns[0], next_turn)


def rolled(
    prompter: Prompter, *turns: str, zooms: bool = True, max_calls: int = 3
) -> tuple[Trajectory, PlannedEnvironment]:
    prompter = asking(prompter.checkpoint, zoom=zooms, max_calls=max_calls)
    own = PlannedEnvironment(prompter)
    policy = says(prompter, *turns)
    ((rollout,),) = roll_out(policy, own, [start_of(prompter)], n=1, sampling=LIMIT)
    return rollout, own


@pytest.mark.parametrize(
    ("text", "call"),
    [
        (CALL, Call("get_extra_ref_result")),
        ("<function>zoom_in(1,2.5, 30 ,-4)</function>", Call("zoom_in", (1, 2.5, 30, -4))),
        ("<function>\n zoom_in ( 1, 2, 3 )\n</function>\n", Call("zoom_in", (1, 2, 3))),
        (f"{CALL}<tool></tool><function>zoom_in(1)</function>", Call("zoom_in", (1,))),
        (f"<think>never closed {CALL}", Call("get_extra_ref_result")),
        ("<function>zoom_in(left, 2, 3, 4)</function>", Call("zoom_in", None)),
        ("<function>zoom_in(1, 2, 3,)</function>", Call("zoom_in", None)),
        ("<function>zoom_in(1, 2, nan, 1e9)</function>", Call("zoom_in", None)),
        ("<function>rm -rf</function>", None),
        ("<function>zoom_in(1, 2, 3, 4)", None),
        ("no call at all", None),
    ],
)
def test_the_last_call_is_read(text: str, call: Call | None) -> None:
    assert read_call(text) == call


def test_a_rollout_looks_closer_and_answers_about_the_whole_image(prompter: Prompter) -> None:
    rollout, own = rolled(prompter, zoom("250, 250, 500, 750"), CALL, FINAL)
    chat, start = prompter.checkpoint.chat, start_of(prompter)
    (part,) = rollout.images
    crop = load(start.sample.images[0]).crop((28, 28, 56, 84))
    (expected,) = chat.encode_images([crop])
    assert (part.size, part.grid) == (expected.size, expected.grid)
    assert torch.equal(part.pixel_values, expected.pixel_values)
    told = rollout.turns[1]
    text = chat.decode(told.ids)
    pads = "<|image_pad|>" * (math.prod(part.grid) // 4)
    assert text == f"\n<tool><|vision_start|>{pads}<|vision_end|></tool>\n"
    assert (told.logprobs, told.images) == (None, (part,))
    assert rollout.status is RolloutStatus.COMPLETED
    assert (own.counts()["zoomed"], own.counts()["refused"]) == (1, 0)
    answer = prompter.read(rollout.ids, start.prompt, sample=start.sample)
    assert [box.xyxy for box in answer.boxes] == [pytest.approx((11.2, 22.4, 56, 112))]


def test_it_looks_at_what_was_shown(prompter: Prompter) -> None:
    """A picture in memory, or a grey one of `--blank`, and not the file that the sample names."""
    sample = replace(start_of(prompter).sample, id="gone")
    ref = sample.images[0]
    sample = replace(sample, images=(replace(ref, path="/no/such/file.png"),))
    red = Image.new("RGB", (ref.width, ref.height), "red")
    (prompt,) = prompter.prompts([sample], images=[red])
    zoom = Zoom(prompter.checkpoint.chat)
    part = zoom.look(Start(sample, prompt), (250, 250, 500, 750), prompter.protocol(sample).codec)
    assert isinstance(part, EncodedImage)
    (expected,) = prompter.checkpoint.chat.encode_images([red.crop((28, 28, 56, 84))])
    assert torch.equal(part.pixel_values, expected.pixel_values)


NO_FUNCTION = "unknown function; known: get_extra_ref_result() and zoom_in(x1, y1, x2, y2)"
WRONG = "wrong arguments; expected zoom_in(x1, y1, x2, y2)"


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("zoom_out(1, 2, 3, 4)", NO_FUNCTION),
        ("</tool><answer>[]</answer>", NO_FUNCTION),
        ("get_extra_ref_result(1)", "wrong arguments; expected get_extra_ref_result()"),
        ("zoom_in()", WRONG),
        ("zoom_in(1, 2, 3)", WRONG),
        ("zoom_in(1, 2, 3, 4, 5)", WRONG),
        ("zoom_in(a, b, c, d)", WRONG),
        ("zoom_in(500, 100, 500, 200)", "the box has no area"),
        ("zoom_in(500, 100, 100, 200)", "the box has no area"),
        ("zoom_in(0, 0, 1020, 500)", "the box reaches outside the image"),
        (f"zoom_in(0, 0, {'9' * 400}, 500)", "a box needs finite numbers"),
    ],
)
def test_a_call_that_nothing_can_answer_is_told_why(
    prompter: Prompter, said: str, problem: str
) -> None:
    rollout, own = rolled(prompter, f"<think></think><function>{said}</function>", FINAL)
    text = prompter.checkpoint.chat.decode(rollout.turns[1].ids)
    inside = text.strip().removeprefix("<tool>").removesuffix("</tool>")
    assert json.loads(inside) == {"error": problem}
    assert rollout.images == ()
    assert rollout.status is RolloutStatus.COMPLETED  # no tool has failed
    assert (own.counts()["refused"], own.counts()["zoomed"]) == (1, 0)


def test_a_part_that_no_processor_takes_is_refused(prompter: Prompter, tmp_path: Path) -> None:
    Image.new("RGB", (900, 90)).save(tmp_path / "wide.png")
    wide = ImageRef(str(tmp_path / "wide.png"), 900, 90)
    sample = replace(start_of(prompter).sample, images=(wide,), targets=(), tool_results=None)
    start, own = Start(sample, prompter.prompt(sample)), Zoom(prompter.checkpoint.chat)
    assert own.look(start, (0, 500, 1000, 501), FAMILY.codec) == "the box is too thin"
    assert isinstance(own.look(start, (0, 500, 100, 501), FAMILY.codec), EncodedImage)


def test_without_zoom_there_is_no_such_function(prompter: Prompter) -> None:
    rollout, own = rolled(prompter, zoom("0, 0, 500, 500"), FINAL, zooms=False)
    assert "known: get_extra_ref_result()" in prompter.checkpoint.chat.decode(rollout.ids)
    assert "zoom_in" not in prompter.checkpoint.chat.decode(rollout.turns[1].ids)
    assert (rollout.images, own.counts()["refused"]) == ((), 1)


def test_calls_of_both_kinds_are_limited_together(prompter: Prompter) -> None:
    twice = [zoom("0, 0, 500, 500"), zoom("500, 500, 1000, 1000"), zoom("0, 0, 10, 10")]
    rollout, own = rolled(prompter, *twice, max_calls=2)
    assert len(rollout.images) == own.counts()["zoomed"] == 2


@given(st.lists(st.floats(allow_nan=True) | st.floats(-20, 1020), min_size=4, max_size=4))
def test_no_box_breaks_the_zoom(prompter: Prompter, numbers: list[float]) -> None:
    start = start_of(prompter)
    found = Zoom(prompter.checkpoint.chat).look(start, numbers, FAMILY.codec)
    if isinstance(found, EncodedImage):
        x1, y1, x2, y2 = (min(max(number, 0), 1000) * 0.112 for number in numbers)
        assert 0 <= found.size.width - (x2 - x1) < 2
        assert 0 <= found.size.height - (y2 - y1) < 2
    else:
        assert "box" in found


def test_what_a_tool_shows_is_never_the_answer(prompter: Prompter) -> None:
    size = start_of(prompter).prompt.images[0].size
    chat = prompter.checkpoint.chat
    with_part, _ = rolled(prompter, zoom("0, 0, 500, 500"), FINAL)
    texts = [chat.decode(turn.ids) for turn in with_part.turns]
    assert FAMILY.read("".join(texts), size) == FAMILY.read(texts[0] + texts[2], size)


@pytest.mark.parametrize("architecture", get_args(tiny.Architecture))
def test_log_probs_behind_a_part_are_those_of_the_trainer(
    tokenizer: Any, architecture: tiny.Architecture
) -> None:
    checkpoint = tiny.make(architecture, tokenizer=tokenizer)
    prompter = asking(checkpoint)
    chat, starts = checkpoint.chat, [start_of(prompter, 0), start_of(prompter, 1)]

    def first(prompt: Prompt, number: int) -> str:
        return (zoom("250, 250, 500, 750"), CALL, zoom("0, 0, 900, 300"))[number]

    own = PlannedEnvironment(asking(checkpoint, max_calls=1))
    policy = Begun(ScriptedPolicy(chat, first), TransformersPolicy(checkpoint))
    sampling = Sampling(temperature=0.8, max_tokens=60)
    groups = roll_out(policy, own, starts, n=3, sampling=sampling)
    assert [[len(each.images) for each in group] for group in groups] == [[1, 0, 1]] * 2
    sampled = [each.turns[2].logprobs or () for group in groups for each in group]
    assert all(sampled)
    packed = [
        TrainGroup(
            start.prompt,
            tuple(map(last_turn, own)),
        )
        for start, own in zip(starts, groups, strict=True)
    ]
    batch = collate(packed, pad_id=chat.pad_id, device=torch.device("cpu")).batch
    with torch.no_grad():
        trained = shared_logprobs(
            checkpoint.model, batch, temperature=0.8, banned_ids=chat.banned_ids
        )
    assert trained.tolist() == pytest.approx([p for own in sampled for p in own], abs=1e-5)


def last_turn(own: Trajectory) -> TrainSequence:
    """The trajectory with a weight on its last turn alone."""
    count = len(own.turns[-1].ids)
    weights = (0.0,) * (len(own.ids) - count) + (1.0,) * count
    return TrainSequence(own.ids, weights, own.images)


def test_a_step_of_training_on_a_rollout_that_looked_closer(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The crop's own pixels get a gradient, so that a vision tower in training learns from it."""
    sample = asked(synth.sample("referring@1-2", seed=0, index=0))
    data = tmp_path / "one.jsonl"
    save_dataset(data, [sample])
    gold = FAMILY.render(sample.boxes, size=size_of(sample))
    answers = [gold.removeprefix("<think></think>"), "<answer>[]</answer>"]
    first = [zoom("0, 0, 600, 600"), zoom("9, 9, 1, 1"), CALL, "nothing"]

    def begun(checkpoint: Checkpoint, *_: Any) -> Policy:
        return Idle(
            checkpoint.chat,
            lambda prompt, number: first[number],
            lambda text, number: answers[min(number, 1)],
        )

    monkeypatch.setattr("reground.training.run._policy", begun)
    parts = watched_parts(monkeypatch)
    config = world.config(
        "rl",
        "family=qwen3_vl",
        "protocol=think_rethink",
        "prompt=tiny_refiner",
        f"data=[{{mix: {{{json.dumps(str(data))}: 1.0}}}}]",
        "steps=1",
        "batch_size=1",
        "rollout={group_size: 4, max_tokens: 200}",
        "algorithm.kl=0",
        "tools={specs: [precomputed], zoom: true, max_calls: 2}",
        "engine.tolerance=1000",  # scripted log-probs are 0
    )
    run = world.run("zoom", config)
    assert math.isfinite(column(run, "loss")[0])
    assert column(run, "grad_norm")[0] > 0
    assert (column(run, "tool/zoomed"), column(run, "tool/refused")) == ([1], [1])
    (part,) = parts
    assert part.pixel_values.grad is not None
    assert part.pixel_values.grad.abs().max() > 0
    best = next(row for row in read_rows(run.rollouts) if row["rollout"] == 0)
    assert best["text"].count("<|image_pad|>") == 1
    assert best["reward/iou"] > 0.9


# ---- helpers -------------------------------------------------------------------------------------


def asked(sample: Sample) -> Sample:
    found = Detection(0, Box(1, 2, 30, 40, sample.images[0].frame))
    return replace(sample, tool_results=(found,))


def size_of(sample: Sample) -> EncodedSize:
    """In a frame of 0-1000 the size of the encoded image does not matter."""
    image = sample.images[0]
    return EncodedSize(image.width, image.height, image.width, image.height)


def watched_parts(monkeypatch: pytest.MonkeyPatch) -> list[EncodedImage]:
    """All images that are told from now on; their pixels collect gradients."""
    parts: list[EncodedImage] = []
    look: Callable[..., EncodedImage | str] = Zoom.look

    def watched(
        self: Zoom, start: Start, numbers: Sequence[float], codec: Codec
    ) -> EncodedImage | str:
        found = look(self, start, numbers, codec)
        if isinstance(found, EncodedImage):
            found.pixel_values.requires_grad_()
            parts.append(found)
        return found

    monkeypatch.setattr(Zoom, "look", watched)
    return parts


@dataclass
class Begun:
    """A policy whose first turns are scripted, and whose later ones are sampled."""

    first: Policy
    then: Policy

    def generate(self, prompts: Sequence[Prompt], **options: Any) -> Any:
        policy = self.first if options.get("prefixes") is None else self.then
        return policy.generate(prompts, **options)


class Idle(ScriptedPolicy):
    """A scripted policy that trains with nobody."""

    def sync(self, version: int) -> None:
        """Nothing."""

    def rest(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
