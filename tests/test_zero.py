"""DeepSpeed's ZeRO: two ranks give the figures of one, and a run goes on with any sharding."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image

import driver
from driver import Job
from reground.config import dump
from reground.errors import ConfigError
from reground.model.forward import shared_logprobs
from reground.model.load import load
from reground.training import zero
from reground.training.checkpoint import checkpoints
from reground.training.packing import Group, Suffix, collate
from reground.training.run import train
from reground.training.settings import TrainConfig
from test_resume import assert_same_training
from worlds import LORA, Row, World, assert_same_bytes

pytestmark = pytest.mark.usefixtures("one_thread")
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="pip install 'reground[deepspeed]'"
)

CPU = torch.device("cpu")
SAVED = ("steps=3", "save_every=2")
FROZEN = "tuning={vision: frozen, merger: frozen, gradient_checkpointing: true}"
SCENES = 'data=[{mix: {"synth:listing@2-3": 1.0}}]'
TWICE = "grpo.updates_per_batch=2"
SPREAD: dict[str, tuple[str, Callable[[World], TrainConfig]]] = {
    "sft-2": ("zero2", lambda world: _sft(world)),
    "sft-3": ("zero3", lambda world: _sft(world)),
    "dense-3": ("zero3", lambda world: world.config("dense", *SAVED, SCENES)),
    "grpo-2": ("zero2", lambda world: world.config("grpo", *SAVED)),
    "grpo-3": ("zero3", lambda world: world.config("grpo", *SAVED, TWICE)),
    "lora-3": ("zero3", lambda world: world.config("grpo", *SAVED, LORA)),
    "frozen-3": ("zero3", lambda world: world.config("grpo", *SAVED, FROZEN)),
}
RESUMED = {  # of what, by how many ranks, with which sharding
    "the same two, ZeRO-2": ("sft-2", 2, "zero2"),
    "the same two, ZeRO-3": ("lora-3", 2, "zero3"),
    "one that holds all": ("sft-2", 1, "none"),
    "one, of ZeRO-3": ("grpo-3", 1, "zero3"),
    "ZeRO-3 after ZeRO-2": ("grpo-2", 2, "zero3"),
    "ZeRO-2 after ZeRO-3": ("sft-3", 2, "zero2"),
    "FSDP2 after ZeRO-3": ("frozen-3", 2, "full"),
}


def _sft(world: World) -> TrainConfig:
    """Ranks with two micro-batches and one."""
    return world.config(
        "sft", *SAVED, "batch_size=3", "micro_batch_tokens=1", world.validation(every=2)
    )


@pytest.fixture(scope="module")
def driven(world: World) -> Mapping[str, Row]:
    configs = {
        name: dataclasses.replace(make(world), sharding=how)  # type: ignore[arg-type]
        for name, (how, make) in SPREAD.items()
    }
    jobs = {name: _job(world, name, config) for name, config in configs.items()}
    blown = world.config("sft", *SAVED, "sharding=zero3", "optim={lr: 1e+30, warmup: 0.0}")
    jobs["blown"] = _job(world, "blown", blown)
    for name, (before, ranks, how) in RESUMED.items():
        config = dataclasses.replace(configs[before], sharding=how)  # type: ignore[arg-type]
        jobs[name] = _job(world, name, config, ranks=ranks, after=jobs[before].out)
    return driver.driven(world.folder, jobs)


def _job(world: World, name: str, config: TrainConfig, *, ranks: int = 2, after: str = "") -> Job:
    path = world.folder / f"zero {name}.yaml"
    path.write_text(dump(config))
    return Job(str(path), str(path.with_suffix("")), ranks, after=after)


@needs_deepspeed
@pytest.mark.parametrize("name", SPREAD)
def test_two_ranks_equal_one(
    world: World, driven: Mapping[str, Row], tmp_path: Path, name: str
) -> None:
    assert driven[name]["statuses"] == [0, 0], driven[name]["stderr"]
    assert_same_training(driven[name]["run"], train(SPREAD[name][1](world), tmp_path / "one"))


@needs_deepspeed
@pytest.mark.parametrize("name", RESUMED)
def test_a_run_goes_on_with_other_ranks(driven: Mapping[str, Row], name: str) -> None:
    before, ranks, _ = RESUMED[name]
    assert driven[name]["statuses"] == [0] * ranks, driven[name]["stderr"]
    same = assert_same_bytes if "same" in name else assert_same_training
    same(driven[name]["run"], driven[before]["run"])


@needs_deepspeed
def test_a_rate_that_blows_up_is_noticed(driven: Mapping[str, Row]) -> None:
    assert "lower optim.lr or look at this step's samples" in driven["blown"]["stderr"]
    assert not checkpoints(driven["blown"]["run"])


@pytest.mark.parametrize("has_images", [True, False])
def test_ranks_run_vision_first(
    world: World, monkeypatch: pytest.MonkeyPatch, has_images: bool
) -> None:
    """Whether they have images or not: they wait for each other's weights in one order."""
    checkpoint = load(str(world.random))
    parts, chat, order = checkpoint.model.model, checkpoint.chat, []
    for name in ("visual", "language_model"):
        module = getattr(parts, name)
        module.register_forward_pre_hook(lambda *_, name=name: order.append(name))
    images = [Image.new("RGB", (56, 56))] if has_images else []
    prompt = chat.prompt(images, "the red one")
    packed = collate([Group(0, prompt, (Suffix((7,), (1.0,)),))], pad_id=chat.pad_id, device=CPU)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    shared_logprobs(checkpoint.model, packed.batch)
    assert order == ["visual", "language_model"]


def test_without_deepspeed_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"not installed; pip install 'reground\[deepspeed\]'"):
        zero.check_installed()
