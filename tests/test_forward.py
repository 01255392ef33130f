"""Sharing is exact: a group's log-probs and gradients are those of separate rows of the model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText

from reground.grounding.codecs import EncodedSize
from reground.model import forward
from reground.model.chat import Chat, EncodedImage, Prompt
from reground.model.forward import shared_logprobs
from reground.model.load import Checkpoint
from reground.model.vision import encode_images
from reground.tinyworld import models as tiny
from reground.training.method import within
from reground.training.packing import MicroBatch, TrainGroup, TrainSequence, collate, pack
from tiny_internvl import make_internvl

TOLERANCE = 1e-5
CPU = torch.device("cpu")
QUESTIONS = (
    "the red circle",
    "find every object that is left of the large blue square, please",
    "where?",
)
# Lengths of the suffixes of each group; every group has as many.
LENGTHS = ((5, 9, 2), (12, 1, 7), (4, 4, 10))
# Ids of ordinary words and characters in the tiny tokenizer.
WORDS = (20, 300)


@dataclass(frozen=True, slots=True)
class Pair:
    """A checkpoint with the group-shared forward, and the model as transformers makes it."""

    checkpoint: Checkpoint
    plain: Any


@pytest.fixture(
    scope="module", params=[*get_args(tiny.Architecture), "internvl-qwen2", "internvl-llama"]
)
def pair(request: pytest.FixtureRequest, tokenizer: Any) -> Pair:
    name, _, language = request.param.partition("-")
    if name == "internvl":
        return pair_of(make_internvl(tokenizer, language=language))
    return make_pair(request.param, tokenizer)


@pytest.fixture(scope="module")
def qwen3(tokenizer: Any) -> Pair:
    return make_pair("qwen3_vl", tokenizer)


def make_pair(architecture: tiny.Architecture, tokenizer: Any) -> Pair:
    return pair_of(tiny.make(architecture, tokenizer=tokenizer))


def pair_of(checkpoint: Checkpoint) -> Pair:
    _spread(checkpoint.model)
    config = copy.deepcopy(checkpoint.model.config)
    plain: Any = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa")
    plain.load_state_dict(checkpoint.model.state_dict())
    assert plain.model.language_model.config._attn_implementation == "sdpa"
    assert checkpoint.model.model.language_model.config._attn_implementation != "sdpa"
    return Pair(checkpoint, plain)


@pytest.mark.parametrize(
    "images",
    [(0,), (1,), (3,), (0, 0), (1, 1, 1), (3, 0, 1)],
    ids=lambda counts: "images-" + "-".join(map(str, counts)),
)
def test_a_shared_prompt_equals_separate_rows(pair: Pair, images: tuple[int, ...]) -> None:
    groups = make_groups(pair.checkpoint, images)
    check_equal(pair, groups)


def test_text_of_a_second_turn_is_read_but_not_scored(pair: Pair) -> None:
    groups = [two_turns(group) for group in make_groups(pair.checkpoint, (1, 3))]
    assert {0.0, 1.0} == {w for group in groups for s in group.sequences for w in s.weights}
    check_equal(pair, groups)


# What stands in the middle of each suffix of a group: how many images.
IN_SUFFIXES = (
    ((1, 0, 2), (0, 0, 0), (0, 1, 1)),
    ((0, 3, 1),) * 3,
    ((0, 0, 0), (1, 1, 1), (2, 0, 0)),
)


@pytest.mark.parametrize("behind", IN_SUFFIXES, ids=("mixed", "second", "late"))
@pytest.mark.parametrize(
    "images",
    [(0,), (1,), (3,), (3, 0, 1)],
    ids=lambda counts: "images-" + "-".join(map(str, counts)),
)
def test_images_of_a_tool_behind_a_shared_prompt_equal_separate_rows(
    pair: Pair, images: tuple[int, ...], behind: tuple[tuple[int, ...], ...]
) -> None:
    groups = make_groups(pair.checkpoint, images)
    groups = [
        shown(pair.checkpoint.chat, group, own) for group, own in zip(groups, behind, strict=False)
    ]
    check_equal(pair, groups)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_image_of_a_micro_batch_is_encoded_once(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, checkpointing: bool
) -> None:
    own = make_pair("qwen3_vl", tokenizer)
    if checkpointing:
        own.checkpoint.model.gradient_checkpointing_enable({"use_reentrant": False})
        own.checkpoint.model.train()
    groups = make_groups(own.checkpoint, (1, 0, 3))
    groups = [
        shown(own.checkpoint.chat, group, counts)
        for group, counts in zip(groups, IN_SUFFIXES[0], strict=True)
    ]
    check_equal(own, groups)
    encoded: list[int] = []
    monkeypatch.setattr(
        forward,
        "encode_images",
        lambda model, images: encoded.append(len(images)) or encode_images(model, images),
    )
    shared(own.checkpoint, groups)
    assert encoded == [1 + 0 + 3 + sum(map(sum, IN_SUFFIXES[0]))]


def test_a_suffix_without_an_image_needs_no_rule_of_the_model(
    qwen3: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    body = qwen3.checkpoint.model.model
    rule = body.get_rope_index
    monkeypatch.setattr(
        body,
        "get_rope_index",
        lambda ids, **options: rows.append(len(ids)) or rule(ids, **options),
    )
    groups = make_groups(qwen3.checkpoint, (1, 3))
    shared(qwen3.checkpoint, groups)
    assert rows == [2]  # the prompts
    shared(qwen3.checkpoint, [groups[0], shown(qwen3.checkpoint.chat, groups[1], (0, 0, 2))])
    assert rows == [2, 2, 1]


def test_temperature_and_banned_ids_are_those_of_the_definition(qwen3: Pair) -> None:
    groups, banned = make_groups(qwen3.checkpoint, (1, 0)), (3, 5, 17)
    check_equal(qwen3, groups, temperature=0.7, banned_ids=banned)
    free = shared(qwen3.checkpoint, groups, temperature=0.7)
    assert (shared(qwen3.checkpoint, groups, temperature=0.7, banned_ids=banned) > free).all()


def test_logits_in_chunks_change_nothing(qwen3: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "LOGITS", 4 * qwen3.checkpoint.model.lm_head.out_features)
    check_equal(qwen3, make_groups(qwen3.checkpoint, (1, 3)))


def test_gradient_checkpointing_changes_nothing(tokenizer: Any) -> None:
    own = make_pair("qwen3_vl", tokenizer)
    own.checkpoint.model.gradient_checkpointing_enable({"use_reentrant": False})
    own.checkpoint.model.train()
    check_equal(own, make_groups(own.checkpoint, (1, 3)))


def test_plain_forward_of_the_prepared_model_is_unchanged(pair: Pair) -> None:
    group = make_groups(pair.checkpoint, (3,))[0]
    with torch.no_grad():
        ours = row_logits(pair.checkpoint.model, pair.checkpoint, group)
        theirs = row_logits(pair.plain, pair.checkpoint, group)
    for own, other in zip(ours, theirs, strict=True):
        assert relative_error(own, other) <= TOLERANCE


def test_nothing_scored_is_an_empty_result(qwen3: Pair) -> None:
    group = make_groups(qwen3.checkpoint, (1,))[0]
    silent = tuple(TrainSequence(s.ids, (0.0,) * len(s.ids)) for s in group.sequences)
    assert shared(qwen3.checkpoint, [TrainGroup(group.prompt, silent)]).shape == (0,)


def make_groups(checkpoint: Checkpoint, images: tuple[int, ...]) -> list[TrainGroup]:
    """A group for each entry of ``images``, its number of images, with random suffixes."""
    rng = np.random.default_rng(sum(images))
    groups = []
    for index, count in enumerate(images):
        sides = rng.integers(30, 150, size=(count, 2))
        pictures = [
            Image.fromarray(rng.integers(0, 255, (*side, 3), dtype=np.uint8)) for side in sides
        ]
        prompt = checkpoint.chat.prompt(pictures, QUESTIONS[index])
        ids = [tuple(map(int, rng.integers(*WORDS, length))) for length in LENGTHS[index]]
        suffixes = tuple(TrainSequence(own, (1.0,) * len(own)) for own in ids)
        groups.append(TrainGroup(prompt, suffixes))
    return groups


def two_turns(group: TrainGroup) -> TrainGroup:
    """The same ids, but the second third of every suffix came from a tool."""

    def weights(length: int) -> tuple[float, ...]:
        return tuple(0.0 if 3 * i // length == 1 else 1.0 for i in range(length))

    suffixes = tuple(TrainSequence(s.ids, weights(len(s.ids))) for s in group.sequences)
    return TrainGroup(group.prompt, suffixes)


def shown(chat: Chat, group: TrainGroup, counts: tuple[int, ...]) -> TrainGroup:
    """The same group, with so many images of a tool in the middle of its suffixes.

    Each is read, not scored, and between words; no two are of one size.
    """
    rng = np.random.default_rng(len(group.prompt.ids))
    suffixes = []
    for suffix, count in zip(group.sequences, counts, strict=True):
        sides = rng.integers(20, 120, size=(count, 2))
        images = chat.encode_images(
            [Image.fromarray(rng.integers(0, 255, (*side, 3), dtype=np.uint8)) for side in sides]
        )
        told = [i for image in images for i in (*chat.encode("<tool>"), *chat.image_ids(image))]
        half = len(suffix.ids) // 2
        ids = (*suffix.ids[:half], *told, *suffix.ids[half:])
        weights = (*suffix.weights[:half], *[0.0] * len(told), *suffix.weights[half:])
        suffixes.append(TrainSequence(ids, weights, images))
    return TrainGroup(group.prompt, tuple(suffixes))


def check_equal(pair: Pair, groups: list[TrainGroup], **options: Any) -> None:
    """Log-probs, and gradients of a random weighted sum of them, on both sides."""
    ours, theirs = shared(pair.checkpoint, groups, **options), separate(pair, groups, **options)
    assert relative_error(ours, theirs) <= TOLERANCE
    assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()
    weights = torch.randn(len(ours), generator=torch.Generator().manual_seed(1))
    own = gradients(pair.checkpoint.model, (ours * weights).sum())
    other = gradients(pair.plain, (theirs * weights).sum())
    assert own.keys() == other.keys()
    part_of = pair.checkpoint.chat.adapter.part_of
    for part in {part_of(name) for name in own}:
        names = [name for name in own if part_of(name) == part]
        ours, theirs = (
            torch.cat([grads[name].flatten() for name in names]) for grads in (own, other)
        )
        assert theirs.norm() > 0
        assert relative_error(ours, theirs) <= TOLERANCE, part


def shared(checkpoint: Checkpoint, groups: list[TrainGroup], **options: Any) -> Tensor:
    micro = collate(groups, pad_id=checkpoint.chat.pad_id, device=CPU)
    return shared_logprobs(checkpoint.model, micro.batch, **options)


def separate(
    pair: Pair,
    groups: list[TrainGroup],
    *,
    temperature: float = 1.0,
    banned_ids: tuple[int, ...] = (),
) -> Tensor:
    """The same log-probs from one full row for each suffix, by the model's own forward."""
    return torch.cat(list(_separate(pair, groups, temperature, banned_ids)))


def _separate(
    pair: Pair, groups: list[TrainGroup], temperature: float, banned_ids: tuple[int, ...]
) -> Iterator[Tensor]:
    ban = torch.zeros(len(pair.checkpoint.chat.tokenizer))
    ban[list(banned_ids)] = float("-inf")
    for group in groups:
        rows = row_logits(pair.plain, pair.checkpoint, group)
        for logits, suffix in zip(rows, group.sequences, strict=True):
            logprobs = (logits / temperature + ban).log_softmax(-1)
            chosen = logprobs.gather(-1, torch.tensor(suffix.ids)[:, None])[:, 0]
            yield chosen[torch.tensor(suffix.weights) > 0]


def row_logits(model: Any, checkpoint: Checkpoint, group: TrainGroup) -> list[Tensor]:
    """For each suffix the logits [C, V] that predict its tokens, on full rows padded on the right.

    Prompt and images stand in every row, as in a trainer that knows nothing of groups.
    """
    prompt, chat = group.prompt, checkpoint.chat
    rows = [torch.tensor(prompt.ids + suffix.ids) for suffix in group.sequences]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=chat.pad_id)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    vision: dict[str, Any] = {}
    images = [image for suffix in group.sequences for image in (*prompt.images, *suffix.images)]
    if images:
        vision["pixel_values"] = torch.cat([image.pixel_values for image in images])
    if chat.adapter.axes == 3:
        vision["mm_token_type_ids"] = (ids == chat.image_token_id).int()
        if images:
            vision["image_grid_thw"] = torch.tensor([image.grid for image in images])
    logits = model(input_ids=ids, attention_mask=mask, **vision).logits
    start = len(prompt.ids) - 1
    return [own[start : start + len(s.ids)] for own, s in zip(logits, group.sequences, strict=True)]


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float(((ours - theirs).norm() / theirs.norm()).item())


def _spread(model: Any) -> None:
    """Larger weights: at the usual start attention is so even that errors in it would not show."""
    noise = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.15 if parameter.ndim >= 2 else 0.05
            parameter.add_(torch.randn(parameter.shape, generator=noise), alpha=scale)


# Packing.


@st.composite
def steps(draw: st.DrawFn) -> list[TrainGroup]:
    """The groups of one step: prompts of any length, each with suffixes and up to two images."""
    suffix_lengths = st.lists(st.integers(1, 15), min_size=1, max_size=4)
    shapes = draw(st.lists(st.tuples(st.integers(1, 20), suffix_lengths), min_size=1, max_size=12))
    return [
        TrainGroup(_numbered_prompt(length, index), tuple(map(_numbered_suffix, own)))
        for index, (length, own) in enumerate(shapes)
    ]


def _numbered_prompt(length: int, index: int) -> Prompt:
    return Prompt(tuple(range(10 * index + 1, 10 * index + 1 + length)), _images(index % 3))


def _images(count: int) -> tuple[EncodedImage, ...]:
    size = EncodedSize(1, 1, 1, 1)
    return tuple(EncodedImage(torch.zeros(1, 1), (1, 1, 1), size) for _ in range(count))


def _numbered_suffix(length: int) -> TrainSequence:
    weights = (1.0, 0.0, 0.5) * length
    credit = tuple(float(place) for place in range(length))
    return TrainSequence(
        tuple(range(100, 100 + length)), weights[:length], _images(length % 3), credit, credit
    )


@settings(max_examples=40)
@given(steps(), st.integers(8, 200))
def test_packing_keeps_every_group_once_and_every_budget(
    groups: list[TrainGroup], max_tokens: int
) -> None:
    micros = pack(groups, max_tokens=max_tokens, pad_id=0, device=CPU)
    assert sorted(row for micro in micros for row in prompts_of(micro)) == sorted(
        group.prompt.ids for group in groups
    )
    for micro in micros:
        num_tokens = micro.batch.prompt_ids.numel() + micro.batch.suffix_ids.numel()
        assert num_tokens <= max_tokens or len(prompts_of(micro)) == 1


@settings(max_examples=40)
@given(steps(), st.integers(8, 200))
def test_packing_changes_no_token_weight_or_image(
    groups: list[TrainGroup], max_tokens: int
) -> None:
    by_prompt = {group.prompt.ids: group for group in groups}
    for micro in pack(groups, max_tokens=max_tokens, pad_id=0, device=CPU):
        batch, own = micro.batch, [by_prompt[ids] for ids in prompts_of(micro)]
        in_order = [i for g in own for part in (g.prompt, *g.sequences) for i in part.images]
        assert [id(image) for image in batch.images] == [id(image) for image in in_order]
        assert batch.suffix_ids.shape == batch.weights.shape
        for row, group in enumerate(own):
            assert batch.prompt_ids[row][batch.prompt_mask[row]].tolist() == [*group.prompt.ids]
            assert batch.prompt_mask[row].tolist() == _first(
                len(group.prompt.ids), batch.prompt_mask
            )
            for place, suffix in enumerate(group.sequences):
                rest = [0] * (batch.suffix_ids.shape[2] - len(suffix.ids))
                assert batch.suffix_ids[row, place].tolist() == [*suffix.ids, *rest]
                assert batch.weights[row, place].tolist() == [*suffix.weights, *rest]
            assert not batch.weights[row, len(group.sequences) :].any()
        assert torch.equal(batch.scored, batch.weights > 0)


@settings(max_examples=40)
@given(steps())
def test_halves_hold_every_token_and_image_once(groups: list[TrainGroup]) -> None:
    (packed,) = pack(groups, max_tokens=10**6, pad_id=0, device=CPU)
    old = torch.arange(int(packed.batch.scored.sum()), dtype=torch.float32)
    micro = packed.with_streams(old=old, reference=None)
    assert torch.equal(micro.flat(none_not(micro.old)), old)
    single = list(within([micro], 0))
    assert all(each.halves() is None for each in single)
    whole = micro.batch
    ids = [each.batch.suffix_ids[each.batch.scored] for each in single]
    assert torch.equal(torch.cat(ids), whole.suffix_ids[whole.scored])
    for name in ("advantages", "sampled_logprobs", "old"):
        streams = [each.flat(getattr(each, name)) for each in single]
        assert torch.equal(torch.cat(streams), micro.flat(getattr(micro, name))), name
    for ids_of_prompt, own in groupby(single, key=lambda each: prompts_of(each)[0]):
        place, parts = prompts_of(micro).index(ids_of_prompt), [each.batch for each in own]
        for part in parts:
            assert _same(part.prompt_images[0], whole.prompt_images[place])
        assert len(parts) == len(whole.suffix_images[place])
        behind = zip(
            (part.suffix_images[0] for part in parts), whole.suffix_images[place], strict=True
        )
        assert all(_same(ours[0], theirs) for ours, theirs in behind)


def none_not(stream: Tensor | None) -> Tensor:
    assert stream is not None
    return stream


def prompts_of(micro: MicroBatch) -> list[tuple[int, ...]]:
    """The ids of each row's prompt, which name its group."""
    batch = micro.batch
    rows = zip(batch.prompt_ids, batch.prompt_mask, strict=True)
    return [tuple(ids[mask].tolist()) for ids, mask in rows]


def _same(ours: tuple[EncodedImage, ...], theirs: tuple[EncodedImage, ...]) -> bool:
    return [*map(id, ours)] == [*map(id, theirs)]


def _first(count: int, table: Tensor) -> list[bool]:
    return [place < count for place in range(table.shape[1])]


@pytest.mark.parametrize("has_images", [True, False])
def test_ranks_run_vision_first(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, has_images: bool
) -> None:
    """Whether they have images or not: under FSDP2 they wait for one another in one order."""
    checkpoint, order = pair.checkpoint, []
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: order.append(name))
        for name, module in (
            ("vision", checkpoint.chat.adapter.tower(checkpoint.model)[0]),
            ("language", checkpoint.model.model.language_model),
        )
    ]
    images = [Image.new("RGB", (56, 56))] if has_images else []
    prompt = checkpoint.chat.prompt(images, "the red one")
    group = TrainGroup(prompt, (TrainSequence((7,), (1.0,)),))
    packed = collate([group], pad_id=checkpoint.chat.pad_id, device=CPU)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    shared_logprobs(checkpoint.model, packed.batch)
    for handle in handles:
        handle.remove()
    assert order == ["vision", "language"]
