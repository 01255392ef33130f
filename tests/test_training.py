"""Every method learns, and logs what it did."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from files import read_rows
from reground.config import load
from reground.data.source import open_dataset, save_dataset
from reground.errors import ConfigError, DataError
from reground.grounding.answers import Status
from reground.grounding.sample import Sample
from reground.model.load import load as load_checkpoint
from reground.model.prompting import Prompter
from reground.recipes import names, recipe
from reground.rollout.environment import PlannedEnvironment
from reground.rollout.transformers_policy import TransformersPolicy
from reground.runs import RunDir
from reground.teacher.settings import TeachConfig
from reground.tinyworld import scenes as synth
from reground.training.algorithms.parts import EASY, HARD
from reground.training.draw import Draws
from reground.training.method import StepBatch
from reground.training.rl import Reinforcement
from reground.training.run import train
from reground.training.settings import TrainConfig
from reground.training.sft import Sft
from reground.training.tally import Tally
from worlds import (
    STEPS,
    World,
    column,
    mean,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_sft_memorises_four_samples(world: World) -> None:
    losses = column(RunDir(world.taught), "loss")
    assert losses[0] > 5
    assert losses[-1] < 0.3
    assert column(RunDir(world.taught), "sft/nll") == pytest.approx(losses, rel=1e-5)


def test_rows_without_a_chain_are_named(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They teach an empty thought where their protocol thinks."""
    sample = replace(synth.sample("referring", seed=1, index=0), think=None)
    for protocol, said in (("think", 1), ("direct", 0)):
        data = tmp_path / f"{protocol}.jsonl"
        save_dataset(data, [replace(sample, protocol=protocol)])
        mix = f"data=[{{mix: {{{json.dumps(str(data))}: 1.0}}}}]"
        caplog.clear()
        train(world.config("sft", mix, "steps=2"), tmp_path / protocol)
        assert caplog.text.count("such rows teach an empty thought") == said


def test_dense_targets_are_learnt(world: World, tmp_path: Path) -> None:
    mix = 'data=[{mix: {"synth:listing@2-3": 1.0}}]'
    run = train(world.config("dense", mix, "steps=40", "optim.lr=0.01"), tmp_path / "run")
    losses = column(run, "loss")
    assert mean(losses[-5:]) < 0.75 * mean(losses[:5])
    assert mean(column(run, "dense/box_l1")[-5:]) < mean(column(run, "dense/box_l1")[:5])


@pytest.mark.parametrize("weigh", ["tokens", "objects"])
def test_dense_targets_of_photos_are_learnt(world: World, tmp_path: Path, weigh: str) -> None:
    config = world.config("dense", "steps=80", "optim.lr=0.01", f"method_settings.weigh={weigh}")
    run = train(config, tmp_path / "run")
    losses = column(run, "loss")
    assert mean(losses[-5:]) < 0.75 * mean(losses[:5])
    assert mean(column(run, "dense/object_accuracy")[-5:]) > 0.7


def test_dense_targets_come_from_scenes_or_files(world: World, tmp_path: Path) -> None:
    mix = f'data=[{{mix: {{{json.dumps(str(world.four))}: 1.0, "synth:listing": 1.0}}}}]'
    with pytest.raises(DataError, match="draw from scenes or from files"):
        train(world.config("dense", mix), tmp_path / "run")


def test_questions_about_an_image_share_it_and_nothing_else(world: World, tmp_path: Path) -> None:
    (first, second, *_) = open_dataset(str(world.four))
    other = dataclasses.replace(first, id="other", question="the thing on the left, please")
    save_dataset(tmp_path / "shared.jsonl", [first, second, other])
    mix = f"data=[{{mix: {{{json.dumps(str(tmp_path / 'shared.jsonl'))}: 1.0}}}}]"
    prompter = Prompter.of(load_checkpoint(str(world.taught)))
    config = world.config("sft", mix, "sft.questions_per_image=2")
    method = Sft(prompter, Draws(config.data, seed=0, total=3), config)
    batch = method.batch(1, range(3))  # an epoch: the first image twice, with both its questions
    (micro,) = batch.micros
    assert len(micro.batch.images) == 3
    assert sorted((micro.batch.weights.sum(-1) > 0).sum(-1).tolist()) == [1, 2, 2]

    alone = world.config("sft", mix)
    samples = [first, other, second, other, first]
    draws = Drawn(samples)
    expected = Sft(prompter, draws, alone)  # type: ignore[arg-type]
    separate = expected.batch(1, range(5))
    assert batch.normaliser == separate.normaliser
    found, want = (_gradients(own, made) for own, made in ((method, batch), (expected, separate)))
    torch.testing.assert_close(found[0], want[0])
    torch.testing.assert_close(found[1], want[1], rtol=1e-4, atol=1e-6)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Samples in the given order in place of ``Draws``."""

    order: Sequence[Sample]

    def usable(self, item: int, ask: Callable[[list[Sample]], Any], limit: int) -> Any:
        return ask([self.order[item]])


def test_grpo_raises_the_reward(world: World) -> None:
    config = world.config(
        "rl",
        f"data=[{{mix: {{{json.dumps(str(world.one))}: 1.0}}}}]",
        "steps=24",
        "batch_size=4",
        "rollout.group_size=16",
        "optim.final=1.0",
    )
    reward = column(world.run("raised", config), "reward/total")
    assert mean(reward[-6:]) > mean(reward[:3]) + 0.15


@pytest.mark.parametrize(
    "overrides",
    [
        ("algorithm.normalise=token",),
        ("algorithm={type: dr_grpo, kl: 0.04}",),
        ("algorithm.kl=0.0", "algorithm.difficulty=log"),
        ("rollout.updates_per_batch=3", "optim.lr=0.01", "optim.warmup=0.0"),
    ],
    ids=["token", "dr_grpo", "without-kl", "three-updates"],
)
def test_every_form_of_grpo_runs(world: World, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    config = world.config("rl", "steps=3", *overrides)
    found = read_rows(train(config, tmp_path / "run").metrics)
    assert len(found) == 3
    kl = [row["objective/kl"] for row in found]
    assert (max(kl) > 0) == (config.algorithm.kl > 0)
    clipped = max(row["objective/clip_share"] for row in found)
    assert (clipped > 0) == (config.rollout.updates_per_batch > 1), "one update has ratio 1"


# ---- what is logged ----------------------------------------------------------------------------


DIFFICULTY = ["difficulty/easy", "difficulty/medium", "difficulty/hard"]
PARSE = [f"parse/{status.value}" for status in Status]
FRAMES = ["frame/declared", "frame/thousand_yx"] + [
    f"frame/{kind}{order}"
    for kind in ("pixels", "input", "unit", "square")
    for order in ("", "_yx")
]
LOGGED = {
    "step",
    "lr",
    "loss",
    "grad_norm",
    "grad_norm/vision",
    "grad_norm/merger",
    "grad_norm/language",
    "varied/iou",
    "varied/format",
    "rollout/best",
    *FRAMES,
    "advantage/spread",
    "advantage/zero_variance",
    "reward/total",
    "reward/iou",
    "reward/format",
    "difficulty/phi",
    "rollout/length",
    "rollout/over_long",
    "rollout/completed",
    "rollout/no_call",
    "rollout/tool_failed",
    "rollout/groups",
    "rollout/zero_variance_batches",
    "rollout/logprob_gap",
    "rollout/logprob_gap_max",
    "objective/kl",
    "objective/clip_share",
    *DIFFICULTY,
    *PARSE,
}


def test_grpo_logs_every_figure(whole: Mapping[str, RunDir]) -> None:
    found = read_rows(whole["grpo"].metrics)
    assert [row["step"] for row in found] == list(range(1, STEPS + 1))
    for row in found:
        assert set(row) == LOGGED
        assert row["reward/total"] == pytest.approx(row["reward/iou"] + row["reward/format"])
        for shares in (DIFFICULTY, PARSE):
            assert sum(row[name] for name in shares) == pytest.approx(1)
        assert 0 < row["rollout/length"] <= 26
        parts = [row[f"grad_norm/{part}"] for part in ("vision", "merger", "language")]
        assert row["grad_norm"] == pytest.approx(math.hypot(*parts)) and min(parts) > 0
        assert 0 <= row["advantage/zero_variance"] <= 1
        assert 1 <= row["difficulty/phi"] <= math.e
    assert 0 < mean([row["parse/ok"] for row in found]) < 1


def test_the_difficulty_bins_are_those_of_the_groups(whole: Mapping[str, RunDir]) -> None:
    """Recomputed from the rollout log, where each group says its mean IoU."""
    groups = {(row["step"], row["sample"]): row for row in read_rows(whole["grpo"].rollouts)}
    assert len(groups) == STEPS * 4
    for row in read_rows(whole["grpo"].metrics):
        own = [group for (step, _), group in groups.items() if step == row["step"]]
        overlaps = [group["mean_iou"] for group in own]
        assert row["difficulty/hard"] == mean([m < HARD for m in overlaps])
        assert row["difficulty/easy"] == mean([m > EASY for m in overlaps])
        assert row["difficulty/phi"] == pytest.approx(mean([math.exp(1 - m) for m in overlaps]))
        assert row["reward/iou"] == pytest.approx(mean(overlaps))


def test_the_rollout_log_can_be_read_by_a_person(whole: Mapping[str, RunDir]) -> None:
    for row in read_rows(whole["grpo"].rollouts):
        assert row["question"] and isinstance(row["text"], str)
        assert 0 <= row["rollout"] < 4
        assert row["reward"] == pytest.approx(row["reward/iou"] + row["reward/format"])
        assert (row["status"] == "ok") >= (row["reward/iou"] > 0)


@pytest.mark.parametrize(
    ("case", "phases"), [("sft", {"batch", "update", "validate"}), ("grpo", {"batch", "update"})]
)
def test_wall_clock_figures_have_a_file_of_their_own(
    whole: Mapping[str, RunDir], case: str, phases: set[str]
) -> None:
    last = read_rows(whole[case].timings)[-1]
    assert {f"seconds/{phase}" for phase in phases} <= set(last)
    assert all(value >= 0 for value in last.values())
    assert b"seconds" not in whole[case].metrics.read_bytes()


def test_kl_starts_at_the_reference(whole: Mapping[str, RunDir]) -> None:
    for case in ("grpo", "grpo-lora"):
        divergence = column(whole[case], "objective/kl")
        assert divergence[0] < 1e-9
        assert max(divergence) > 1e-6


def test_with_one_update_old_log_probs_may_be_left_out(world: World) -> None:
    """The shortcut of one update a batch gives the loss and gradients of the long way."""
    config = world.config("rl")
    prompter = Prompter.of(load_checkpoint(str(world.taught)))
    draws = Draws(config.data, seed=0, total=40)
    policy = TransformersPolicy(prompter.checkpoint)
    method = Reinforcement(prompter, draws, PlannedEnvironment(prompter, ()), policy, config)
    batch = method.batch(1, range(4))
    assert batch.learnable
    for micro in batch.micros:
        assert micro.old is None
        with torch.no_grad():
            old = method.module(micro.batch)
        long = micro.with_streams(old=old, reference=None)
        losses, gradients = zip(
            *(_gradients(method, StepBatch([m], 16.0)) for m in (micro, long)), strict=True
        )
        torch.testing.assert_close(losses[0], losses[1])
        torch.testing.assert_close(gradients[0], gradients[1])
        assert float(gradients[0].abs().max()) > 0


def _gradients(method: Sft | Reinforcement, batch: StepBatch) -> tuple[Tensor, Tensor]:
    method.module.zero_grad()
    loss = torch.stack(
        [method.loss(method.module, m, batch.normaliser, Tally()) for m in batch.micros]
    ).sum()
    loss.backward()
    parts = [p.grad.flatten() for p in method.module.parameters() if p.grad is not None]
    return loss.detach(), torch.cat(parts)


OF_BENCHMARKS = Path(__file__).parents[1] / "benchmarks/configs"
CONFIGS = [*map(recipe, names()), *sorted(OF_BENCHMARKS.rglob("*.yaml"))]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: "/".join(path.parts[-2:]))
def test_every_shipped_config_is_one(path: Path) -> None:
    if path.stem in ("objects", "questions"):  # what `reground data convert voc` asks
        pytest.skip("no training config")
    if path.stem == "teach":
        assert load(TeachConfig, path).data
        return
    assert load(TrainConfig, path).steps >= 1


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            ["method=sft", "tools.specs=[precomputed]"],
            "tools are asked by rollouts; sft makes none",
        ),
        (["rewards=[{type: refinement}]"], "is about a detector's boxes; set tools.specs"),
        (["rewards=[{type: iou, weight: 0}]"], "every weight is 0"),
        (["tools.max_calls=0"], "tools.max_calls: found 0"),
        (["min_pixels=9", "max_pixels=4"], "min_pixels 9 is above max_pixels 4"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(
    overrides: Sequence[str], problem: str
) -> None:
    data = 'data=[{mix: {"synth:diff": 1.0}}]'
    with pytest.raises(ConfigError, match=problem):
        load(TrainConfig, None, ["method=rl", data, *overrides])


def test_prompts_side_by_side_are_those_one_by_one(world: World) -> None:
    prompter = Prompter.of(load_checkpoint(str(world.random)))
    samples = list(open_dataset("synth:diff", seed=5, limit=9)[:])
    for ours, theirs in zip(prompter.each(samples), map(prompter.prompt, samples), strict=True):
        assert ours.ids == theirs.ids
        for one, two in zip(ours.images, theirs.images, strict=True):
            assert torch.equal(one.pixel_values, two.pixel_values)
    gone = dataclasses.replace(samples[3].images[0], path="gone.png")
    samples[3] = dataclasses.replace(samples[3], images=(gone, *samples[3].images[1:]))
    with pytest.raises(DataError, match=r"gone\.png"):
        prompter.each(samples)


def test_more_ranks_than_samples_are_refused_before_a_model_is_read(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda _: 8))
    config = world.config("rl", "batch_size=4", model=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"batch_size is 4 for 8 ranks, which is 0.5 for each"):
        train(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["tools.specs=[precomputed]"], "protocol direct never asks for tools.specs"),
        (["protocol=think_rethink"], "asks a tool and there is none"),
        (
            ["protocol=think_rethink", "tools.specs=[precomputed]"],
            r"sample 'referring.*' has no tool_results, which the tool 'precomputed' reads",
        ),
        (
            [
                'data=[{mix: {"synth:diff": 1.0}}]',
                "protocol=think_rethink",
                "tools.specs=[precomputed]",
            ],
            r"sample 'diff-0-0' has no tool_results",
        ),
        (["protocol=think_rethink", 'tools.specs=["oracle:wek"]'], "did you mean 'weak'"),
    ],
)
def test_tools_that_a_run_cannot_have_are_named(
    world: World, tmp_path: Path, overrides: Sequence[str], problem: str
) -> None:
    config = world.config("rl", *overrides)
    with pytest.raises((ConfigError, DataError), match=problem):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
