"""A small world to train in: four samples, models of random weights, and shared settings."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from files import read_rows
from reground.config import load
from reground.data.source import save_dataset
from reground.grounding.sample import Sample
from reground.model.load import load as load_checkpoint
from reground.model.load import save
from reground.protocols.choice import Answering
from reground.protocols.rethink import with_rethink
from reground.rollout.tools.tool import Request
from reground.runs import RunDir
from reground.tinyworld import models as tiny
from reground.tinyworld import scenes as synth
from reground.tinyworld.oracle import Oracle
from reground.training.checkpoint import checkpoints
from reground.training.rl import Reinforcement
from reground.training.run import train
from reground.training.settings import TrainConfig
from reground.training.sft import Sft
from reground.training.tally import Tally

Row = dict[str, Any]

STEPS = 10
TEACHING_STEPS = 70  # enough for some rollouts to be right, not for all
METHODS: dict[str, type[Sft] | type[Reinforcement]] = {"sft": Sft, "rl": Reinforcement}
REFINING_STEPS = 120  # enough for most rollouts to call, and some to be right
REFINER = ("protocol=think_rethink", "prompt=tiny_refiner")
LORA = "tuning={vision: frozen, merger: full, language: lora, lora_rank: 2}"


@dataclass(frozen=True, slots=True)
class World:
    """Four samples, a model of random weights, and two that were taught the samples a little.

    ``told`` are the samples with a detector's boxes and chains about them, which ``refining`` was
    taught.
    """

    folder: Path
    four: Path
    one: Path
    random: Path
    taught: Path
    told: Path
    refining: Path

    def config(self, method: str, *overrides: str, model: Path | None = None) -> TrainConfig:
        """The settings that all runs here share; GRPO starts from the taught model."""
        model = model or (self.taught if method == "rl" else self.random)
        return load(
            TrainConfig,
            None,
            [
                f"method={method}",
                f"model={model}",
                f"data=[{{mix: {{{json.dumps(str(self.four))}: 1.0}}}}]",
                f"steps={STEPS}",
                "batch_size=4",
                "optim={lr: 0.001, warmup: 0.2}",
                "rollout={group_size: 4, max_tokens: 26, temperature: 1.0}",
                *overrides,
            ],
        )

    def refiner(self, *overrides: str) -> TrainConfig:
        """GRPO of rollouts that ask a live tool."""
        return self.config(
            "rl",
            *REFINER,
            'tools.specs=["oracle:weak"]',
            "rollout={group_size: 4, max_tokens: 90, temperature: 1.0}",
            "algorithm.difficulty=none",
            "rewards=[{type: iou, weight: 0.1}, {type: refinement_format, weight: 0.1},"
            " {type: refinement, weight: 0.8}]",
            *overrides,
            model=self.refining,
        )

    def validation(self, *, every: int) -> str:
        return f"validation={{data: {self.four}, limit: 4, every: {every}, max_tokens: 26}}"

    def run(self, name: str, config: TrainConfig, **how: bool) -> RunDir:
        return train(config, self.folder / name, **how)


def make_world(folder: Path) -> World:
    """Write the samples, make the models, teach one."""
    names = ("4.jsonl", "1.jsonl", "random", "taught", "told.jsonl", "refining")
    made = World(folder, *(folder / name for name in names))
    samples = [synth.sample("referring@1-2", seed=0, index=index) for index in range(4)]
    save_dataset(made.four, samples)
    save_dataset(made.one, samples[:1])
    found = Oracle.of("weak").detect([Request(sample, sample.question) for sample in samples])
    save_dataset(made.told, map(_with_chain, samples, found))
    checkpoint = tiny.make(
        hidden=32,
        layers=1,
        heads=2,
        head_dim=16,
        vision_hidden=32,
        vision_depth=1,
        vision_heads=2,
    )
    answering = Answering(family="univg_r1", protocol="direct", prompts={"direct": "tiny"})
    checkpoint = dataclasses.replace(checkpoint, answering=answering)
    save(checkpoint, made.random)
    optim = "optim={lr: 0.01, warmup: 0.1, final: 0.3}"
    made.run("taught", made.config("sft", f"steps={TEACHING_STEPS}", optim))
    told = f"data=[{{mix: {{{json.dumps(str(made.told))}: 1.0}}}}]"
    steps = f"steps={REFINING_STEPS}"
    made.run("refining", made.config("sft", *REFINER, told, steps, optim))
    return made


def _with_chain(sample: Sample, found: object) -> Sample:
    assert isinstance(found, tuple)
    return with_rethink(dataclasses.replace(sample, tool_results=found), first_thought="there.")


@contextmanager
def single_thread() -> Iterator[None]:
    """Sums of another number of threads may round differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


CASES: dict[str, Callable[[World], TrainConfig]] = {
    "sft": lambda world: world.config("sft", world.validation(every=4)),
    "grpo": lambda world: world.config("rl"),
    "grpo-lora": lambda world: world.config("rl", LORA),
    "refiner": lambda world: world.refiner(),
}


def column(run: RunDir, name: str) -> list[float]:
    return [row[name] for row in read_rows(run.metrics) if name in row]


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def poison(
    patch: pytest.MonkeyPatch, method: type[Sft] | type[Reinforcement], *, step: int
) -> None:
    """Make the loss of one step NaN; these runs have one micro-batch a step."""
    true_loss, calls = method.loss, iter(range(1, STEPS + 1))

    def loss(self: Any, module: nn.Module, micro: Any, normaliser: float, tally: Tally) -> Tensor:
        found: Tensor = true_loss(self, module, micro, normaliser, tally)
        return found * math.nan if next(calls) == step else found

    patch.setattr(method, "loss", loss)


def same_weights(first: Path, second: Path) -> bool:
    states = [load_checkpoint(str(path)).model.state_dict() for path in (first, second)]
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def assert_same_bytes(found: RunDir, want: RunDir) -> None:
    """A run that was disturbed left what an undisturbed one did."""
    rows, wanted = (run.metrics.read_text().splitlines() for run in (found, want))
    unlike = [pair for pair in zip_longest(rows, wanted) if pair[0] != pair[1]]
    assert not unlike, f"{len(unlike)} of {len(wanted)} rows differ, the first: {unlike[0]}"
    if want.rollouts.exists():
        assert found.rollouts.read_text() == want.rollouts.read_text()
    weights = [checkpoints(run)[-1].model / "model.safetensors" for run in (found, want)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    if (want.path / "best").exists():
        best = [run.path / "best" / "model.safetensors" for run in (found, want)]
        assert best[0].read_bytes() == best[1].read_bytes()
