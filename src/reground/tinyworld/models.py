"""Tiny models of the real architectures: random ones for tests, and the shape of the shipped one.

They differ from the checkpoints of the hub in size alone: same classes, same chat markup, same
image processor. A tiny model is a means to show and to test, not a product.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
)

from reground.config import config, of
from reground.model.chat import Chat
from reground.model.load import Checkpoint, prepare
from reground.model.qwen import QwenVL
from reground.tinyworld import scenes as synth
from reground.tinyworld.scenes.world import SIZE

Architecture = Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@config
class Shape:
    """A fresh model of random weights: the real architecture at a size that two cores can train."""

    architecture: Architecture = "qwen3_vl"
    hidden: int = 192
    layers: int = 4
    heads: int = 6
    head_dim: int = 32
    vision_hidden: int = 160
    vision_depth: int = 3
    vision_heads: int = 5
    patch_size: int = 14


def fresh(settings: dict[str, Any], *, seed: int) -> Checkpoint:
    """The model ``random`` of a training config: random weights in the shape of its settings."""
    shape = of(Shape, settings, place="model_settings")
    return make(**asdict(shape), seed=seed, tokenizer=make_tokenizer(corpus()))


def make_tokenizer(texts: Iterable[str], *, size: int = 896) -> PreTrainedTokenizerFast:
    """Byte-level BPE for any text: words of ``texts`` whole, digits single, tags as words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"</?\w+>| ?[^\W\d_]+|\d|\s|[^\w\s]|_"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL),
        chat_template=TEMPLATE,
    )


def corpus(*, samples_per_task: int = 150) -> list[str]:
    """Text of the scene world, and common words of questions about photos, for the tokenizer."""
    words = Path(__file__).with_name("assets").joinpath("words.txt").read_text().split()
    texts = [form for word in words for form in (word, f" {word}")] * 40
    for task in synth.TASKS:
        for index in range(samples_per_task):
            sample = synth.sample(task, seed=0, index=index)
            texts += [
                sample.question,
                f"<think>{sample.think or ''}</think><answer>(1,2),(3,4)</answer>",
            ]
    return texts


def make(
    architecture: Architecture = "qwen3_vl",
    *,
    seed: int = 0,
    max_pixels: int = 401_408,
    tokenizer: PreTrainedTokenizerFast | None = None,
    **sides: int,
) -> Checkpoint:
    """A model of random weights, with tokenizer and image processor, as ``load`` would give it.

    ``sides`` are fields of :class:`Shape`; what is left out is small enough for a test.
    """
    shape = replace(_SMALL, architecture=architecture, **sides)
    tokenizer = tokenizer or make_tokenizer(corpus(samples_per_task=20))
    name = tokenizer.convert_tokens_to_ids
    config = AutoConfig.for_model(
        architecture,
        text_config=_text(shape, tokenizer),
        vision_config=_vision(shape),
        image_token_id=name("<|image_pad|>"),
        video_token_id=name("<|video_pad|>"),
        vision_start_token_id=name("<|vision_start|>"),
        vision_end_token_id=name("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config)
    _start_matching(model)
    processor = Qwen2VLImageProcessorPil(
        patch_size=shape.patch_size,
        merge_size=2,
        temporal_patch_size=1,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        size={"shortest_edge": (2 * shape.patch_size) ** 2, "longest_edge": max_pixels},
    )
    return prepare(model, Chat(tokenizer, processor, QwenVL.of(model.config)))


_SMALL = Shape(
    hidden=64, layers=2, heads=4, head_dim=16, vision_hidden=48, vision_depth=2, vision_heads=4
)


def _text(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    sixth = shape.head_dim // 6
    sections = [shape.head_dim // 2 - 2 * sixth, sixth, sixth]
    rope = {"rope_type": "default", "mrope_section": sections, "rope_theta": 1e4}
    own: dict[str, Any] = {}
    if shape.architecture == "qwen3_vl":
        rope["mrope_interleaved"] = True  # transformers knows; vLLM reads it here
        own = {"head_dim": shape.head_dim}
    return own | dict(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=3 * shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=max(1, shape.heads // 2),
        max_position_embeddings=8192,
        rope_parameters=rope,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )


def _vision(shape: Shape) -> dict[str, Any]:
    width, patch = shape.vision_hidden, shape.patch_size
    shared = dict(
        depth=shape.vision_depth,
        num_heads=shape.vision_heads,
        patch_size=patch,
        spatial_merge_size=2,
        temporal_patch_size=1,
    )
    if shape.architecture == "qwen2_vl":
        return shared | dict(embed_dim=width, hidden_size=shape.hidden, mlp_ratio=3)
    shared |= dict(hidden_size=width, intermediate_size=3 * width, out_hidden_size=shape.hidden)
    if shape.architecture == "qwen2_5_vl":
        return shared | dict(window_size=8 * patch, fullatt_block_indexes=[shape.vision_depth - 1])
    patches = 2 * max(1, round(SIZE / (2 * patch)))  # a scene's grid needs no interpolation
    return shared | dict(num_position_embeddings=patches**2, deepstack_visual_indexes=[0])


@torch.no_grad()
def _start_matching(model: Any) -> None:
    """Let the first query head of every key head start as its copy: it looks for what is alike.

    With words and image tokens in one embedding (dense.py), finding the object that a word
    names is then there to be used, not to be discovered (mimetic initialisation, Trockman & Kolter
    2023; measured in docs/log.md).
    """
    for layer in model.model.language_model.layers:
        attention = layer.self_attn
        keys = attention.k_proj.weight.unflatten(0, (-1, attention.head_dim))
        queries = attention.q_proj.weight.unflatten(0, (len(keys), -1, attention.head_dim))
        queries[:, 0] = keys
