"""InternVL of random weights and small tiles: real classes, template and processor."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    GotOcr2ImageProcessorPil,
    InternVLConfig,
)

from reground.model.chat import Chat
from reground.model.internvl import InternVL
from reground.model.load import Checkpoint, prepare

TILE, PATCH = 56, 14
SPECIAL = ["<img>", "</img>", "<IMG_CONTEXT>", "<box>", "</box>", "<ref>", "</ref>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_internvl(tokenizer: Any, *, language: str = "qwen2", max_tiles: int = 4) -> Checkpoint:
    """A model, as ``load`` would give it; its language part is ``qwen2`` or ``llama``."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"extra_special_tokens": SPECIAL})
    tokenizer.chat_template = TEMPLATE
    text = dict(
        model_type=language,
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    vision = dict(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=TILE,
        patch_size=PATCH,
    )
    config = InternVLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=(TILE // PATCH // 2) ** 2,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config)
    processor = GotOcr2ImageProcessorPil(
        size={"height": TILE, "width": TILE}, crop_to_patches=True, max_patches=max_tiles
    )
    return prepare(model, Chat(tokenizer, processor, InternVL.of(model.config)))
