"""What a policy samples: the same ids and log-probs as the plain model, whatever stands beside."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText

from reground.grounding.sample import ImageRef, Sample
from reground.model.chat import Chat, Prompt
from reground.model.forward import shared_logprobs
from reground.model.load import Checkpoint
from reground.model.runtime import Runtime
from reground.model.vision import encode_images
from reground.rollout.episode import RolloutStatus, Trajectory, Turn
from reground.rollout.policy import Completion, Prefix, Sampling
from reground.rollout.transformers_policy import TransformersPolicy
from reground.tinyworld import models as tiny
from reground.training.packing import TrainGroup, TrainSequence, collate
from scripted import ScriptedPolicy

KEYS = (11, 2**40 + 3, 5)


@dataclass(frozen=True, slots=True)
class Setting:
    """A checkpoint, prompts with 1, 0 and 3 images, and the model as transformers makes it."""

    checkpoint: Checkpoint
    prompts: tuple[Prompt, ...]
    plain: Any

    @property
    def policy(self) -> TransformersPolicy:
        return TransformersPolicy(self.checkpoint)


@pytest.fixture(scope="module", params=get_args(tiny.Architecture))
def every(request: pytest.FixtureRequest, tokenizer: Any) -> Setting:
    return make_setting(request.param, tokenizer)


@pytest.fixture(scope="module")
def qwen3(tokenizer: Any) -> Setting:
    return make_setting("qwen3_vl", tokenizer)


def make_setting(architecture: tiny.Architecture, tokenizer: Any) -> Setting:
    checkpoint = tiny.make(architecture, tokenizer=tokenizer)
    with torch.no_grad():
        for parameter in checkpoint.model.parameters():
            parameter *= 2  # a distribution with a shape, where the usual start is nearly even
    config = copy.deepcopy(checkpoint.model.config)
    plain: Any = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa")
    plain.load_state_dict(checkpoint.model.state_dict())
    rng = np.random.default_rng(0)

    def picture(width: int, height: int) -> Image.Image:
        return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))

    prompts = (
        checkpoint.chat.prompt([picture(112, 84)], "the red circle left of the blue square"),
        checkpoint.chat.prompt([], "where?"),
        checkpoint.chat.prompt([picture(56, 56), picture(84, 56), picture(60, 90)], "find it"),
    )
    return Setting(checkpoint, prompts, plain.eval())


def test_greedy_ids_equal_those_of_generate(every: Setting) -> None:
    sampling = Sampling(max_tokens=16)
    together = every.policy.generate(every.prompts, n=2, sampling=sampling)
    for prompt, (first, second) in zip(every.prompts, together, strict=True):
        assert first == second
        (alone,) = every.policy.generate([prompt], n=1, sampling=sampling)[0]
        assert alone.ids == first.ids == plain_greedy(every, prompt, 16)


def test_logprobs_are_those_of_the_trainer(every: Setting) -> None:
    sampling = Sampling(temperature=0.7, max_tokens=12)
    sampled = every.policy.generate(every.prompts, n=3, sampling=sampling, keys=KEYS)
    for ours, theirs in zip(*both_logprobs(every, sampled, 0.7), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_greedy_logprobs_are_those_of_temperature_1(qwen3: Setting) -> None:
    sampled = qwen3.policy.generate(qwen3.prompts, n=1, sampling=Sampling(max_tokens=6))
    for ours, theirs in zip(*both_logprobs(qwen3, sampled, 1.0), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_samples_depend_on_prompt_key_and_number_alone(every: Setting) -> None:
    sampling = Sampling(temperature=1.0, max_tokens=10)
    together = ids(every.policy.generate(every.prompts, n=3, sampling=sampling, keys=KEYS))
    alone = [
        ids(every.policy.generate([prompt], n=3, sampling=sampling, keys=[key]))[0]
        for prompt, key in zip(every.prompts, KEYS, strict=True)
    ]
    assert alone == together
    backwards = every.policy.generate(every.prompts[::-1], n=3, sampling=sampling, keys=KEYS[::-1])
    assert ids(backwards)[::-1] == together
    Runtime(batch_tokens=400).of(every.checkpoint.model)
    some = every.policy.generate(every.prompts, n=3, sampling=sampling, keys=KEYS)
    Runtime().of(every.checkpoint.model)
    assert ids(some) == together
    more = ids(every.policy.generate(every.prompts, n=5, sampling=sampling, keys=KEYS))
    assert [own[:3] for own in more] == together


FIRST = Sampling(temperature=1.0, max_tokens=7, stop=("never said",))


def test_a_second_turn_goes_on_as_if_everything_were_read_anew(every: Setting) -> None:
    policy, sampling = every.policy, Sampling(max_tokens=9)
    first = policy.generate(every.prompts, n=2, sampling=FIRST, keys=KEYS)
    forced = (every.checkpoint.chat.encode("the tool says"), every.checkpoint.chat.encode("."))
    prefixes = [
        [Prefix((*own.ids, *more)) for own, more in zip(group, forced, strict=True)]
        for group in first
    ]
    second = policy.generate(every.prompts, n=2, sampling=sampling, prefixes=prefixes)
    for prompt, own, group in zip(every.prompts, prefixes, second, strict=True):
        for prefix, completion in zip(own, group, strict=True):
            longer = Prompt((*prompt.ids, *prefix.ids), prompt.images)
            assert completion.ids == plain_greedy(every, longer, 9)
    anew = every.policy.generate(every.prompts, n=2, sampling=sampling, prefixes=prefixes)
    assert ids(anew) == ids(second)


# How many images each of two completions of a prompt is told before its second and third turn.
TOLD = (((1, 0), (0, 2), (1, 1)), ((0, 1), (1, 0), (0, 0)))


@pytest.mark.parametrize(("temperature", "images"), [(0.0, True), (0.7, True), (0.7, False)])
def test_later_turns_are_those_of_a_row_of_its_own(
    every: Setting, temperature: float, images: bool
) -> None:
    """Greedy ids are those of transformers, log-probs of all turns those of the trainer."""
    policy, chat = every.policy, every.checkpoint.chat
    sampling = Sampling(temperature=temperature, max_tokens=7, stop=("never said",))
    turn = policy.generate(every.prompts, n=2, sampling=sampling, keys=KEYS)
    turns = [[[Turn(own.ids, own.logprobs)] for own in group] for group in turn]
    for told in TOLD:
        for group, counts in zip(turns, told, strict=True):
            for own, count in zip(group, counts, strict=True):
                own.append(say(chat, count if images else 0))
        prefixes = [[prefix_of(own) for own in group] for group in turns]
        turn = policy.generate(every.prompts, n=2, sampling=sampling, keys=KEYS, prefixes=prefixes)
        for group, completions in zip(turns, turn, strict=True):
            for own, completion in zip(group, completions, strict=True):
                own.append(Turn(completion.ids, completion.logprobs))
        assert not {i for own in flat(turn) for i in own.ids} & set(chat.banned_ids)
        if temperature == 0:
            check_greedy(every, prefixes, turn)
    rollouts = [[trajectory(own) for own in group] for group in turns]
    shown = [[1, 1], [1, 2], [1, 1]] if images else [[0, 0]] * 3
    assert [[len(own.images) for own in group] for group in rollouts] == shown
    ours = [p for group in turns for own in group for each in own for p in each.logprobs or ()]
    theirs = trained(every, rollouts, temperature or 1.0)
    assert ours == pytest.approx(theirs, abs=1e-5)


def test_images_behind_a_prompt_are_encoded_without_those_of_the_prompt(
    qwen3: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, chat = qwen3.policy, qwen3.checkpoint.chat
    policy.generate(qwen3.prompts, n=2, sampling=FIRST, keys=KEYS)
    encoded = []
    monkeypatch.setattr(
        "reground.rollout.decoding.encode_images",
        lambda model, images: encoded.append(len(images)) or encode_images(model, images),
    )
    behind = [[None, prefix_of([say(chat, count)])] for count in (2, 0, 1)]
    with recorded_shapes(qwen3.checkpoint.model) as shapes:
        policy.generate(qwen3.prompts, n=2, sampling=Sampling(max_tokens=3), prefixes=behind)
    assert encoded == [3]
    longest = max(len(own.ids) for _, own in behind)
    assert shapes == [(3, 2 * longest), (3, 2), (3, 2)]


def test_completions_that_do_not_go_on_stay_empty_and_change_nothing(qwen3: Setting) -> None:
    policy, sampling = qwen3.policy, Sampling(temperature=1.0, max_tokens=5)
    prefixes: list[list[Prefix | None]] = [
        [Prefix((21, 22)), Prefix((23,))],
        [None, None],
        [None, Prefix((24, 25, 26))],
    ]
    some = policy.generate(qwen3.prompts, n=2, sampling=sampling, keys=KEYS, prefixes=prefixes)
    every_one = [[own or Prefix((28,)) for own in group] for group in prefixes]
    everything = policy.generate(
        qwen3.prompts, n=2, sampling=sampling, keys=KEYS, prefixes=every_one
    )
    for own, group, full in zip(prefixes, some, everything, strict=True):
        for prefix, completion, expected in zip(own, group, full, strict=True):
            assert completion.ids == (() if prefix is None else expected.ids)


def test_the_second_turn_reads_no_prompt_again(
    qwen3: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, prompts = qwen3.policy, list(qwen3.prompts)
    policy.generate(prompts, n=1, sampling=FIRST, keys=KEYS)
    encoded = []
    monkeypatch.setattr(
        "reground.rollout.decoding.encode_images",
        lambda model, images: encoded.append(len(images)) or encode_images(model, images),
    )
    policy.generate(prompts, n=1, sampling=Sampling(max_tokens=2), prefixes=[[Prefix((25,))]] * 3)
    assert encoded == []
    policy.generate(prompts, n=1, sampling=Sampling(max_tokens=2), prefixes=[[Prefix((25,))]] * 3)
    assert encoded == [4]  # nothing is kept behind a turn without stop strings
    policy.generate(prompts, n=1, sampling=FIRST)
    policy.generate(
        prompts[::-1], n=1, sampling=Sampling(max_tokens=2), prefixes=[[Prefix((25,))]] * 3
    )
    assert encoded == [4, 4, 4]  # nor for other prompts, nor for these in another order


def test_numbers_and_keys_give_different_samples(qwen3: Setting) -> None:
    prompts, sampling = qwen3.prompts[:1] * 3, Sampling(temperature=1.0, max_tokens=10)
    sampled = ids(qwen3.policy.generate(prompts, n=4, sampling=sampling))
    assert len({own for group in sampled for own in group}) == 12
    again = ids(qwen3.policy.generate(prompts, n=4, sampling=sampling, keys=(0, 1, 0)))
    assert again == [sampled[0], sampled[1], sampled[0]]


def test_sampling_follows_the_distribution(qwen3: Setting) -> None:
    count, temperature = 4096, 0.3
    sampled = first_tokens(qwen3, count, Sampling(temperature=temperature, max_tokens=1))
    expected = distribution(qwen3, temperature, banned=qwen3.checkpoint.chat.banned_ids)
    shares = np.bincount(sampled, minlength=len(expected)) / count
    likely = np.argsort(-expected)[:20]
    assert expected[likely].sum() > 0.3
    deviation = np.sqrt(expected * (1 - expected) / count)
    assert (np.abs(shares - expected)[likely] < 4 * deviation[likely]).all()


def test_banned_ids_are_never_sampled(qwen3: Setting) -> None:
    banned = list(qwen3.checkpoint.chat.banned_ids)
    count, hot = 4096, 20.0
    assert count * distribution(qwen3, hot)[banned].sum() > 15  # but for the ban
    sampled = first_tokens(qwen3, count, Sampling(temperature=hot, max_tokens=1))
    assert not set(banned) & set(sampled)


@pytest.mark.parametrize("top_p", [0.02, 0.1])
def test_top_p_samples_the_nucleus_whole_and_alone(qwen3: Setting, top_p: float) -> None:
    sampling = Sampling(temperature=1.0, top_p=top_p, max_tokens=1)
    sampled = set(first_tokens(qwen3, 1024, sampling))
    expected = distribution(qwen3, 1.0, banned=qwen3.checkpoint.chat.banned_ids)
    order = np.argsort(-expected)
    size = int(np.searchsorted(expected[order].cumsum(), top_p)) + 1
    assert size > 1
    assert sampled == set(order[:size].tolist())


@pytest.mark.parametrize("top_p", [0.0, 1e-9])
def test_the_smallest_nucleus_is_greedy(qwen3: Setting, top_p: float) -> None:
    greedy = qwen3.policy.generate(qwen3.prompts, n=2, sampling=Sampling(max_tokens=8))
    narrow = Sampling(temperature=1.0, top_p=top_p, max_tokens=8)
    assert ids(qwen3.policy.generate(qwen3.prompts, n=2, sampling=narrow)) == ids(greedy)


@pytest.mark.parametrize("stop", [("e",), ("r", ">"), ("ac", "st")])
def test_a_stop_string_ends_with_the_token_that_completes_it(
    qwen3: Setting, stop: tuple[str, ...]
) -> None:
    free = Sampling(temperature=1.0, max_tokens=24)
    held = Sampling(temperature=1.0, max_tokens=24, stop=stop)
    long = qwen3.policy.generate(qwen3.prompts, n=6, sampling=free, keys=KEYS)
    short = qwen3.policy.generate(qwen3.prompts, n=6, sampling=held, keys=KEYS)
    ends = set()
    for whole, cut in zip(flat(long), flat(short), strict=True):
        expected = until(qwen3.checkpoint.chat, whole.ids, stop)
        assert cut.ids == expected
        if cut.ids[-1] == qwen3.checkpoint.chat.end_id:
            assert cut.finish == "stop"
        else:
            met = stopped(qwen3.checkpoint.chat, expected, stop)
            assert cut.finish == ("stop_string" if met else "length")
        ends.add(cut.finish)
    assert "stop_string" in ends


@pytest.mark.parametrize("goes_on", [False, True], ids=["first turn", "second turn"])
def test_the_limit_of_a_batch_changes_no_rollout(qwen3: Setting, goes_on: bool) -> None:
    """Random numbers of a completion must not depend on the longest remainder beside it."""
    prefixes = [[Prefix((14, 30 + number)) for number in range(3)]] if goes_on else None
    short, long = (
        qwen3.policy.generate(
            qwen3.prompts[:1],
            n=3,
            sampling=Sampling(temperature=1.0, max_tokens=limit),
            keys=[7],
            prefixes=prefixes,
        )[0]
        for limit in (6, 11)
    )
    assert [each.ids for each in short] == [each.ids[:6] for each in long]
    assert len({each.ids for each in short}) == 3, "each number has a stream of its own"


def test_a_stop_string_may_span_tokens_and_end_inside_one(qwen3: Setting) -> None:
    free = Sampling(temperature=1.0, max_tokens=12)
    (whole,) = qwen3.policy.generate(qwen3.prompts[:1], n=1, sampling=free, keys=[4])[0]
    words = [qwen3.checkpoint.chat.decode([i]) for i in whole.ids]
    place = next(i for i in range(4, 11) if len(words[i]) > 1 and "\ufffd" not in words[i - 1])
    spanning = words[place - 1] + words[place][:-1]
    held = Sampling(temperature=1.0, max_tokens=12, stop=(spanning,))
    (cut,) = qwen3.policy.generate(qwen3.prompts[:1], n=1, sampling=held, keys=[4])[0]
    assert cut.ids == whole.ids[: place + 1]
    assert cut.finish == "stop_string"


def test_finish_tells_an_ended_turn_from_a_full_one(
    qwen3: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = Sampling(temperature=1.0, max_tokens=9)
    (whole,) = qwen3.policy.generate(qwen3.prompts[:1], n=1, sampling=sampling)[0]
    assert (len(whole.ids), whole.finish) == (9, "length")
    place = next(i for i in range(3, 9) if whole.ids[i] not in whole.ids[:i])
    monkeypatch.setattr(qwen3.checkpoint.chat, "end_ids", frozenset({whole.ids[place]}))
    for max_tokens, finish in ((place + 1, "stop"), (place, "length")):
        short = Sampling(temperature=1.0, max_tokens=max_tokens)
        (cut,) = qwen3.policy.generate(qwen3.prompts[:1], n=1, sampling=short)[0]
        assert (cut.ids, cut.finish) == (whole.ids[:max_tokens], finish)
    (cut,) = qwen3.policy.generate(qwen3.prompts[:1], n=1, sampling=sampling)[0]
    assert (cut.ids, cut.finish) == (whole.ids[: place + 1], "stop")
    assert len(cut.logprobs) == len(cut.ids)


def test_ended_groups_leave_the_batch_and_change_nothing(qwen3: Setting) -> None:
    sampling = Sampling(temperature=1.0, max_tokens=24, stop=("a",))
    prompts, keys = qwen3.prompts * 2, range(20, 26)
    with recorded_shapes(qwen3.checkpoint.model) as shapes:
        together = qwen3.policy.generate(prompts, n=2, sampling=sampling, keys=keys)
    longest = [max(len(completion.ids) for completion in own) for own in together]
    assert len(set(longest)) >= 4
    alive = [sum(length > step for length in longest) for step in range(1, max(longest))]
    assert [rows for rows, _ in shapes] == [len(prompts), *alive]
    for prompt, key, own in zip(prompts, keys, together, strict=True):
        alone = qwen3.policy.generate([prompt], n=2, sampling=sampling, keys=[key])[0]
        for first, second in zip(own, alone, strict=True):
            assert first.ids == second.ids
            assert first.logprobs == pytest.approx(second.logprobs, abs=1e-5)


def test_a_model_in_training_rolls_out_the_same(tokenizer: Any) -> None:
    own = make_setting("qwen3_vl", tokenizer)
    sampling = Sampling(temperature=1.0, max_tokens=6)
    before = own.policy.generate(own.prompts, n=2, sampling=sampling)
    own.checkpoint.model.gradient_checkpointing_enable({"use_reentrant": False})
    own.checkpoint.model.train()
    assert ids(own.policy.generate(own.prompts, n=2, sampling=sampling)) == ids(before)


def test_completions_carry_the_version_of_the_weights(qwen3: Setting) -> None:
    policy = TransformersPolicy(qwen3.checkpoint, version=3)
    sampled = policy.generate(qwen3.prompts, n=2, sampling=Sampling(max_tokens=1))
    assert {completion.policy_version for completion in flat(sampled)} == {3}
    assert policy.generate([], n=2, sampling=Sampling()) == []


def test_scripted_policy_says_what_it_is_told(qwen3: Setting) -> None:
    chat = qwen3.checkpoint.chat
    policy = ScriptedPolicy(chat, lambda prompt, number: f"{len(prompt.images)} images, {number}")
    said = policy.generate(qwen3.prompts, n=2, sampling=Sampling())
    texts = [[chat.decode(completion.ids) for completion in own] for own in said]
    assert texts == [[f"{i} images, {k}<|im_end|>" for k in range(2)] for i in (1, 0, 3)]
    assert all(completion.finish == "stop" for completion in flat(said))
    assert all(len(completion.logprobs) == len(completion.ids) for completion in flat(said))


def test_scripted_policy_keeps_to_the_token_limit(qwen3: Setting) -> None:
    chat = qwen3.checkpoint.chat
    policy = ScriptedPolicy(chat, lambda prompt, number: "<answer>(1,2),(3,4)</answer>")
    (cut,) = policy.generate(qwen3.prompts[:1], n=1, sampling=Sampling(max_tokens=3))[0]
    assert (chat.decode(cut.ids), cut.finish) == ("<answer>(1", "length")


def say(chat: Chat, count: int) -> Turn:
    """What a tool says: words, and so many images of different sizes."""
    rng = np.random.default_rng(count)
    sides = rng.integers(20, 120, size=(count, 2))
    images = chat.encode_images(
        [Image.fromarray(rng.integers(0, 255, (*side, 3), dtype=np.uint8)) for side in sides]
    )
    shown = [i for image in images for i in (*chat.image_ids(image), *chat.encode("and"))]
    return Turn((*chat.encode("the tool says"), *shown), None, images)


def trajectory(turns: Sequence[Turn]) -> Trajectory:
    sample = Sample("a", (ImageRef("a.png", 9, 9),), "?", (), "test")
    return Trajectory(sample, Prompt((), ()), tuple(turns), RolloutStatus.COMPLETED)


def sequence(own: Trajectory) -> TrainSequence:
    return TrainSequence(own.ids, tuple(map(float, own.sampled)), own.images)


def prefix_of(turns: Sequence[Turn]) -> Prefix:
    rollout = trajectory(turns)
    return Prefix(rollout.ids, rollout.images)


def check_greedy(
    setting: Setting, prefixes: list[list[Prefix]], turn: list[tuple[Completion, ...]]
) -> None:
    """The turn's ids are those that transformers generates behind prompt and prefix."""
    for prompt, own, group in zip(setting.prompts, prefixes, turn, strict=True):
        for prefix, completion in zip(own, group, strict=True):
            images = (*prompt.images, *prefix.images)
            longer = Prompt((*prompt.ids, *prefix.ids), images)
            assert completion.ids == plain_greedy(setting, longer, len(completion.ids))


def plain_greedy(setting: Setting, prompt: Prompt, max_tokens: int) -> tuple[int, ...]:
    """Greedy ids by ``generate`` of transformers."""
    chat = setting.checkpoint.chat
    inputs = plain_inputs(setting, prompt)
    out = setting.plain.generate(
        **inputs,
        max_new_tokens=max_tokens,
        do_sample=False,
        suppress_tokens=list(chat.banned_ids),
        eos_token_id=chat.end_id,
        pad_token_id=chat.pad_id,
    )
    return tuple(out[0, len(prompt.ids) :].tolist())


def plain_inputs(setting: Setting, prompt: Prompt) -> dict[str, Tensor]:
    row = torch.tensor([prompt.ids])
    kinds = (row == setting.checkpoint.chat.image_token_id).int()
    inputs = {"input_ids": row, "attention_mask": torch.ones_like(row), "mm_token_type_ids": kinds}
    if prompt.images:
        inputs["pixel_values"] = torch.cat([image.pixel_values for image in prompt.images])
        inputs["image_grid_thw"] = torch.tensor([image.grid for image in prompt.images])
    return inputs


def distribution(setting: Setting, temperature: float, *, banned: Sequence[int] = ()) -> Any:
    """Probabilities [V] of the first token behind the first prompt, by the plain model."""
    with torch.no_grad():
        logits = setting.plain(**plain_inputs(setting, setting.prompts[0])).logits[0, -1].double()
    logits[list(banned)] = float("-inf")
    return (logits / temperature).softmax(-1).numpy()


def first_tokens(setting: Setting, count: int, sampling: Sampling) -> list[int]:
    (own,) = setting.policy.generate(setting.prompts[:1], n=count, sampling=sampling, keys=[1])
    return [completion.ids[0] for completion in own]


def both_logprobs(
    setting: Setting, sampled: list[tuple[Completion, ...]], temperature: float
) -> tuple[list[float], list[float]]:
    """The policy's log-probs and those of the group-shared forward, in the same order."""
    rollouts = [[trajectory([Turn(own.ids, own.logprobs)]) for own in group] for group in sampled]
    ours = [value for completion in flat(sampled) for value in completion.logprobs]
    return ours, trained(setting, rollouts, temperature)


def trained(
    setting: Setting, rollouts: Sequence[Sequence[Trajectory]], temperature: float
) -> list[float]:
    """The group-shared forward's log-probs of all sampled ids."""
    chat = setting.checkpoint.chat
    groups = [
        TrainGroup(
            prompt,
            tuple(
                TrainSequence(own.ids, tuple(map(float, own.sampled)), own.images) for own in group
            ),
        )
        for prompt, group in zip(setting.prompts, rollouts, strict=True)
    ]
    batch = collate(groups, pad_id=chat.pad_id, device=torch.device("cpu")).batch
    with torch.no_grad():
        found = shared_logprobs(
            setting.checkpoint.model, batch, temperature=temperature, banned_ids=chat.banned_ids
        )
    values: list[float] = found.tolist()
    return values


@contextmanager
def recorded_shapes(model: Any) -> Iterator[list[tuple[int, ...]]]:
    """Shapes of the ids of every forward of the model's body, while the block lasts."""
    shapes: list[tuple[int, ...]] = []

    def record(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        shapes.append(tuple(kwargs["input_ids"].shape))

    handle = model.model.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield shapes
    finally:
        handle.remove()


def flat(sampled: list[tuple[Completion, ...]]) -> list[Completion]:
    return [completion for own in sampled for completion in own]


def ids(sampled: list[tuple[Completion, ...]]) -> list[list[tuple[int, ...]]]:
    return [[completion.ids for completion in own] for own in sampled]


def until(chat: Chat, whole: tuple[int, ...], stop: tuple[str, ...]) -> tuple[int, ...]:
    """The shortest beginning of ``whole`` that has stopped, or all of it."""
    ends = (i for i in range(1, len(whole) + 1) if stopped(chat, whole[:i], stop))
    return whole[: next(ends, len(whole))]


def stopped(chat: Chat, sampled: tuple[int, ...], stop: tuple[str, ...]) -> bool:
    return sampled[-1] == chat.end_id or any(text in chat.decode(sampled) for text in stop)
