"""Training runs from end to end, with a model of the real architecture at the least size.

Run as a script, this file is a driver: it trains in child processes that are killed, or that are
the ranks of one run. Torch is imported once, and forked.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reground.config import dump, load
from reground.data import synth
from reground.data.source import open_dataset, save_dataset
from reground.errors import ConfigError, DataError, RunError, TrainingError
from reground.grounding.answers import Status
from reground.grounding.sample import Sample
from reground.model import tiny
from reground.model.load import load as load_checkpoint
from reground.model.load import save
from reground.model.prompting import Prompter
from reground.runs import RunDir
from reground.training.checkpoint import checkpoints
from reground.training.draw import Draws
from reground.training.grpo import Grpo
from reground.training.method import StepBatch
from reground.training.objective import EASY, HARD
from reground.training.run import train
from reground.training.settings import TrainConfig
from reground.training.sft import Sft
from reground.training.tally import Tally

Row = dict[str, Any]

STEPS = 10
TEACHING_STEPS = 70  # enough for some rollouts to be right, not for all
METHODS: dict[str, type[Sft] | type[Grpo]] = {"sft": Sft, "grpo": Grpo}
LORA = "tuning={vision: frozen, merger: full, language: lora, lora_rank: 2}"


@dataclass(frozen=True, slots=True)
class World:
    """Four samples, a model of random weights, and one that was taught the samples a little."""

    folder: Path
    four: Path
    one: Path
    random: Path
    taught: Path

    def config(self, method: str, *overrides: str, model: Path | None = None) -> TrainConfig:
        """The settings that all runs here share; GRPO starts from the taught model."""
        model = model or (self.taught if method == "grpo" else self.random)
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
                "grpo={group_size: 4, max_tokens: 26, temperature: 1.0}",
                *overrides,
            ],
        )

    def validation(self, *, every: int) -> str:
        return f"validation={{data: {self.four}, limit: 4, every: {every}, max_tokens: 26}}"

    def run(self, name: str, config: TrainConfig, **how: bool) -> RunDir:
        return train(config, self.folder / name, **how)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of another number of threads may round differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def world(one_thread: None, tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> World:
    folder = tmp_path_factory.mktemp("world")
    made = World(folder, *(folder / name for name in ("4.jsonl", "1.jsonl", "random", "taught")))
    samples = [synth.sample("referring@1-2", seed=0, index=index) for index in range(4)]
    save_dataset(made.four, samples)
    save_dataset(made.one, samples[:1])
    checkpoint = tiny.make(
        hidden=32,
        layers=1,
        heads=2,
        head_dim=16,
        vision_hidden=32,
        vision_depth=1,
        vision_heads=2,
        tokenizer=tokenizer,
    )
    checkpoint = dataclasses.replace(checkpoint, family="univg_r1_direct", prompt="tiny")
    save(checkpoint, made.random)
    optim = "optim={lr: 0.01, warmup: 0.1, final: 0.3}"
    made.run("taught", made.config("sft", f"steps={TEACHING_STEPS}", optim))
    return made


@pytest.fixture(scope="module")
def whole(world: World) -> Mapping[str, RunDir]:
    """Undisturbed runs, by method."""
    return {name: world.run(f"whole-{name}", case(world)) for name, case in CASES.items()}


CASES: dict[str, Callable[[World], TrainConfig]] = {
    "sft": lambda world: world.config("sft", world.validation(every=4)),
    "grpo": lambda world: world.config("grpo"),
    "grpo-lora": lambda world: world.config("grpo", LORA),
}


def rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def column(run: RunDir, name: str) -> list[float]:
    return [row[name] for row in rows(run.metrics) if name in row]


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


# ---- each method learns ------------------------------------------------------------------------


def test_sft_memorises_four_samples(world: World) -> None:
    losses = column(RunDir(world.taught), "loss")
    assert losses[0] > 5
    assert losses[-1] < 0.3
    assert column(RunDir(world.taught), "sft/nll") == pytest.approx(losses, rel=1e-5)


def test_dense_targets_are_learnt(world: World) -> None:
    mix = 'data=[{mix: {"synth:listing@2-3": 1.0}}]'
    run = world.run("dense", world.config("dense", mix, "steps=40", "optim.lr=0.01"))
    losses = column(run, "loss")
    assert mean(losses[-5:]) < 0.75 * mean(losses[:5])
    assert mean(column(run, "dense/box_l1")[-5:]) < mean(column(run, "dense/box_l1")[:5])


@pytest.mark.parametrize("weigh", ["tokens", "objects"])
def test_dense_targets_of_photos_are_learnt(world: World, tmp_path: Path, weigh: str) -> None:
    config = world.config("dense", "steps=80", "optim.lr=0.01", f"dense.weigh={weigh}")
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

    def samples(self, item: int, limit: int) -> list[Sample]:
        return [self.order[item]]


def test_grpo_raises_the_reward(world: World) -> None:
    config = world.config(
        "grpo",
        f"data=[{{mix: {{{json.dumps(str(world.one))}: 1.0}}}}]",
        "steps=24",
        "batch_size=2",
        "grpo.group_size=16",
        "optim.final=1.0",
    )
    reward = column(world.run("raised", config), "reward/total")
    assert mean(reward[-6:]) > mean(reward[:3]) + 0.15


@pytest.mark.parametrize(
    "overrides",
    [
        ("grpo.normalise=token",),
        ("grpo.normalise=dr_grpo", "grpo.difficulty=square"),
        ("grpo.kl=0.0", "grpo.difficulty=log"),
        ("grpo.updates_per_batch=3", "optim.lr=0.01", "optim.warmup=0.0"),
    ],
    ids=["token", "dr_grpo", "without-kl", "three-updates"],
)
def test_every_form_of_grpo_runs(world: World, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    config = world.config("grpo", "steps=3", *overrides)
    found = rows(train(config, tmp_path / "run").metrics)
    assert len(found) == 3
    kl = [row["objective/kl"] for row in found]
    assert (max(kl) > 0) == (config.grpo.kl > 0)
    clipped = max(row["objective/clip_share"] for row in found)
    assert (clipped > 0) == (config.grpo.updates_per_batch > 1), "one update has ratio 1"


# ---- what is logged ----------------------------------------------------------------------------


DIFFICULTY = ["difficulty/easy", "difficulty/medium", "difficulty/hard"]
PARSE = [f"parse/{status.value}" for status in Status]
LOGGED = {
    "step",
    "lr",
    "loss",
    "grad_norm",
    "advantage/spread",
    "advantage/zero_variance",
    "reward/total",
    "reward/iou",
    "reward/format",
    "difficulty/phi",
    "rollout/length",
    "rollout/truncated",
    "rollout/barren_batches",
    "objective/kl",
    "objective/clip_share",
    *DIFFICULTY,
    *PARSE,
}


def test_grpo_logs_every_figure(whole: Mapping[str, RunDir]) -> None:
    found = rows(whole["grpo"].metrics)
    assert [row["step"] for row in found] == list(range(1, STEPS + 1))
    for row in found:
        assert set(row) == LOGGED
        assert row["reward/total"] == pytest.approx(row["reward/iou"] + row["reward/format"])
        for shares in (DIFFICULTY, PARSE):
            assert sum(row[name] for name in shares) == pytest.approx(1)
        assert 0 < row["rollout/length"] <= 26
        assert 0 <= row["advantage/zero_variance"] <= 1
        assert 1 <= row["difficulty/phi"] <= math.e
    assert 0 < mean([row["parse/ok"] for row in found]) < 1


def test_the_difficulty_bins_are_those_of_the_groups(whole: Mapping[str, RunDir]) -> None:
    """Recomputed from the rollout log, where each group says its mean IoU."""
    groups = {(row["step"], row["sample"]): row for row in rows(whole["grpo"].rollouts)}
    assert len(groups) == STEPS * 4
    for row in rows(whole["grpo"].metrics):
        own = [group for (step, _), group in groups.items() if step == row["step"]]
        overlaps = [group["mean_iou"] for group in own]
        assert row["difficulty/hard"] == mean([m < HARD for m in overlaps])
        assert row["difficulty/easy"] == mean([m > EASY for m in overlaps])
        assert row["difficulty/phi"] == pytest.approx(mean([math.exp(1 - m) for m in overlaps]))
        assert row["reward/iou"] == pytest.approx(mean(overlaps))


def test_the_rollout_log_can_be_read_by_a_person(whole: Mapping[str, RunDir]) -> None:
    for row in rows(whole["grpo"].rollouts):
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
    last = rows(whole[case].timings)[-1]
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
    config = world.config("grpo")
    prompter = Prompter.of(load_checkpoint(str(world.taught)))
    method = Grpo(prompter, Draws(config.data, seed=0, total=40), config)
    batch = method.batch(1, range(4))
    assert batch.learnable
    for micro in batch.micros:
        assert micro.old_logprobs is None
        with torch.no_grad():
            old = method.module(micro.packed.batch)
        long = dataclasses.replace(micro, old_logprobs=old)
        losses, gradients = zip(
            *(_gradients(method, StepBatch([m], 16.0)) for m in (micro, long)), strict=True
        )
        torch.testing.assert_close(losses[0], losses[1])
        torch.testing.assert_close(gradients[0], gradients[1])
        assert float(gradients[0].abs().max()) > 0


def _gradients(method: Sft | Grpo, batch: StepBatch) -> tuple[Tensor, Tensor]:
    method.module.zero_grad()
    loss = torch.stack(
        [method.loss(method.module, m, batch.normaliser, Tally()) for m in batch.micros]
    ).sum()
    loss.backward()
    parts = [p.grad.flatten() for p in method.module.parameters() if p.grad is not None]
    return loss.detach(), torch.cat(parts)


# ---- accumulation, ranks, resume and kills change nothing --------------------------------------


def assert_same_training(found: RunDir, want: RunDir) -> None:
    """Invariant 6: the same samples and rollouts, every figure within 1e-5."""
    for one, other in zip(rows(found.metrics), rows(want.metrics), strict=True):
        # A policy gradient of opposite signs sums to little: its rounding is that of its parts.
        assert one == pytest.approx(other, rel=1e-5, abs=1e-7)
    if want.rollouts.exists():
        assert [_rollout_id(row) for row in rows(found.rollouts)] == [
            _rollout_id(row) for row in rows(want.rollouts)
        ]


def _rollout_id(row: Row) -> Row:
    return {name: row[name] for name in ("step", "sample", "rollout", "text", "reward")}


@pytest.mark.parametrize("method", METHODS)
def test_accumulation_changes_nothing(world: World, tmp_path: Path, method: str) -> None:
    runs = [
        train(
            world.config(method, "steps=3", f"micro_batch_tokens={tokens}"), tmp_path / str(tokens)
        )
        for tokens in (1, 100_000)
    ]
    assert_same_training(*runs)


@dataclass(frozen=True, slots=True)
class Job:
    """What the driver is asked for: a run by several ranks, or one that is killed and resumed."""

    config: str
    out: str
    ranks: int = 1
    kills: int = 0


JOBS: dict[str, Callable[[World], tuple[TrainConfig, int, int]]] = {
    "2-ranks-sft": lambda world: (world.config("sft", "steps=3", "batch_size=3"), 2, 0),
    "2-ranks-dense": lambda world: (
        world.config("dense", "steps=3", 'data=[{mix: {"synth:listing@2-3": 1.0}}]'),
        2,
        0,
    ),
    "2-ranks-grpo": lambda world: (world.config("grpo", "steps=3"), 2, 0),
    "2-ranks-grpo-without-kl": lambda world: (
        world.config("grpo", "steps=3", "grpo.kl=0.0", "grpo.group_size=2"),
        2,
        0,
    ),
    "killed-sft": lambda world: (_saving_often(CASES["sft"](world)), 1, 7),
    "killed-grpo": lambda world: (_saving_often(CASES["grpo"](world)), 1, 7),
}


def _saving_often(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(config, save_every=3)


@pytest.fixture(scope="module")
def driven(world: World) -> Mapping[str, Row]:
    """What the driver reports of each job: statuses of its processes, and how often it died."""
    jobs = {}
    for name, job in JOBS.items():
        config, ranks, kills = job(world)
        path = world.folder / f"{name}.yaml"
        path.write_text(dump(config))
        jobs[name] = dataclasses.asdict(Job(str(path), str(world.folder / name), ranks, kills))
    plan = world.folder / "jobs.json"
    plan.write_text(json.dumps(jobs))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, str(plan)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Row] = json.loads((world.folder / "report.json").read_text())
    for name, outcome in report.items():
        outcome["stderr"] = done.stderr
        outcome["run"] = RunDir(world.folder / name)
    return report


@pytest.mark.parametrize("name", [name for name in JOBS if name.startswith("2-ranks")])
def test_two_ranks_equal_one(
    world: World, driven: Mapping[str, Row], tmp_path: Path, name: str
) -> None:
    assert driven[name]["statuses"] == [0, 0], driven[name]["stderr"]
    config, _, _ = JOBS[name](world)
    assert_same_training(driven[name]["run"], train(config, tmp_path / "one"))


@pytest.mark.parametrize("method", METHODS)
def test_kills_leave_no_trace(
    whole: Mapping[str, RunDir], driven: Mapping[str, Row], method: str
) -> None:
    """SIGKILL just before random file operations, each time resumed; equal byte for byte."""
    outcome = driven[f"killed-{method}"]
    assert outcome["deaths"] >= 5, "too few kills to prove anything"
    assert outcome["statuses"] == [0], outcome["stderr"]
    _assert_same_bytes(outcome["run"], whole[method])
    left = sorted(path.name for path in outcome["run"].checkpoints.iterdir())
    assert left == ["step-000009", "step-000010"]


def _assert_same_bytes(found: RunDir, want: RunDir) -> None:
    assert found.metrics.read_text() == want.metrics.read_text()
    if want.rollouts.exists():
        assert found.rollouts.read_text() == want.rollouts.read_text()
    weights = [checkpoints(run)[-1].model / "model.safetensors" for run in (found, want)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    if (want.path / "best").exists():
        best = [run.path / "best" / "model.safetensors" for run in (found, want)]
        assert best[0].read_bytes() == best[1].read_bytes()


@pytest.mark.parametrize("case", CASES)
def test_nan_stops_the_run_and_resume_equals_an_undisturbed_one(
    world: World,
    whole: Mapping[str, RunDir],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
) -> None:
    """Ten steps equal five and five: the rows of steps 6 and 7 are made again, bit for bit."""
    config = dataclasses.replace(CASES[case](world), save_every=5)
    with monkeypatch.context() as patch:
        _poison(patch, METHODS[config.method], step=8)
        with pytest.raises(TrainingError, match=r"step 8: loss nan.*last good checkpoint"):
            train(config, tmp_path / "run")
    run = RunDir(tmp_path / "run")
    assert column(run, "loss") == column(whole[case], "loss")[:7]
    (kept,) = checkpoints(run)
    assert kept.step == 5
    parameters = load_checkpoint(str(kept.model)).model.parameters()
    assert all(bool(parameter.isfinite().all()) for parameter in parameters)
    train(config, run.path, resume=True)
    _assert_same_bytes(run, whole[case])


def _poison(patch: pytest.MonkeyPatch, method: type[Sft] | type[Grpo], *, step: int) -> None:
    """Make the loss of one step NaN; these runs have one micro-batch a step."""
    true_loss, calls = method.loss, iter(range(1, STEPS + 1))

    def loss(self: Any, module: nn.Module, micro: Any, normaliser: float, tally: Tally) -> Tensor:
        found: Tensor = true_loss(self, module, micro, normaliser, tally)
        return found * math.nan if next(calls) == step else found

    patch.setattr(method, "loss", loss)


def test_a_rate_that_blows_up_is_noticed(world: World, tmp_path: Path) -> None:
    config = world.config("sft", "optim={lr: 1e+30, warmup: 0.0}")
    with pytest.raises(TrainingError, match=r"lower optim\.lr"):
        train(config, tmp_path / "run")
    assert all(math.isfinite(loss) for loss in column(RunDir(tmp_path / "run"), "loss"))


def test_resuming_a_finished_run_changes_nothing(world: World, tmp_path: Path) -> None:
    config = world.config("sft", "steps=2", world.validation(every=1))
    run = train(config, tmp_path / "run")
    before = [path.read_bytes() for path in (run.metrics, run.timings, run.path / "best.json")]
    train(config, run.path, resume=True)
    after = [path.read_bytes() for path in (run.metrics, run.timings, run.path / "best.json")]
    assert before == after


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = world.config("sft", "steps=3", world.validation(every=2))
    want = train(config, tmp_path / "want")
    with monkeypatch.context() as patch, pytest.raises(TrainingError):
        _poison(patch, Sft, step=2)
        train(config, tmp_path / "run")
    run = train(config, tmp_path / "run", resume=True)
    assert [row["step"] for row in rows(run.metrics)] == [0, 1, 2, 3]
    _assert_same_bytes(run, want)


def test_an_unfinished_checkpoint_is_neither_resumed_nor_loaded(
    world: World, tmp_path: Path
) -> None:
    run = train(world.config("sft", "steps=2", "save_every=1"), tmp_path / "run")
    first, second = checkpoints(run)
    second.path.rename(second.path.with_suffix(".partial"))  # as a kill before the rename leaves it
    assert checkpoints(run) == [first]
    assert _same_weights(run.path, first.model)


@pytest.mark.parametrize("case", ["sft", "dense", "grpo-lora"])
def test_a_run_depends_on_its_config_alone(world: World, tmp_path: Path, case: str) -> None:
    """Not on what drew random numbers in this process before."""
    scenes = 'data=[{mix: {"synth:listing@2-3": 1.0}}]'
    config = CASES[case](world) if case in CASES else world.config(case, scenes)
    config = dataclasses.replace(config, steps=2, validation=None)
    figures = []
    for number in range(2):
        torch.manual_seed(number)
        random.seed(number)
        figures.append(train(config, tmp_path / str(number)).metrics.read_text())
    assert figures[0] == figures[1]


def test_prompts_made_in_two_threads_are_the_same(world: World) -> None:
    """A batch is made ahead in a thread, while validation asks with the same tokenizer."""
    chat = load_checkpoint(str(world.random)).chat
    text = "the red one <|im_end|>"
    want = chat.prompt([], text).ids
    found: set[tuple[int, ...]] = set()

    def ask() -> None:
        found.update(chat.prompt([], text).ids for _ in range(1500))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {want}


# ---- validation --------------------------------------------------------------------------------


def test_the_best_model_is_kept(world: World, tmp_path: Path) -> None:
    """Training that destroys a good model: the best is the one before."""
    config = world.config(
        "sft",
        "steps=3",
        "optim={lr: 0.3, warmup: 0.0}",
        "save_every=1",
        world.validation(every=1),
        model=world.taught,
    )
    run = train(config, tmp_path / "run")
    scores = column(run, "validation/acc@0.5")
    assert len(scores) == 4
    assert scores[0] > max(scores[1:])
    best = json.loads((run.path / "best.json").read_text())
    assert best == {"step": 0, "validation/acc@0.5": scores[0]}
    assert _same_weights(run.path / "best", checkpoints(RunDir(world.taught))[-1].model)
    assert not _same_weights(run.path / "best", checkpoints(run)[-1].model)


def _same_weights(first: Path, second: Path) -> bool:
    states = [load_checkpoint(str(path)).model.state_dict() for path in (first, second)]
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_better_model_replaces_the_best(world: World, whole: Mapping[str, RunDir]) -> None:
    scores = {
        row["step"]: row["validation/acc@0.5"]
        for row in rows(whole["sft"].metrics)
        if "validation/acc@0.5" in row
    }
    assert list(scores) == [0, 4, 8, 10]
    best = json.loads((whole["sft"].path / "best.json").read_text())
    assert best["validation/acc@0.5"] == max(scores.values())
    assert best["step"] == next(step for step in scores if scores[step] == max(scores.values()))


# ---- runs that cannot go on, or cannot start ---------------------------------------------------


def test_batches_without_variance_are_counted_and_then_an_error(
    world: World, tmp_path: Path
) -> None:
    config = world.config("grpo", "grpo.patience=3", "grpo.max_tokens=4", model=world.random)
    with pytest.raises(TrainingError, match=r"step 3: 3 batches in a row.*iou, format") as raised:
        train(config, tmp_path / "run")
    assert "grpo.temperature" in str(raised.value)
    run = RunDir(tmp_path / "run")
    assert column(run, "rollout/barren_batches") == [1, 2]
    assert column(run, "advantage/zero_variance") == [1, 1]


def test_the_count_of_barren_batches_survives_a_resume(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = world.config(
        "grpo", "grpo.patience=4", "grpo.max_tokens=4", "save_every=2", model=world.random
    )
    with monkeypatch.context() as patch, pytest.raises(TrainingError, match="step 3: loss nan"):
        _poison(patch, Grpo, step=3)
        train(config, tmp_path / "run")
    with pytest.raises(TrainingError, match="step 4: 4 batches"):
        train(config, tmp_path / "run", resume=True)


def test_a_batch_without_variance_trains_nothing_without_kl(world: World, tmp_path: Path) -> None:
    config = world.config("grpo", "steps=2", "grpo.kl=0.0", "grpo.max_tokens=4", model=world.random)
    run = train(config, tmp_path / "run")
    assert column(run, "grad_norm") == [0, 0]
    assert column(run, "loss") == [0, 0]


def test_resume_with_another_config_names_the_keys(
    world: World, whole: Mapping[str, RunDir]
) -> None:
    config = dataclasses.replace(CASES["grpo"](world), seed=3)
    config = dataclasses.replace(config, grpo=dataclasses.replace(config.grpo, kl=0.5))
    before = whole["grpo"].metrics.read_bytes()
    with pytest.raises(RunError, match=r"seed: 0 -> 3; grpo\.kl: 0\.04 -> 0\.5"):
        train(config, whole["grpo"].path, resume=True)
    assert whole["grpo"].metrics.read_bytes() == before


def test_an_occupied_folder_is_refused(world: World, whole: Mapping[str, RunDir]) -> None:
    with pytest.raises(RunError, match="already holds a run; give --resume"):
        train(CASES["sft"](world), whole["sft"].path)


def test_clean_starts_anew(world: World, tmp_path: Path) -> None:
    runs = [
        train(world.config("sft", f"steps={steps}"), tmp_path / "run", clean=True)
        for steps in (3, 2)
    ]
    assert [row["step"] for row in rows(runs[1].metrics)] == [1, 2]


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["data.0.mix={empty.jsonl: 1.0}"], DataError, "holds no sample"),
        (["data.0.mix={absent.jsonl: 1.0}"], DataError, "no such file"),
        (["validation={data: empty.jsonl}"], DataError, "holds no sample"),
        (["tuning={vision: frozen, merger: frozen, language: frozen}"], ConfigError, "frozen"),
        (["family=univg_r2"], ConfigError, "did you mean 'univg_r1'"),
        (["prompt=tinny"], ConfigError, "did you mean 'tiny'"),
    ],
)
def test_what_cannot_start_leaves_no_folder(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: list[str],
    error: type[Exception],
    message: str,
) -> None:
    """So that the mended command works as it stands, without --clean."""
    monkeypatch.chdir(tmp_path)
    Path("empty.jsonl").write_text("")
    with pytest.raises(error, match=message):
        train(world.config("sft", *overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_clean_keeps_the_old_run_where_the_new_one_cannot_start(
    world: World, tmp_path: Path
) -> None:
    run = train(world.config("sft", "steps=1"), tmp_path / "run")
    before = run.metrics.read_bytes()
    with pytest.raises(DataError):
        train(world.config("sft", "data.0.mix={absent.jsonl: 1.0}"), run.path, clean=True)
    assert run.metrics.read_bytes() == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stepz=3", "stepz: unknown key; did you mean 'steps'?"),
        ("optim.lrr=1", "optim.lrr: unknown key; did you mean 'optim.lr'?"),
        ("grpo.group_sise=4", "did you mean 'grpo.group_size'?"),
        ("group_size=4", "did you mean 'grpo.group_size'?"),
        ("tuning.visions=full", "did you mean 'tuning.vision'?"),
        ("method=ppo", "method: found \"ppo\", expected 'dense', 'sft' or 'grpo'"),
        ("steps=many", 'steps: found "many", expected an integer'),
        ("grpo.group_size=1", "group_size must be at least 2"),
        ("grpo.temperature=0", "temperature must be above 0"),
        ("grpo.top_p=0.9", "grpo.top_p: unknown key"),  # training refuses a cut distribution
        ("data=[]", "data phases must end in rising order"),
        ("data.0.until=0.5", "the last at 1.0; found [0.5]"),
    ],
)
def test_a_wrong_setting_is_explained(world: World, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        world.config("grpo", override)
    assert message in str(raised.value)


# ---- the driver --------------------------------------------------------------------------------

_FILE_EVENTS = frozenset({"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"})
_REMOVALS = frozenset({"os.remove", "os.rmdir"})  # paths relative to an open folder
_OPERATIONS = range(4, 45)  # between two kills
_LONGEST = 60  # seconds that a child may live


def drive(plan: Path) -> None:
    """Do the jobs of ``plan`` and write how each ended beside it."""
    report = {}
    for name, values in json.loads(plan.read_text()).items():
        job = Job(**values)
        config, out = load(TrainConfig, Path(job.config)), Path(job.out)
        report[name] = _killed(config, out, job) if job.kills else _by_ranks(config, out, job)
    (plan.parent / "report.json").write_text(json.dumps(report))


def _by_ranks(config: TrainConfig, out: Path, job: Job) -> Row:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [
        _fork(partial(_train_as, rank, job.ranks, port, config, out)) for rank in range(job.ranks)
    ]
    statuses = []
    for _ in range(job.ranks):
        child, status = os.wait()
        children.remove(child)
        statuses.append(status)
        if status:  # the others would wait for it for ever
            for other in children:
                os.kill(other, signal.SIGKILL)
    return {"statuses": statuses}


def _train_as(rank: int, ranks: int, port: int, config: TrainConfig, out: Path) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    os.environ |= {name: str(value) for name, value in names.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    train(config, out)


def _killed(config: TrainConfig, out: Path, job: Job) -> Row:
    """Kill the run at random points and resume it each time; at last leave it in peace."""
    rng, deaths = random.Random(job.out.rpartition("/")[2]), 0
    for _ in range(job.kills):
        countdown = rng.choice(_OPERATIONS)
        _, status = os.waitpid(_fork(partial(_train_until, countdown, config, out)), 0)
        deaths += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    _, status = os.waitpid(_fork(partial(_train_until, None, config, out)), 0)
    return {"statuses": [status], "deaths": deaths}


def _train_until(countdown: int | None, config: TrainConfig, out: Path) -> None:
    """Train or resume; with a countdown die just before that file operation."""
    resume = (out / "config.yaml").exists()
    if not resume:
        shutil.rmtree(out, ignore_errors=True)
    if countdown:
        sys.addaudithook(partial(_die, out=str(out), countdown=iter(range(countdown, 0, -1))))
    train(config, out, resume=resume)


def _die(event: str, arguments: tuple[Any, ...], *, out: str, countdown: Iterator[int]) -> None:
    """An audit hook: SIGKILL to this process where the countdown of file operations ends."""
    if event not in _FILE_EVENTS:
        return
    in_run = event in _REMOVALS or str(arguments[0]).startswith(out)
    if in_run and next(countdown, None) == 1:
        print(f"killed before {event} {arguments[0]}", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


def _fork(action: Callable[[], None]) -> int:
    """Start a child for ``action``; returns its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    signal.alarm(_LONGEST)  # ranks that have lost each other wait for ever
    try:
        action()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    torch.set_num_threads(1)
    drive(Path(sys.argv[1]))
