"""An engine beside the trainer: what it is sent, and what tells that it is another model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.core_model_loading import revert_weight_conversion

from fake_engine import FakeEngine
from files import read_rows
from odd_replies import RESPONSES, TOO_LARGE, VALUES, fine, mutated, odd_replies
from reground.config import load
from reground.data.source import open_dataset
from reground.errors import ConfigError, EngineError
from reground.model.load import Checkpoint
from reground.model.load import load as load_checkpoint
from reground.model.parts import full_state, set_training
from reground.model.prompting import Prompter
from reground.rollout.engine import server as serving_engine
from reground.rollout.engine.policy import EnginePolicy, EngineRequest, check_version
from reground.rollout.engine.server import Server
from reground.rollout.engine.weights import Weights
from reground.rollout.http import MAX_REPLY
from reground.rollout.policy import Completion, Finish, Prefix, Sampling
from reground.rollout.transformers_policy import TransformersPolicy
from reground.tinyworld import models as tiny
from reground.training import run as running
from reground.training.agreement import importance_weights
from reground.training.settings import TrainConfig
from server import Response, serving
from worlds import World, column

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = Sampling(max_tokens=2)


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


@pytest.fixture(scope="module")
def refined() -> Checkpoint:
    return load_checkpoint("tiny")


@pytest.fixture
def fake(refined: Checkpoint) -> Iterator[FakeEngine]:
    """A vLLM server of the tiny model."""
    yield FakeEngine("tiny", "none", 0)
    mock.patch.stopall()  # the worker that it plays


def test_an_odd_reply_of_a_server_is_one_error_and_the_next_ones_are_read(
    refined: Checkpoint, fake: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_engine, "_MOST_BYTES", MAX_REPLY)
    prompts = Prompter.of(refined).each(open_dataset("synth:referring", seed=3, limit=3)[:])
    known: dict[str, Response] = {}
    odd: list[Response] = []  # in the place of the second reply

    def respond(body: Any, before: int) -> Response:
        if not (body and "token_ids" in body):
            return fake(body, before)
        asked = str(body["sampling_params"]["seed"])
        if asked not in known:
            known[asked] = fake(body, before)
        return odd[0] if odd and asked == [*known][1] else known[asked]

    with serving(respond, models=fake.facts, question=lambda _: "") as (url, _):
        server = Server(refined.chat, url, device=torch.device("cpu"), timeout_s=20.0)
        policy, keys = EnginePolicy(refined, server), range(3)
        for number in keys:  # one by one: they are known in this order
            policy.generate(prompts[number:][:1], n=1, sampling=SHORT, keys=[number])
        whole = policy.generate(prompts, n=1, sampling=SHORT, keys=keys)
        good = json.loads([*known.values()][1].body)
        ended = {}
        for name, response in odd_replies(good).items():
            odd[:] = [response]
            ended[name] = outcome(lambda: policy.generate(prompts, n=1, sampling=SHORT, keys=keys))
            odd.clear()
            if isinstance(ended[name], str):
                assert policy.generate(prompts, n=1, sampling=SHORT, keys=keys) == whole
        server.close()
    assert all(isinstance(ended[name], str) for name in RESPONSES | TOO_LARGE)
    assert all(ended[name] == whole for name in fine(good))
    for name, found in ended.items():
        if isinstance(found, str):
            assert found.replace("\n", "").isprintable() and len(found) < 900, name
            assert found.startswith((url.removesuffix("/v1"), "the engine ")), name
        else:
            check_sampled(found, refined)
    wrong = [
        f"choices.0.{name} is {kind}"
        for name in ("token_ids.0", "finish_reason")
        for kind in VALUES
    ]
    assert [name for name in wrong if not isinstance(ended[name], str)] == [
        "choices.0.token_ids.0 is a number"
    ]


def test_an_odd_reply_about_a_server_is_one_error_before_anything_is_sampled(
    refined: Checkpoint, fake: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    good = json.loads(fake.facts.body)
    ours, cpu = vars(fake.facts).copy(), torch.device("cpu")
    with serving(fake, models=fake.facts, question=lambda _: "") as (url, _):

        def connect() -> str | None:
            try:
                Server(refined.chat, url, device=cpu, timeout_s=3.0).close()
            except EngineError as error:
                return str(error)
            return None

        found = {}
        for name, response in (mutated(good) | RESPONSES | fine(good)).items():
            if name.startswith("world_size") and name.endswith((" number", "no number")):
                continue  # of workers that never come
            vars(fake.facts).update(vars(response))
            found[name] = connect()
            vars(fake.facts).update(ours)
        assert connect() is None
    assert all(found[name] is None for name in fine(good))
    assert all(found[name] for name in RESPONSES)
    for name in good:
        assert all(found[f"{name} is {kind}"] for kind in ("null", "a truth", "a list", "deep"))
    shown = [*filter(None, found.values()), caplog.text]
    assert all(each.replace("\n", "").isprintable() for each in shown)


def outcome(make: Callable[[], list[tuple[Completion, ...]]]) -> list[tuple[Completion, ...]] | str:
    """What is made, or why not."""
    try:
        return make()
    except EngineError as error:
        return str(error)


def check_sampled(found: list[tuple[Completion, ...]], checkpoint: Checkpoint) -> None:
    """They can be trained on."""
    room = checkpoint.model.get_input_embeddings().num_embeddings
    for (completion,) in found:
        assert all(type(each) is int and 0 <= each < room for each in completion.ids)
        assert all(map(math.isfinite, completion.logprobs))
        assert len(completion.ids) == len(completion.logprobs)
        assert completion.finish in get_args(Finish)


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
