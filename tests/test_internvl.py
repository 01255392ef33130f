"""InternVL: one adapter, and prompts, sharing, training, prediction and export work."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText
from transformers.models.internvl.processing_internvl import InternVLProcessor

from files import read_rows
from reground.api import Grounder
from reground.config import load as load_config
from reground.data.source import save_dataset
from reground.errors import ModelError
from reground.grounding.codecs import EncodedSize
from reground.model.load import Checkpoint, load, save
from reground.model.runtime import Runtime
from reground.model.vision import dummy_vision, encode_images, keep_features
from reground.rollout.opening import opened
from reground.rollout.policy import Sampling
from reground.rollout.transformers_policy import TransformersPolicy
from reground.runs import RunDir
from reground.tinyworld import scenes
from reground.training.export import export
from reground.training.run import train
from reground.training.settings import TrainConfig
from tiny_internvl import TILE, make_internvl


@pytest.fixture(scope="module")
def internvl(tokenizer: Any) -> Checkpoint:
    return make_internvl(tokenizer)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("size", "tiles", "rows", "columns"),
    [((60, 60), 1, 1, 1), ((130, 60), 3, 1, 2), ((60, 200), 4, 3, 1), ((120, 118), 5, 2, 2)],
)
def test_an_image_is_tiles_and_a_small_picture(
    internvl: Checkpoint, size: tuple[int, int], tiles: int, rows: int, columns: int
) -> None:
    (image,) = internvl.chat.encode_images([picture(*size)])
    assert image.pixel_values.shape == (tiles, 3, TILE, TILE)
    assert image.grid == (1, rows, columns)
    assert image.size == EncodedSize(*size, columns * TILE, rows * TILE)
    assert internvl.chat.num_tokens(image) == 4 * tiles


def test_ids_and_pixels_are_those_of_the_processor_of_transformers(internvl: Checkpoint) -> None:
    """Their processor itself needs torchvision."""
    chat, pictures = internvl.chat, [picture(130, 60), picture(60, 60, 1)]
    prompt = chat.prompt(pictures, "where is the <img> cup?")
    own = SimpleNamespace(
        start_image_token="<img>",
        end_image_token="</img>",
        image_token="<IMG_CONTEXT>",
        image_seq_length=4,
    )
    expanded = [
        InternVLProcessor.replace_image_token(own, {"num_patches": [3, 1]}, place)
        for place in range(2)
    ]
    text = f"<|im_start|>user\n{expanded[0]}\n{expanded[1]}\n"
    head = chat.tokenizer(text, add_special_tokens=False).input_ids
    assert list(prompt.ids[: len(head)]) == head
    assert "<img> cup" in chat.decode(prompt.ids[len(head) :])
    assert chat.tokenizer.convert_tokens_to_ids("<img>") not in prompt.ids[len(head) :]


def test_one_that_was_saved_loads_elsewhere_and_here(internvl: Checkpoint, tmp_path: Path) -> None:
    save(internvl, tmp_path / "saved")
    plain: Any = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved")
    back = load(str(tmp_path / "saved"), runtime=Runtime())
    assert (back.answering.family, back.chat.adapter) == ("internvl", internvl.chat.adapter)
    assert back.chat.pixel_limits == internvl.chat.pixel_limits
    for name, value in internvl.model.state_dict().items():
        assert torch.equal(value, back.model.state_dict()[name]), name
        assert torch.equal(value, plain.state_dict()[name]), name
    own, other = (each.chat.prompt([picture(130, 60)], "the cup") for each in (internvl, back))
    assert own.ids == other.ids
    assert torch.equal(own.images[0].pixel_values, other.images[0].pixel_values)


def test_greedy_rollouts_are_those_of_generate(internvl: Checkpoint) -> None:
    chat = internvl.chat
    prompts = [
        chat.prompt([picture(130, 60), picture(60, 60, 1)], "the cup"),
        chat.prompt([], "hello"),
        chat.prompt([picture(60, 60, 2)], "where is it?"),
    ]
    policy = TransformersPolicy(internvl)
    groups = policy.generate(prompts, n=1, sampling=Sampling(max_tokens=8))
    plain: Any = AutoModelForImageTextToText.from_config(
        internvl.model.config, attn_implementation="sdpa"
    )
    plain.load_state_dict(internvl.model.state_dict())
    for prompt, (completion,) in zip(prompts, groups, strict=True):
        pixels = [image.pixel_values for image in prompt.images]
        ids = torch.tensor([prompt.ids])
        made = plain.eval().generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **({"pixel_values": torch.cat(pixels)} if pixels else {}),
            suppress_tokens=list(chat.banned_ids),
            max_new_tokens=8,
            do_sample=False,
        )
        assert tuple(made[0, ids.shape[1] :].tolist()) == completion.ids


def test_a_frozen_tower_sees_an_image_once(internvl: Checkpoint) -> None:
    images = internvl.chat.encode_images([picture(130, 60), picture(60, 60, 1)])
    expected = encode_images(internvl.model, images)["image"].pooler_output
    keep_features(internvl.model, memory=2**20, folder=None, disk=0)
    try:
        for _ in range(2):
            found = encode_images(internvl.model, images)["image"].pooler_output
            torch.testing.assert_close(found, expected)
        assert internvl.model.vision_cache.computed == 2
    finally:
        del internvl.model.vision_cache


def test_the_dummy_forward_reaches_every_weight_that_an_image_does(internvl: Checkpoint) -> None:
    total = dummy_vision(internvl.model)
    assert float(total.detach()) == 0
    total.backward()
    for part in internvl.chat.adapter.tower(internvl.model):
        assert all(each.grad is not None for each in part.parameters())
    internvl.model.zero_grad()


@pytest.mark.parametrize(("most", "tiles"), [(TILE**2, 1), (3 * TILE**2, 4), (10, 1)])
def test_pixel_limits_are_whole_tiles(tokenizer: Any, most: int, tiles: int) -> None:
    chat = make_internvl(tokenizer).chat
    chat.adapter.set_limits(chat.image_processor, None, most)
    (image,) = chat.encode_images([picture(180, 60)])
    assert len(image.pixel_values) == tiles
    assert image.size.input_width == (3 if tiles > 1 else 1) * TILE


def test_it_learns_and_is_exported(internvl: Checkpoint, tmp_path: Path) -> None:
    save(internvl, tmp_path / "start")
    samples = [scenes.sample("referring@1-2", seed=0, index=index) for index in range(4)]
    save_dataset(tmp_path / "rows.jsonl", samples)
    taught = trained(
        tmp_path, "sft", "start", "steps=40", "optim={lr: 0.01, warmup: 0.1, final: 0.3}"
    )
    losses = [row["loss"] for row in read_rows(taught.metrics)]
    assert losses[0] > 5 > 1 > losses[-1]
    own = ("steps=2", "tuning={vision: frozen, merger: frozen, language: lora, lora_rank: 4}")
    refined = trained(tmp_path, "rl", "sft", *own, *RL)
    assert all(row["rollout/logprob_gap"] < 1e-4 for row in read_rows(refined.metrics))
    assert any(row["grad_norm"] > 0 for row in read_rows(refined.metrics))
    done = export(refined.path, tmp_path / "exported")
    assert done.from_live < 1e-4 < done.from_start
    grounder = Grounder.from_pretrained(str(tmp_path / "exported"))
    found = grounder.ground([picture(130, 60), picture(60, 60)], "the red circle", max_tokens=8)
    assert found.text
    assert grounder.prompter.protocols.answering.family == "internvl"


RL = ("rollout={group_size: 4, max_tokens: 32, temperature: 1.0}", "algorithm.kl=0.1")


def trained(folder: Path, method: str, model: str, *settings: str) -> RunDir:
    data = json.dumps(str(folder / "rows.jsonl"))
    config = [
        f"method={method}",
        f"model={folder / model}",
        f"data=[{{mix: {{{data}: 1.0}}}}]",
        "batch_size=4",
        *settings,
    ]
    return train(load_config(TrainConfig, None, config), folder / method)


def test_vllm_is_refused_before_it_starts(internvl: Checkpoint, tmp_path: Path) -> None:
    save(internvl, tmp_path / "model")
    with pytest.raises(ModelError, match="vLLM rollouts of InternVL are not supported"):
        opened(str(tmp_path / "model"), Runtime.resolve(device="cpu"), engine="vllm")
