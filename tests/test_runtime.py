"""One runtime: the device and precision of whoever samples, refers and trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from PIL import Image

from reground.api import Grounder
from reground.cli import app
from reground.errors import ConfigError
from reground.grounding.codecs import PixelLimits
from reground.model.load import Checkpoint, load
from reground.model.parts import reference_copy, replica, set_training
from reground.model.prompting import Prompter
from reground.model.runtime import Runtime, runtime_of
from reground.rollout.opening import opened
from reground.rollout.policy import Sampling
from reground.rollout.transformers_policy import TransformersPolicy, within
from reground.tinyworld import scenes as synth
from reground.training.method import LogProbs
from reground.training.packing import TrainGroup, TrainSequence, collate

CPU, GPU = torch.device("cpu"), torch.device("cuda")
BF16, FP32 = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("has_gpu", "asked", "expected"),
    [
        (False, {}, (CPU, FP32)),
        (True, {}, (GPU, None)),
        (True, {"dtype": "bfloat16"}, (GPU, BF16)),
        (True, {"device": "cpu"}, (CPU, FP32)),
        (False, {"dtype": "bfloat16"}, (CPU, BF16)),
    ],
)
def test_the_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, has_gpu: bool, asked: dict[str, str], expected: Any
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    found = Runtime.resolve(**asked)
    assert (found.device, found.dtype, found.autocast) == (*expected, None)


@pytest.mark.parametrize(
    ("dtype", "weights", "multiplied"), [(None, None, BF16), (BF16, None, BF16), (FP32, FP32, None)]
)
def test_training_on_a_gpu_multiplies_in_bfloat16(
    dtype: torch.dtype | None, weights: torch.dtype | None, multiplied: torch.dtype | None
) -> None:
    found = Runtime(device=GPU, dtype=dtype).for_training()
    assert (found.dtype, found.autocast) == (weights, multiplied)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"device": "cuda:7"}, "device 'cuda:7': this machine has no such device"),
        ({"device": "gpu0"}, "device 'gpu0': expected cpu, cuda or cuda:N"),
        ({"dtype": "int4"}, "dtype 'int4': expected one of float32, bfloat16, float16"),
    ],
)
def test_what_is_not_there_is_one_sentence(asked: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Runtime.resolve(**asked)


@pytest.fixture(scope="module")
def autocast() -> Checkpoint:
    """What a GPU does, on a CPU."""
    return load("tiny", runtime=Runtime(autocast=BF16))


def test_policy_reference_and_trainee_compute_alike(autocast: Checkpoint) -> None:
    chat, policy = autocast.chat, TransformersPolicy(autocast)
    module = LogProbs(autocast.model, temperature=0.9, banned_ids=chat.banned_ids)
    reference = reference_copy(module, runtime_of(autocast.model).autocast)
    prompter = Prompter.of(autocast)
    prompts = [prompter.prompt(synth.sample("referring", seed=3, index=i)) for i in range(16)]
    groups = policy.generate(prompts, n=4, sampling=Sampling(temperature=0.9, max_tokens=40))
    packed = [
        TrainGroup(prompt, tuple(TrainSequence(c.ids, (1.0,) * len(c.ids)) for c in group))
        for prompt, group in zip(prompts, groups, strict=True)
    ]
    batches = [collate([own], pad_id=chat.pad_id, device=CPU).batch for own in packed]
    trained = torch.cat([module(batch) for batch in batches])
    with torch.no_grad():
        referred = torch.cat([reference(batch) for batch in batches])
    assert torch.equal(trained, referred)  # the KL before any update is nothing
    sampled = torch.tensor([value for group in groups for each in group for value in each.logprobs])
    exact = load("tiny", runtime=Runtime())
    plain = LogProbs(exact.model, temperature=0.9, banned_ids=chat.banned_ids)
    with torch.no_grad():
        distance = (torch.cat([plain(batch) for batch in batches]) - trained).abs().mean()
    gap = (trained.detach() - sampled).abs()
    assert 0 < float(gap.mean()) < 0.7 * float(distance)  # rounding, in sums of another order
    firsts = torch.tensor([len(each.ids) for group in groups for each in group]).cumsum(0)[:-1]
    assert float(gap[firsts].max()) < 1e-5  # where the order is the same, nothing is left


def test_a_reference_shares_what_is_frozen_and_halves_what_is_multiplied() -> None:
    module = LogProbs(
        load("tiny", runtime=Runtime(autocast=BF16)).model, temperature=1.0, banned_ids=()
    )
    set_training(
        module.model, {"vision": "frozen", "merger": "full", "language": "full"}, rank=1, alpha=1
    )
    own, copied = (dict(each.named_parameters()) for each in (module, reference_copy(module, BF16)))
    for name, weight in own.items():
        shared = weight.data_ptr() == copied[name].data_ptr()
        assert shared != weight.requires_grad, name
        assert not copied[name].requires_grad
    kinds = {copied[name].dtype for name in own if name.endswith("q_proj.weight")}
    assert kinds == {BF16}
    assert copied["model.model.language_model.embed_tokens.weight"].dtype is FP32


def test_a_replica_is_kept_in_what_it_multiplies(autocast: Checkpoint) -> None:
    assert {each.dtype for each in replica(autocast.model, CPU).parameters()} == {BF16}


def test_weights_are_trained_in_float32_whatever_they_are_loaded_in() -> None:
    loaded = load("tiny", runtime=Runtime(dtype=BF16))
    how = {"vision": "frozen", "merger": "frozen", "language": "full"}
    set_training(loaded.model, how, rank=1, alpha=1)  # type: ignore[arg-type]
    for name, weight in loaded.model.named_parameters():
        assert weight.dtype is (FP32 if weight.requires_grad else BF16), name


def test_batches_are_bounded_by_tokens() -> None:
    assert list(within([30, 10, 10, 20, 90], 60)) == [[1, 2, 3], [0], [4]]


def test_vllm_takes_its_own_device() -> None:
    with pytest.raises(ConfigError, match="device meta with engine vllm, which takes"):
        opened("tiny", Runtime(device=torch.device("meta")), engine="vllm")


class Reached(Exception):
    """Stops a forward whose inputs were looked at."""


def test_model_and_inputs_are_on_the_device_of_the_runtime() -> None:
    loaded = load("tiny", runtime=Runtime(device=torch.device("meta"), dtype=BF16))
    assert {(each.device.type, each.dtype) for each in loaded.model.parameters()} == {
        ("meta", BF16)
    }
    seen: list[Any] = []

    def look(pixels: torch.Tensor, grids: torch.Tensor, **_: Any) -> None:
        seen.extend([pixels.device.type, pixels.dtype, grids.device.type])
        raise Reached

    def positions(ids: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
        seen.append(ids.device.type)  # the model's own rule reads numbers, which meta has not
        return ids.expand(3, -1, -1), None

    loaded.model.model.get_image_features = look
    loaded.model.model.get_rope_index = positions
    prompt = Prompter.of(loaded).prompt(synth.sample("referring", seed=3, index=0))
    with pytest.raises(Reached):
        TransformersPolicy(loaded).generate([prompt], n=1, sampling=Sampling(max_tokens=1))
    assert seen == ["meta", "meta", BF16, "meta"]


class Loaded(Exception):
    """A model was asked for, in the runtime that it holds."""


@pytest.mark.parametrize("verb", ["eval", "predict", "Grounder"])
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], (GPU, None)),
        (["--device", "cpu"], (CPU, FP32)),
        (["--dtype", "bfloat16"], (GPU, BF16)),
    ],
)
def test_whoever_loads_a_model_says_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verb: str, flags: list[str], expected: Any
) -> None:
    """With a GPU that is there by its word alone: what is asked of the loader is looked at."""

    def look(path: str, *, runtime: Runtime, limits: PixelLimits) -> None:
        raise Loaded(runtime.device, runtime.dtype)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("reground.rollout.opening.load", look)
    asked = dict(zip([flag[2:] for flag in flags[::2]], flags[1::2], strict=True))
    with pytest.raises(Loaded) as found:
        if verb == "Grounder":
            Grounder.from_pretrained("tiny", **asked)
        elif verb == "eval":
            where = ["--limit", "1", "--out", str(tmp_path / "out")]
            call(["eval", "--data", "synth:referring", *where, *flags])
        else:
            Image.new("RGB", (28, 28)).save(tmp_path / "grey.png")
            call(["predict", str(tmp_path / "grey.png"), "the cup", *flags])
    assert found.value.args == expected


def call(arguments: list[str]) -> None:
    typer.main.get_command(app)(arguments, standalone_mode=False)
