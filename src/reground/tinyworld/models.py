"""Tiny models of the real architectures: random ones for tests, and the shape of the shipped one.

They differ from the checkpoints of the hub in size alone: same classes, same chat markup, same
image processor. A tiny model is a means to show and to test, not a product.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from importlib import resources
from typing import Any, Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForImageTextToText,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
)

from reground.config import config, of
from reground.model.chat import Chat
from reground.model.load import Checkpoint, prepare
from reground.model.qwen import QwenVL
from reground.tinyworld import scenes as synth

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
    words = (resources.files("reground.tinyworld") / "assets" / "words.txt").read_text().split()
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
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    head_dim: int = 16,
    vision_hidden: int = 48,
    vision_depth: int = 2,
    vision_heads: int = 4,
    patch_size: int = 14,
    max_pixels: int = 401_408,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> Checkpoint:
    """A model of random weights, with tokenizer and image processor, as ``load`` would give it."""
    tokenizer = tokenizer or make_tokenizer(corpus(samples_per_task=20))
    rope = [head_dim // 2 - 2 * (head_dim // 6), head_dim // 6, head_dim // 6]
    rope_parameters = {"rope_type": "default", "mrope_section": rope, "rope_theta": 1e4}
    if architecture == "qwen3_vl":
        rope_parameters["mrope_interleaved"] = True  # transformers knows; vLLM reads it here
    text = dict(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        head_dim=head_dim,
        max_position_embeddings=8192,
        rope_parameters=rope_parameters,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    vision = dict(
        depth=vision_depth,
        num_heads=vision_heads,
        patch_size=patch_size,
        spatial_merge_size=2,
        temporal_patch_size=1,
    )
    name = tokenizer.convert_tokens_to_ids
    config = _config(architecture, text, vision, hidden, vision_hidden)(
        text_config=text,
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
    processor = _image_processor(patch_size, max_pixels)
    return prepare(model, Chat(tokenizer, processor, QwenVL.of(model.config)))


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


def _image_processor(patch_size: int, max_pixels: int) -> Qwen2VLImageProcessorPil:
    return Qwen2VLImageProcessorPil(
        patch_size=patch_size,
        merge_size=2,
        temporal_patch_size=1,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        size={"shortest_edge": (2 * patch_size) ** 2, "longest_edge": max_pixels},
    )


def _config(
    architecture: Architecture,
    text: dict[str, Any],
    vision: dict[str, Any],
    hidden: int,
    width: int,
) -> Any:
    """The config class of the family, with the vision settings that only it has."""
    if architecture == "qwen3_vl":
        own = dict(
            hidden_size=width,
            intermediate_size=3 * width,
            out_hidden_size=hidden,
            num_position_embeddings=_positions(vision["patch_size"]) ** 2,
            deepstack_visual_indexes=[0],
        )
        cls: Any = Qwen3VLConfig
    elif architecture == "qwen2_5_vl":
        own = dict(
            hidden_size=width,
            intermediate_size=3 * width,
            out_hidden_size=hidden,
            window_size=8 * vision["patch_size"],
            fullatt_block_indexes=[vision["depth"] - 1],
        )
        cls = Qwen2_5_VLConfig
    else:
        own = dict(embed_dim=width, hidden_size=hidden, mlp_ratio=3)
        cls = Qwen2VLConfig
    if architecture != "qwen3_vl":
        text.pop("head_dim")
    return lambda **rest: cls(vision_config=vision | own, **rest)


def _positions(patch_size: int, side: int = 112) -> int:
    """Patches along a side of a scene, so that its grid needs no interpolation."""
    factor = 2 * patch_size
    return 2 * max(1, round(side / factor))
