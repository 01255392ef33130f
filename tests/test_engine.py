"""An engine beside the trainer: what it is sent, and what tells that it is another model."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.core_model_loading import revert_weight_conversion

from files import read_rows
from reground.config import load
from reground.data.source import open_dataset
from reground.errors import ConfigError, EngineError
from reground.model.parts import full_state, set_training
from reground.model.prompting import Prompter
from reground.rollout.engine.policy import EngineRequest, check_version
from reground.rollout.engine.weights import Weights
from reground.rollout.policy import Completion, Prefix
from reground.rollout.transformers_policy import TransformersPolicy
from reground.tinyworld import models as tiny
from reground.training import run as running
from reground.training.agreement import importance_weights
from reground.training.settings import TrainConfig
from worlds import World, column

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("architecture", get_args(tiny.Architecture))
def test_pictures_are_the_pixels_that_the_trainer_encoded(
    architecture: tiny.Architecture, tokenizer: Any
) -> None:
    chat = tiny.make(architecture, tokenizer=tokenizer).chat
    noise = np.random.default_rng(0).integers(0, 256, (90, 131, 3), dtype=np.uint8)
    (encoded,) = chat.encode_images([Image.fromarray(noise)])
    sent = chat.picture(encoded)
    (again,) = chat.encode_images([sent])
    assert again.grid == encoded.grid
    torch.testing.assert_close(again.pixel_values, encoded.pixel_values, rtol=0, atol=1e-6)


def test_prompts_are_sent_with_one_token_for_each_image(tokenizer: Any) -> None:
    checkpoint = tiny.make(tokenizer=tokenizer)
    chat = checkpoint.chat
    (sample,) = open_dataset("synth:diff", seed=3, limit=1)
    prompt = Prompter.of(checkpoint).prompt(sample)
    asked = EngineRequest(prompt, Prefix(), 0, 1)
    sent = asked.ids_to_send(chat)
    assert sent.count(chat.image_token_id) == len(prompt.images) == 2
    others = [each for each in prompt.ids if each != chat.image_token_id]
    assert [each for each in sent if each != chat.image_token_id] == others
    asked.check_read(prompt.ids)
    with pytest.raises(EngineError, match=f"read {len(sent)} ids of a prompt of {len(prompt.ids)}"):
        asked.check_read(sent)


def test_another_version_of_vllm_is_told_with_both(caplog: pytest.LogCaptureFixture) -> None:
    check_version("0.32.1")
    assert not caplog.text
    check_version("0.41.0")
    assert "vLLM is 0.41.0, and rollouts were tested with 0.32;" in caplog.text


def test_truncated_weights() -> None:
    trainer, engine = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-3.0, -1.0, -0.5])
    assert importance_weights(trainer, engine, 2.0).tolist() == pytest.approx([2, 1, np.exp(-0.5)])
    assert importance_weights(trainer, engine, None).tolist() == [1, 1, 1]


@dataclass(slots=True)
class Other:
    """The trainer's own policy, with log-probs that are too high by ``excess``."""

    inner: TransformersPolicy
    excess: float
    calls: list[str] = field(default_factory=list)

    def generate(self, *args: Any, **options: Any) -> list[tuple[Completion, ...]]:
        groups = self.inner.generate(*args, **options)
        return [tuple(self._spoilt(each) for each in group) for group in groups]

    def _spoilt(self, completion: Completion) -> Completion:
        return replace(completion, logprobs=tuple(p + self.excess for p in completion.logprobs))

    def sync(self, version: int) -> None:
        self.calls.append(f"sync {version}")
        self.inner.sync(version)

    def rest(self) -> None:
        self.calls.append("rest")
        self.inner.rest()

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], list[Other]]:
    """Runs sample with log-probs that are wrong by so much; returns the policies made."""

    def spoil(excess: float) -> list[Other]:
        made: list[Other] = []

        def make(checkpoint: Any, *_: Any) -> Other:
            made.append(Other(TransformersPolicy(checkpoint), excess))
            return made[-1]

        monkeypatch.setattr(running, "_policy", make)
        return made

    return spoil


def test_an_engine_that_is_another_model_stops_the_run(
    world: World, tmp_path: Path, other: Callable[[float], list[Other]]
) -> None:
    other(0.2)
    with pytest.raises(EngineError, match=re.escape("0.2 from the trainer's on the mean")):
        running.train(world.config("rl"), tmp_path / "run")
    (row,) = read_rows(tmp_path / "run" / "engine_gap.jsonl")
    assert row["step"] == 1
    assert len(row["ids"]) == len(row["scored"])
    assert len(row["engine_logprobs"]) == len(row["trainer_logprobs"]) == sum(row["scored"])
    gaps = np.subtract(row["engine_logprobs"], row["trainer_logprobs"])
    assert gaps == pytest.approx(0.2, abs=1e-3)


def test_small_differences_are_logged_and_weigh_tokens(
    world: World, tmp_path: Path, other: Callable[[float], list[Other]]
) -> None:
    def norms(name: str, *overrides: str) -> Sequence[float]:
        config = world.config("rl", "steps=2", "algorithm.kl=0", *overrides)
        return column(running.train(config, tmp_path / name), "grad_norm")

    made = other(0.04)
    plain, weighted = norms("plain"), norms("weighted", "engine.truncate=2")
    assert made[0].calls == ["sync 0", "rest", "sync 1", "rest", "close"]
    assert weighted[0] == pytest.approx(plain[0] * np.exp(-0.04), rel=1e-3)
    assert plain[0] > 0


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ("{vllm: {memory: 1.5}}", "engine.vllm.memory: found 1.5, expected below 1"),
        ("{tolerance: 0}", "tolerance: found 0, expected above 0"),
        ("{truncate: 0.5}", "engine.truncate: found 0.5, expected at least 1"),
        ("{vllm: {}, server: {url: a}}", "vllm and server are both set"),
        ("{server: {url: a, memory: 0.5}}", "engine.server.memory: unknown key"),
    ],
)
def test_settings_of_engines_are_checked_at_the_start(settings: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        load(TrainConfig, None, ["method=rl", "data=[{mix: {a: 1}}]", f"engine={settings}"])


def test_an_engine_is_for_rollouts() -> None:
    with pytest.raises(ConfigError, match="engine samples rollouts; sft makes none"):
        load(TrainConfig, None, ["method=sft", "data=[{mix: {a: 1}}]", "engine={vllm: {}}"])


def test_a_server_that_is_not_there_is_one_sentence(world: World, tmp_path: Path) -> None:
    config = world.config("rl", "engine={server: {url: 'http://127.0.0.1:9', timeout_s: 5}}")
    with pytest.raises(EngineError, match="vllm serve MODEL"):
        running.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("architecture", get_args(tiny.Architecture))
def test_weights_are_given_one_by_one_under_the_names_of_checkpoints(
    architecture: tiny.Architecture, tokenizer: Any, lora: bool
) -> None:
    model = tiny.make(architecture, tokenizer=tokenizer).model
    if lora:
        set_training(
            model, dict.fromkeys(("vision", "merger", "language"), "lora"), rank=2, alpha=4
        )
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
    given = dict(Weights(model))
    want = revert_weight_conversion(model, full_state(model))
    assert given.keys() == want.keys()
    assert all(torch.equal(value, want[name]) for name, value in given.items())
    described = [(name, each.dtype, each.shape) for name, each in Weights(model).described()]
    assert described == [(name, each.dtype, each.shape) for name, each in given.items()]
