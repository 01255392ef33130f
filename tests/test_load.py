"""Checkpoints that anyone can load, and training that touches what it was told to touch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from reground.errors import ConfigError, ModelError
from reground.model.chat import Prompt
from reground.model.forward import shared_logprobs
from reground.model.load import SIDE_FILE, Checkpoint, answering_of, load, save
from reground.model.parts import (
    Part,
    Training,
    has_adapters,
    set_training,
    without_adapters,
)
from reground.model.qwen import QwenVL
from reground.model.runtime import Runtime
from reground.protocols.choice import Answering, Protocols
from reground.protocols.prompts import load_profile
from reground.tinyworld import models as tiny
from reground.training.optimiser import optimizer
from reground.training.packing import TrainGroup, TrainSequence, collate
from reground.training.settings import Optim

part_of = QwenVL(0, 2).part_of
Modes = tuple[Training, Training, Training]  # of vision, merger and language


@pytest.fixture(scope="module", params=get_args(tiny.Architecture))
def every(request: pytest.FixtureRequest, tokenizer: Any) -> Checkpoint:
    return tiny.make(request.param, tokenizer=tokenizer)


@pytest.fixture
def qwen3(tokenizer: Any) -> Checkpoint:
    return tiny.make("qwen3_vl", tokenizer=tokenizer)


def test_a_saved_model_loads_elsewhere_with_equal_logits(every: Checkpoint, tmp_path: Path) -> None:
    save(every, tmp_path / "saved")
    plain: Any = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved")
    assert plain.model.language_model.config._attn_implementation == "sdpa"
    prompt = example(every)
    torch.testing.assert_close(logits(plain, every, prompt), logits(every.model, every, prompt))
    back = load(str(tmp_path / "saved"))
    assert torch.equal(logits(back.model, back, prompt), logits(every.model, every, prompt))
    assert back.model.model.language_model.config._attn_implementation == "group_shared"


def test_tokenizer_and_processor_go_along(every: Checkpoint, tmp_path: Path) -> None:
    save(every, tmp_path / "saved")
    tokens: Any = AutoTokenizer.from_pretrained(tmp_path / "saved")
    processor: Any = AutoImageProcessor.from_pretrained(tmp_path / "saved", backend="pil")
    assert tokens.chat_template == every.chat.tokenizer.chat_template
    assert (processor.patch_size, processor.merge_size) == (14, 2)
    back, prompt = load(str(tmp_path / "saved")), example(every)
    again = example(back)
    assert again.ids == prompt.ids
    for ours, theirs in zip(again.images, prompt.images, strict=True):
        assert ours.grid == theirs.grid
        assert torch.equal(ours.pixel_values, theirs.pixel_values)
    assert back.chat.end_id == every.chat.end_id
    assert back.chat.banned_ids == every.chat.banned_ids


def test_how_a_checkpoint_answers_is_remembered(qwen3: Checkpoint, tmp_path: Path) -> None:
    how = Answering(
        family="univg_r1", protocol="direct", prompts={"direct": "tiny"}, zoom=True, max_calls=2
    )
    taught = dataclasses.replace(qwen3, answering=how)
    save(taught, tmp_path / "saved")
    path = str(tmp_path / "saved")
    assert load(path).answering == answering_of(path) == how
    side_file = tmp_path / "saved" / SIDE_FILE
    side_file.write_text('{"family": "univg_r1", "prompt": "tiny"}')
    with pytest.raises(ModelError, match=r"reground\.json: does not say how the checkpoint answ"):
        answering_of(path)
    side_file.unlink()
    assert load(path).answering == Answering(family="qwen3_vl")


def test_a_prompt_of_ones_own_goes_with_the_checkpoint(qwen3: Checkpoint, tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_bytes("\ufeffWhere is $question? \u00e4\r\n".encode())
    asked = load_profile(file)
    how = Answering(family="qwen3_vl").trained(
        family=None, protocol=None, prompt=str(file), zoom=False, max_calls=1
    )
    save(dataclasses.replace(qwen3, answering=how), tmp_path / "saved")
    file.unlink()
    back = answering_of(str(tmp_path / "saved"))
    assert back == how
    assert Protocols.of(back).get("direct").profile == asked
    other = back.trained(family=None, protocol=None, prompt="tiny", zoom=False, max_calls=1)
    assert other.prompts == {"direct": "tiny"}


def test_a_run_stands_for_its_newest_whole_checkpoint(qwen3: Checkpoint, tmp_path: Path) -> None:
    steps = {
        "step-000009": "qwen3_vl",
        "step-000010": "univg_r1",
        "step-000011.partial": "qwen2_vl",
    }
    for name, family in steps.items():
        folder = tmp_path / "checkpoints" / name / "model"
        save(dataclasses.replace(qwen3, answering=Answering(family=family)), folder)
    assert load(str(tmp_path)).answering.family == "univg_r1"


def test_a_smaller_dtype_is_written_and_declared(qwen3: Checkpoint, tmp_path: Path) -> None:
    save(qwen3, tmp_path / "saved", dtype=torch.bfloat16)
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved", dtype="auto")
    assert {parameter.dtype for parameter in plain.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in qwen3.model.parameters()} == {torch.float32}


def test_saving_replaces_the_old_folder_whole(qwen3: Checkpoint, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    save(qwen3, folder)
    (folder / "left-over.txt").write_text("old")
    save(dataclasses.replace(qwen3, answering=Answering(family="univg_r1")), folder)
    assert load(str(folder)).answering.family == "univg_r1"
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    assert not (folder / "left-over.txt").exists()


def test_a_failed_save_leaves_the_old_folder(
    qwen3: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(qwen3, tmp_path / "saved")

    def full_disk(folder: Path) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(qwen3.chat.image_processor, "save_pretrained", full_disk)
    with pytest.raises(OSError, match="no space"):
        save(dataclasses.replace(qwen3, answering=Answering(family="univg_r1")), tmp_path / "saved")
    assert load(str(tmp_path / "saved")).answering.family == "qwen3_vl"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere: no such run or folder; expected a run"):
        load(str(tmp_path / "nowhere"))


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ModelError, match=r"'llama' is not known; expected one of qwen2_vl"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    "missing", ["model.safetensors", "preprocessor_config.json", "tokenizer.json"]
)
def test_an_incomplete_folder_is_named(qwen3: Checkpoint, tmp_path: Path, missing: str) -> None:
    save(qwen3, tmp_path / "saved")
    (tmp_path / "saved" / missing).unlink()
    with pytest.raises(ModelError, match="saved"):
        load(str(tmp_path / "saved"))


def test_broken_weights_are_named(qwen3: Checkpoint, tmp_path: Path) -> None:
    save(qwen3, tmp_path / "saved")
    weights = tmp_path / "saved" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="saved"):
        load(str(tmp_path / "saved"))


# What is trained.


@pytest.mark.parametrize(
    "modes",
    [
        ("full", "full", "full"),
        ("frozen", "full", "full"),
        ("frozen", "frozen", "full"),
        ("full", "frozen", "frozen"),
        ("frozen", "frozen", "lora"),
        ("frozen", "full", "lora"),
        ("lora", "lora", "full"),
        ("lora", "lora", "lora"),
    ],
    ids="-".join,
)
def test_training_changes_exactly_what_it_says(
    every: Checkpoint, tokenizer: Any, modes: Modes
) -> None:
    own = tiny.make(every.model.config.model_type, tokenizer=tokenizer)
    before = {name: value.clone() for name, value in own.model.named_parameters()}
    how = open_parts(own, modes)
    # B of every adapter starts at zero, so that A has a gradient from the second step on.
    train(own, steps=2)
    adapters = {name: p for name, p in own.model.named_parameters() if "lora_" in name}
    assert {part_of(name) for name in adapters} == {part for part in how if how[part] == "lora"}
    assert has_adapters(own.model) == bool(adapters)
    assert all(p.any() for name, p in adapters.items() if "lora_B" in name)
    for name, value in plain_parameters(own.model).items():
        assert torch.equal(value, before[name]) != (how[part_of(name)] == "full"), name


def test_lora_adapts_every_linear_layer_of_its_part(qwen3: Checkpoint) -> None:
    linear = {
        name
        for name, module in qwen3.model.named_modules()
        if isinstance(module, torch.nn.Linear) and part_of(name) == "language"
    }
    open_parts(qwen3, ("frozen", "frozen", "lora"))
    trained = [name for name, p in qwen3.model.named_parameters() if p.requires_grad]
    assert {name.split(".lora_")[0] for name in trained} == linear - {"lm_head"}


def test_nothing_to_train_is_an_error(qwen3: Checkpoint) -> None:
    with pytest.raises(ConfigError, match="every part is frozen"):
        open_parts(qwen3, ("frozen", "frozen", "frozen"))


def test_vectors_and_embeddings_do_not_decay(qwen3: Checkpoint) -> None:
    decayed, kept = optimizer(qwen3.model, Optim(weight_decay=0.1)).param_groups
    names = {id(parameter): name for name, parameter in qwen3.model.named_parameters()}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert all(p.ndim >= 2 and "embed_tokens" not in names[id(p)] for p in decayed["params"])
    assert all(p.ndim == 1 or "embed" in names[id(p)] for p in kept["params"])
    assert len(decayed["params"]) + len(kept["params"]) == len(names)


def test_the_starting_weights_are_there_without_adapters(qwen3: Checkpoint) -> None:
    prompt = example(qwen3)
    untrained = logits(qwen3.model, qwen3, prompt)
    open_parts(qwen3, ("lora", "lora", "lora"))
    train(qwen3, steps=2)
    trained = logits(qwen3.model, qwen3, prompt)
    with without_adapters(qwen3.model):
        assert torch.equal(logits(qwen3.model, qwen3, prompt), untrained)
    assert torch.equal(logits(qwen3.model, qwen3, prompt), trained)
    assert (trained - untrained).abs().max() > 1e-3


@pytest.mark.parametrize(
    "modes", [("frozen", "full", "lora"), ("lora", "lora", "lora")], ids="-".join
)
def test_a_lora_checkpoint_is_saved_as_one_model(
    every: Checkpoint, tokenizer: Any, tmp_path: Path, modes: Modes
) -> None:
    own = tiny.make(every.model.config.model_type, tokenizer=tokenizer)
    prompt = example(own)
    untrained = logits(own.model, own, prompt)
    open_parts(own, modes)
    train(own, steps=2)
    trained = logits(own.model, own, prompt)
    weights = {name: value.clone() for name, value in own.model.state_dict().items()}
    save(own, tmp_path / "saved")
    assert not list((tmp_path / "saved").glob("adapter*"))
    plain: Any = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "saved", local_files_only=True
    )
    found = logits(plain, own, prompt)
    torch.testing.assert_close(found, trained, atol=1e-5, rtol=1e-5)
    assert (found - untrained).abs().max() > 1e-3
    after = own.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in weights.items())


def open_parts(checkpoint: Checkpoint, modes: Modes) -> dict[Part, Training]:
    how: dict[Part, Training] = dict(zip(get_args(Part), modes, strict=True))
    set_training(checkpoint.model, how, rank=4, alpha=8)
    return how


def train(checkpoint: Checkpoint, *, steps: int) -> None:
    """Some optimiser steps on one group, as the training loop does them."""
    prompt = example(checkpoint)
    suffixes = tuple(TrainSequence(ids, (1.0,) * len(ids)) for ids in ((30, 40, 50), (60, 70)))
    group = TrainGroup(prompt, suffixes)
    batch = collate([group], pad_id=checkpoint.chat.pad_id, device=torch.device("cpu")).batch
    adamw = optimizer(checkpoint.model, Optim(lr=1e-2))
    for _ in range(steps):
        loss = -shared_logprobs(checkpoint.model, batch).mean()
        loss.backward()
        adamw.step()
        adamw.zero_grad()


def plain_parameters(model: Any) -> dict[str, Tensor]:
    """Parameters under the names that they have without adapters."""
    return {
        name.replace(".base_layer.", "."): parameter
        for name, parameter in model.named_parameters()
        if "lora_" not in name
    }


def example(checkpoint: Checkpoint) -> Prompt:
    rng = np.random.default_rng(0)
    images = [
        Image.fromarray(rng.integers(0, 255, (*sides, 3), dtype=np.uint8))
        for sides in ((70, 90), (84, 56))
    ]
    return checkpoint.chat.prompt(images, "the red circle left of the blue square")


@torch.no_grad()
def logits(model: Any, checkpoint: Checkpoint, prompt: Prompt) -> Tensor:
    ids = torch.tensor([prompt.ids])
    result: Tensor = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == checkpoint.chat.image_token_id).int(),
        pixel_values=torch.cat([image.pixel_values for image in prompt.images]),
        image_grid_thw=torch.tensor([image.grid for image in prompt.images]),
    ).logits
    return result


def test_a_misspelt_tiny_is_recognised() -> None:
    with pytest.raises(ModelError, match="tiney: no such run or folder; did you mean 'tiny'"):
        load("tiney")


def test_vllm_is_told_that_qwen3_vl_interleaves_its_rope() -> None:
    """transformers does so whatever the config says; vLLM would read another layout."""
    for checkpoint in (load("tiny"), tiny.make("qwen3_vl")):
        assert checkpoint.model.config.text_config.rope_parameters["mrope_interleaved"] is True


OWN_TYPE = """
from transformers import (
    AutoConfig, AutoModelForImageTextToText, Qwen3VLConfig, Qwen3VLForConditionalGeneration
)
from reground.model.qwen import QwenVL

class OwnConfig(Qwen3VLConfig):
    model_type = "own_vl"

class OwnModel(Qwen3VLForConditionalGeneration):
    config_class = OwnConfig

AutoConfig.register("own_vl", OwnConfig)
AutoModelForImageTextToText.register(OwnConfig, OwnModel)

class Own(QwenVL):
    banned = (*QwenVL.banned, "<|box_start|>")
"""


def test_a_package_adds_a_model_type(
    qwen3: Checkpoint, tmp_path: Path, add_package: Callable[[str, str, str], None]
) -> None:
    add_package("own_vl", OWN_TYPE, "[reground.models]\nown_vl = own_vl:Own.of\n")
    save(qwen3, tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    (tmp_path / "saved" / "config.json").write_text(json.dumps(config | {"model_type": "own_vl"}))
    back = load(str(tmp_path / "saved"), runtime=Runtime())
    assert type(back.model).__name__ == "OwnModel"
    (mark,) = set(back.chat.banned_ids) - set(qwen3.chat.banned_ids)
    assert back.chat.decode([mark]) == "<|box_start|>"
    prompt = example(qwen3)
    assert torch.equal(logits(back.model, back, prompt), logits(qwen3.model, qwen3, prompt))
